"""Trimming a vocabulary: the rows, lists and ids that stay, and the logits of what they mean."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from ggsurgery.errors import ArchitectureError, FormatError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.runtime.quantize import quantize
from ggsurgery.runtime.vocab_only import VocabularyFile
from ggsurgery.surgery.prepare import prepare, prepare_replay
from ggsurgery.surgery.vocab_map import VocabMap
from ggsurgery.tensors.parts import counts_tokens

from .._llama_source import llama_source
from .._needs import needs_smollm2
from .._tiny import MODEL, REPORT_TEXT
from ..fixtures import families, llama
from ..fixtures.base import VOCAB
from ..fixtures.network import Network
from ..tokenizer import _trimmed

#: Architectures with each kind of tensor that counts tokens.
FAMILIES = ("llama", "qwen3", "gemma3", "gemma3n", "gemma4", "glm4moe", "phi2", "command-r")


def trim(source: Path, kept: VocabMap, out: Path, *more) -> Path:
    kept.save(out.with_suffix(".json"), force=True)
    recipe = Recipe((kept.step(out.with_suffix(".json")), *more))
    with prepare(recipe, [source]) as prepared:
        assert not prepared.faults
        assert not prepared.layout.computes
        prepared.write(out, force=True)
    return out


def logits(path: Path, tokens) -> np.ndarray:
    (found,) = llama.in_child(llama.all_logits, [str(path)], [int(t) for t in tokens])
    assert not isinstance(found, str), found
    return found


def used_by(path: Path, text: str) -> list[int]:
    with VocabularyFile(path) as vocabulary:
        return vocabulary.tokenize(text, add_special=False)


def padded(path: Path, tokens, multiple: int = 64) -> VocabMap:
    """A map with these tokens and some more, in a multiple of 64."""
    kept = set(_trimmed.keeping(path, tokens).old_ids)
    for token in range(len(_trimmed.vocabulary(path).tokens)):
        if len(kept) % multiple == 0:
            break
        kept = set(_trimmed.keeping(path, {*kept, token}).old_ids)
    return VocabMap(len(_trimmed.vocabulary(path).tokens), tuple(sorted(kept)))


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K"])
def test_logits_of_kept_tokens_are_the_same_bits(kind: str, tmp_path: Path) -> None:
    source = MODEL
    if kind != "F16":
        source = tmp_path / "in.gguf"
        quantize(MODEL, source, kind, n_threads=1)
    used = used_by(MODEL, REPORT_TEXT.read_text("utf-8")[:400])[:48]
    kept = padded(MODEL, used)
    assert kept.after < 800
    out = trim(source, kept, tmp_path / "out.gguf")
    before, after = logits(source, used), logits(out, [kept.new_ids[i] for i in used])
    assert np.ptp(before) > 1
    np.testing.assert_array_equal(before[:, list(kept.old_ids)], after)


@pytest.mark.slow
def test_logits_of_a_real_model_are_the_same_bits(tmp_path: Path) -> None:
    source = needs_smollm2()
    used = used_by(source, "The quick brown fox jumps over the lazy dog, and then it sleeps.\n" * 2)
    kept = padded(source, used)
    out = trim(source, kept, tmp_path / "out.gguf")
    before, after = logits(source, used), logits(out, [kept.new_ids[i] for i in used])
    np.testing.assert_array_equal(before[:, list(kept.old_ids)], after)
    assert out.stat().st_size < 0.75 * source.stat().st_size


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_follows(arch: str, tmp_path: Path) -> None:
    """Random networks get a vocabulary of letters; rows of every tensor that counts tokens go."""
    recipe = families.recipes().get(arch) or families.Recipe(arch)
    network = Network(recipe, tmp_path)
    letters = [chr(0x21 + n) for n in range(60)] + ['"#', "#$", '"#$', "%&"]
    steps = [
        step("set", key="tokenizer.ggml.model", value="gpt2"),
        step("set", key="tokenizer.ggml.pre", value="gpt-2"),
        step("set", key="tokenizer.ggml.tokens", value=letters),
        step("set", key="tokenizer.ggml.merges", value=['" #', "# $", '"# $', "% &"]),
        step("set", key="tokenizer.ggml.eos_token_id", value=50),
    ]
    assert len(letters) == VOCAB
    with prepare(Recipe(tuple(steps)), [network.write("plain.gguf")]) as prepared:
        prepared.write(tmp_path / "in.gguf")
    source = tmp_path / "in.gguf"
    kept = VocabMap(VOCAB, tuple(i for i in range(VOCAB) if i % 4 or i > 58))
    out = trim(source, kept, tmp_path / "out.gguf")
    header = read_header(out)
    cut = {t.name for t in header.tensors if counts_tokens(t.name)}
    assert "token_embd.weight" in cut
    assert ("per_layer_token_embd.weight" in cut) == (arch in ("gemma3n", "gemma4"))
    before = {t.name: t.data for t in GGUFReader(source).tensors}
    for tensor in GGUFReader(out).tensors:
        old = before[tensor.name]
        expected = old[list(kept.old_ids)] if tensor.name in cut else old
        np.testing.assert_array_equal(tensor.data, expected, tensor.name)
    size = f"{arch}.vocab_size"
    assert size not in header.metadata or header.get(size) == kept.after
    assert header.get("tokenizer.ggml.eos_token_id") == kept.new_ids[50]
    # bos has no entry: llama.cpp takes token 11, which is another one now
    assert header.get("tokenizer.ggml.bos_token_id") == kept.new_ids[11]
    assert not [f for f in verify(header) if f.severity == "error"]
    tokens = np.random.default_rng(1).choice(kept.old_ids, recipe.n_tokens)
    first, second = logits(source, tokens), logits(out, [kept.new_ids[int(i)] for i in tokens])
    np.testing.assert_allclose(first[:, list(kept.old_ids)], second, rtol=1e-5, atol=1e-5)


def test_every_entry_of_an_id_follows(tmp_path: Path) -> None:
    tokens = _trimmed.vocabulary(MODEL).tokens
    arrays = [
        step("set", key="tokenizer.ggml.suppress_tokens", value=[5, 700, 9], type="array[int32]"),
        step("set", key="tokenizer.ggml.eot_token_id", value=900),
        step("set", key="{arch}.ple.image_token_id", value=901),
        step("set", key="{arch}.adapters.token_ids_activate", value=[902, 300]),
        step("set", key="{arch}.vocab_size", value=len(tokens)),
    ]
    with prepare(Recipe(tuple(arrays)), [MODEL]) as prepared:
        prepared.write(tmp_path / "in.gguf")
    source = tmp_path / "in.gguf"
    kept = _trimmed.keeping(source, [900, 901, 902, 300, 5, 9])
    assert 700 not in kept.new_ids
    header = read_header(trim(source, kept, tmp_path / "out.gguf"))

    def texts(ids):
        listed = header.get("tokenizer.ggml.tokens")
        return [listed[i] for i in ids]

    assert texts(header.get("tokenizer.ggml.suppress_tokens")) == [tokens[5], tokens[9]]
    assert texts([header.get("tokenizer.ggml.eot_token_id")]) == [tokens[900]]
    assert texts([header.get("{arch}.ple.image_token_id")]) == [tokens[901]]
    assert texts(header.get("{arch}.adapters.token_ids_activate")) == [tokens[902], tokens[300]]
    assert header.get("{arch}.vocab_size") == kept.after
    assert len(header.get("tokenizer.ggml.token_type")) == kept.after
    missing = VocabMap(kept.before, tuple(i for i in kept.old_ids if i != 901))
    with pytest.raises(PlanError, match=r"the map lacks token 901 .*ple.image_token_id names"):
        trim(source, missing, tmp_path / "no.gguf")


def test_the_tensors_that_count_tokens_are_those_of_the_loader() -> None:
    """Against llama.cpp's source: every tensor that is asked for with `n_vocab` rows."""
    names = dict(
        re.findall(
            r'\{ LLM_TENSOR_(\w+), +"([^"]+)" \}',
            (llama_source() / "src/llama-arch.cpp").read_text(),
        )
    )
    pattern = r"create_tensor\(tn\(LLM_TENSOR_(\w+), *\"(\w+)\".*\{[^{}]*\bn_vocab *\}"
    drafts = {"dflash.cpp", "eagle3.cpp"}
    seen = set()
    for path in (llama_source() / "src/models").glob("*.cpp"):
        if path.name not in drafts:
            for name, end in re.findall(pattern, path.read_text()):
                seen.add(f"{names[name]}.{end}".replace("%d", "3"))
    assert len(seen) >= 6
    assert {name for name in seen if not counts_tokens(name)} == set()


def test_replay_and_the_checksum(tmp_path: Path) -> None:
    kept = _trimmed.keeping(MODEL, range(300, 500))
    out = trim(MODEL, kept, tmp_path / "out.gguf")
    with prepare_replay(out, [MODEL]) as prepared:
        again = prepared.write(tmp_path / "again.gguf").path
    assert again.read_bytes() == out.read_bytes()
    header = read_header(out)
    recipe = json.loads(header.get("ggsurgery.recipe"))
    (operation,) = recipe["operations"]
    assert operation["trim_vocab"] == {
        "map": "out.json",
        "ids": {"sha256": kept.sha256, "before": kept.before, "after": kept.after},
    }
    other = VocabMap(kept.before, kept.old_ids[:-1])
    other.save(tmp_path / "out.json", force=True)
    with pytest.raises(FormatError, match="the map's checksum differs"):
        prepare_replay(out, [MODEL])
    (tmp_path / "out.json").unlink()
    with pytest.raises(FormatError, match=r"out\.json"):
        prepare_replay(out, [MODEL])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "not a list of tokens to keep"),
        ([3, 2], "not a list of tokens to keep"),
        ([0, 4000], "not a list of tokens to keep"),
    ],
)
def test_bad_lists_are_refused(ids, words) -> None:
    with pytest.raises(PlanError, match=words):
        VocabMap(1024, tuple(ids))


def test_maps_and_models_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"another vocabulary: expected 1024 tokens, found 1025"):
        trim(MODEL, VocabMap(1025, tuple(range(900))), tmp_path / "a.gguf")
    whole = VocabMap(1024, tuple(range(1024)))
    with pytest.raises(PlanError, match="trimmed twice"):
        trim(MODEL, whole, tmp_path / "a.gguf", whole.step("a.json"))
    listed = step("set", key="tokenizer.ggml.colours", value=[1] * 1024)
    with prepare(Recipe((listed,)), [MODEL]) as prepared:
        prepared.write(tmp_path / "in.gguf")
    with pytest.raises(ArchitectureError, match="unknown list has one entry a token"):
        trim(tmp_path / "in.gguf", whole, tmp_path / "a.gguf")
    with pytest.raises(FormatError, match="not a map of a vocabulary"):
        (tmp_path / "no.json").write_text("{}")
        VocabMap.load(tmp_path / "no.json")
    assert not (tmp_path / "a.gguf").exists()


def test_keeping_all_changes_no_tensor_and_no_list(tmp_path: Path) -> None:
    out = trim(MODEL, VocabMap(1024, tuple(range(1024))), tmp_path / "out.gguf")
    before, after = read_header(MODEL), read_header(out)
    assert {k: v.raw for k, v in before.metadata.items() if k.startswith("tokenizer")} == {
        k: v.raw for k, v in after.metadata.items() if k.startswith("tokenizer")
    }
    old = {t.name: t.data for t in GGUFReader(MODEL).tensors}
    for tensor in GGUFReader(out).tensors:
        np.testing.assert_array_equal(tensor.data, old[tensor.name], tensor.name)
