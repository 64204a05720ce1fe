"""Perplexity against llama-perplexity and against a float64 computation of its definition."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.errors import EngineError, FormatError
from ggsurgery.files.text import read_corpus
from ggsurgery.measure.metrics.perplexity import Perplexity, perplexity, perplexity_of_file
from ggsurgery.runtime import worker
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.quantize import quantize
from tests._llama_tools import llama_tool
from tests._needs import needs_smollm2
from tests._small_models import write_small_model
from tests._tiny import MODEL, REPORT_TEXT, SEARCH_TEXT

WORDS = "It was a bright cold day, and the clocks of the town were striking all at once. " * 40


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    return write_small_model(path, width=96, n_layers=3, vocabulary_of=needs_smollm2())


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("smollm2")
    shipped = needs_smollm2()
    f16 = folder / "f16.gguf"
    quantize(shipped, f16, "F16", allow_requantize=True)
    q8 = folder / "q8_0.gguf"
    quantize(f16, q8, "Q8_0")
    return {"shipped": shipped, "f16": f16, "q8_0": q8}


@pytest.mark.parametrize("n_ctx", [4, 5, 7])
def test_contexts_of_a_few_tokens(n_ctx: int) -> None:
    text = SEARCH_TEXT.read_text(encoding="utf-8")
    found = worker.run(perplexity_of_file, MODEL, text, n_ctx=n_ctx, n_chunks=300)
    assert (len(found.chunks), found.n) == (300, 300 * (n_ctx - n_ctx // 2 - 1))


def test_a_bos_that_the_vocabulary_lacks_is_not_claimed() -> None:
    text = SEARCH_TEXT.read_text(encoding="utf-8")
    with Engine.open(MODEL, n_ctx=64) as engine:
        assert engine.bos is not None
        engine.bos = None
        with pytest.raises(EngineError, match="no BOS token"):
            perplexity(engine, text, 64, 2, add_bos=True)


def theirs(model: Path, text: Path, n_ctx: int, n_chunks: int, *more: str) -> tuple[float, float]:
    """Perplexity and error as llama-perplexity prints them."""
    command = [
        llama_tool("llama-perplexity"),
        "-m",
        str(model),
        "-f",
        str(text),
        "-c",
        str(n_ctx),
        "--chunks",
        str(n_chunks),
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    match = re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", done.stdout + done.stderr)
    assert match, done.stderr[-500:]
    return float(match[1]), float(match[2])


def agree(ours: Perplexity, printed: tuple[float, float]) -> None:
    assert f"{ours.value:.4f}" == f"{printed[0]:.4f}"
    assert f"{ours.stderr:.5f}" == f"{printed[1]:.5f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n_ctx", "bos"),
    [
        ("shipped", 512, False),
        ("shipped", 1024, True),
        ("f16", 512, True),
        ("f16", 1024, False),
        ("q8_0", 512, False),
        ("q8_0", 1024, True),
    ],
)
def test_equal_to_llama_perplexity(
    smollm2: dict[str, Path], kind: str, n_ctx: int, bos: bool
) -> None:
    override = ["--override-kv", f"tokenizer.ggml.add_bos_token=bool:{str(bos).lower()}"]
    printed = theirs(smollm2[kind], REPORT_TEXT, n_ctx, 2, *override)
    model, words = smollm2[kind], read_corpus(REPORT_TEXT)
    agree(
        worker.run(perplexity_of_file, model, words, n_ctx=n_ctx, n_chunks=2, add_bos=bos), printed
    )


def test_small_model_equals_llama_perplexity_at_odd_settings(small: Path, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text(WORDS + "\n")
    printed = theirs(small, text, 100, 5)
    ours = perplexity_of_file(small, read_corpus(text), n_ctx=100, n_chunks=5)
    # random weights: a perplexity of 125541, of which four decimals are ten digits
    assert (ours.value, ours.stderr) == pytest.approx(printed, rel=1e-6)


def test_one_chunk_after_the_other_gives_the_same(small: Path) -> None:
    together = perplexity_of_file(small, WORDS, n_ctx=64, n_chunks=6)
    with Engine.open(small, n_ctx=64) as engine:
        one = perplexity(engine, WORDS, 64, 6)
    assert one.value == pytest.approx(together.value, rel=1e-5)
    assert len(one.chunks) == 6 == len(together.chunks)


@pytest.mark.parametrize("bos", [False, True])
def test_the_definition_in_float64(small: Path, bos: bool) -> None:
    n_ctx, half = 64, 32
    with Engine.open(small, n_ctx=n_ctx) as engine:
        found = perplexity(engine, WORDS, n_ctx, 3, add_bos=bos)
        tokens = np.array([engine.bos] * bos + engine.tokenize(WORDS))
        losses = []
        for i in range(3):
            chunk = tokens[i * n_ctx : (i + 1) * n_ctx].copy()
            if bos:
                chunk[0] = engine.bos
            engine.reset()
            exact = engine.decode(chunk, logits="all").astype(np.float64)
            exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
            losses.append([-exact[j, chunk[j + 1]] for j in range(half, n_ctx - 1)])
    flat = np.array(losses)
    assert found.n == flat.size
    np.testing.assert_allclose(found.chunks, flat.mean(axis=1), rtol=1e-5)
    assert found.value == pytest.approx(np.exp(flat.mean()), rel=1e-5)
    assert found.stderr == pytest.approx(
        found.value * flat.std() / np.sqrt(flat.size - 1), rel=1e-4
    )
    assert found.score.items == found.chunks
    assert found.score.provenance["n_ctx"] == n_ctx


def test_too_short_says_how_many_tokens(small: Path) -> None:
    with (
        Engine.open(small, n_ctx=512) as engine,
        pytest.raises(EngineError, match=r"at least 512 tokens .one window., found 3"),
    ):
        perplexity(engine, "far too short", 512)
    with Engine.open(small, n_ctx=64) as engine, pytest.raises(EngineError, match="found 0"):
        perplexity(engine, "", 64)


def test_context_larger_than_opened(small: Path) -> None:
    with Engine.open(small, n_ctx=64) as engine, pytest.raises(EngineError, match="4 to 64"):
        perplexity(engine, WORDS, 128)


def test_nan_names_the_layer(small: Path, tmp_path: Path) -> None:
    from ggsurgery.ggufio.reader import Source

    with Source(small) as source:
        info = source.header.by_name["blk.1.ffn_down.weight"]
        at = source.position(info)
    broken = bytearray(small.read_bytes())
    broken[at : at + 2] = np.float16(np.nan).tobytes()
    path = tmp_path / "nan.gguf"
    path.write_bytes(broken)
    with Engine.open(path, n_ctx=64) as engine, pytest.raises(EngineError, match=r"ffn_out-1"):
        perplexity(engine, WORDS, 64, 2)


def test_text_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(FormatError, match=r"latin1\.txt: not a UTF-8 text: found byte 0xe9 at 3"):
        read_corpus(tmp_path / "latin1.txt")
    with pytest.raises(FormatError, match="cannot be read"):
        read_corpus(tmp_path / "nothing.txt")
