"""The PyTorch networks against llama.cpp: logits of tiny models of every architecture, and of real
ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from ggsurgery.compensate.distil.form import PAIRS, form_of
from ggsurgery.compensate.distil.network import Network
from ggsurgery.errors import ArchitectureError, FormatError
from ggsurgery.files.text import read_corpus
from ggsurgery.ggufio.header import read_header
from ggsurgery.runtime.quantize import quantize
from ggsurgery.runtime.vocab_only import VocabularyFile
from tests._gguf import tiny_llama
from tests._needs import needs_smollm2, needs_torch
from tests._numpy_qwen3 import Qwen3
from tests._scales import with_scales_of
from tests._small_models import write_small_model
from tests._tiny import MODEL, REPORT_TEXT
from tests.fixtures import families, llama
from tests.fixtures.base import base
from tests.fixtures.network import Network as Fixture

#: Largest difference of logits as a share of their range: llama.cpp rounds to F16 in places
#: (activations of a matrix product with F16 weights, GELU by a table).
EQUAL = 2e-3

#: Longer than the windows of 8 tokens that the fixtures have.
TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 64, 40)]

NAMES = ("llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "gemma3 of 62 layers")


def ours(path: Path, tokens: list[int]) -> np.ndarray:
    torch = needs_torch()
    network = Network.load(path)
    with torch.no_grad():
        return np.asarray(network.logits(network.states(torch.tensor(tokens))).numpy())


def theirs(path: Path, tokens: list[int]) -> np.ndarray:
    (found,) = llama.in_child(llama.all_logits, [str(path)], tokens)
    assert isinstance(found, np.ndarray), found
    return found


def difference(path: Path, tokens: list[int]) -> float:
    """Largest difference of the last positions' logits as a share of their range."""
    expected = theirs(path, tokens)
    found = ours(path, tokens)[-len(expected) :]
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.ptp(expected))


def test_every_architecture_has_a_fixture() -> None:
    assert {families.recipes()[name].arch for name in NAMES} == set(PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_tiny_models(name: str, tmp_path: Path) -> None:
    path = Fixture(families.recipes()[name], tmp_path).write("model.gguf")
    assert difference(path, TOKENS) < EQUAL


@pytest.mark.slow
def test_stretched_positions(tmp_path: Path) -> None:
    """Linear scaling, and in gemma3 another base and no scaling in windowed layers."""
    stretched = {
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 4.0,
        "rope.freq_base": 5e4,
        "rope.freq_base_swa": 3e3,
    }
    for arch in ("llama", "gemma3"):
        recipe = families.Recipe(arch, keys=lambda name, n: base(name, n) | stretched)
        path = Fixture(recipe, tmp_path).write(f"{arch}.gguf")
        assert difference(path, TOKENS) < EQUAL


@pytest.mark.slow
def test_experts_of_a_llama(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "mixtral.gguf", width=64, n_layers=3, n_experts=4)
    assert difference(path, TOKENS) < EQUAL


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-qwen3", "SmolLM2 in F16", "SmolLM2"])
def test_logits_of_trained_models(model: str, tmp_path: Path) -> None:
    """Largest differences found: 0.012 %, 0.075 % and 2.5 % of the logits' range.

    llama.cpp rounds the activations in front of SmolLM2's Q4_1 weights to 8 bits.
    """
    path = MODEL if model == "tiny-qwen3" else needs_smollm2()
    if model.endswith("F16"):
        quantize(path, tmp_path / "f16.gguf", "F16", allow_requantize=True)
        path = tmp_path / "f16.gguf"
    with VocabularyFile(path) as vocabulary:
        tokens = vocabulary.tokenize(read_corpus(REPORT_TEXT))[:64]
    assert difference(path, tokens) < (0.05 if model == "SmolLM2" else EQUAL)


@pytest.mark.slow
def test_states_equal_float64_numpy() -> None:
    torch = needs_torch()
    oracle = Qwen3(MODEL)
    expected = oracle.last_hidden(np.array(TOKENS), range(oracle.n_layers))
    network = Network.load(MODEL)
    with torch.no_grad():
        found = network.states(torch.tensor(TOKENS)).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_recomputing_layers_changes_no_gradient() -> None:
    torch = needs_torch()
    network = Network.load(MODEL)
    name = "blk.2.attn_q.weight"
    gradients = []
    for checkpoint in (False, True):
        weight = network.weights[name].detach().requires_grad_(True)
        network.weights[name] = weight
        network.states(torch.tensor(TOKENS), checkpoint=checkpoint).square().sum().backward()
        gradients.append(weight.grad.numpy())
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_separate_scales_are_multiplied_in(tmp_path: Path) -> None:
    needs_torch()
    scaled = Network.load(with_scales_of(MODEL, tmp_path / "scaled.gguf", {3: 0.25}))
    plain = Network.load(MODEL)
    assert set(scaled.weights) == set(plain.weights)
    for name, weight in plain.weights.items():
        np.testing.assert_allclose(scaled.weights[name].numpy(), weight.numpy(), rtol=1e-6)


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "gemma2")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArchitectureError, match="architecture gemma2 cannot be trained"):
        form_of(read_header(path))


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("llama.rope.scaling.type", "yarn", ArchitectureError),
        ("llama.rope.scaling.attn_factor", 2.0, ArchitectureError),
        ("llama.attention.value_length", 8, ArchitectureError),
        ("llama.rope.freq_base", "x", FormatError),
    ],
)
def test_settings_without_a_network_are_refused(
    key: str, value: object, error: type[Exception], tmp_path: Path
) -> None:
    kinds = {str: GGUFWriter.add_string, float: GGUFWriter.add_float32, int: GGUFWriter.add_uint32}
    path = tiny_llama(tmp_path / "m.gguf", meta=lambda w: kinds[type(value)](w, key, value))
    with pytest.raises(error, match=key.replace(".", r"\.")):
        form_of(read_header(path))


def test_unknown_tensors_are_refused_by_name(tmp_path: Path) -> None:
    path = tiny_llama(
        tmp_path / "m.gguf",
        meta=lambda w: w.add_tensor("blk.1.attn_sinks.weight", np.ones(4, np.float32)),
    )
    with pytest.raises(ArchitectureError, match=r"blk\.1\.attn_sinks\.weight"):
        form_of(read_header(path))
