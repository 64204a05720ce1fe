"""The engine against itself in other batchings, and against the weights in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggsurgery.errors import EngineError, FormatError
from ggsurgery.ggufio.reader import Source
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.memory import peak_memory
from ggsurgery.runtime.scoring import log_softmax_at
from tests.fixtures.base import base
from tests.fixtures.make import outline, weights, write

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all."


def test_facts_of_the_model(small: Path) -> None:
    with Engine.open(small) as engine:
        assert (engine.n_layer, engine.n_embd, engine.n_vocab) == (3, 96, 49152)
        assert engine.n_ctx_train == 2048
        assert (engine.bos, engine.eos, engine.add_bos) == (1, 2, False)
        assert {engine.eos} <= engine.eog
        assert engine.chat_template is None


@pytest.mark.parametrize(
    ("arch", "message"),
    [("bert", "gives no logits: it makes embeddings"), ("t5", "with an encoder")],
)
def test_models_that_predict_no_tokens_are_refused(arch: str, message: str, tmp_path: Path) -> None:
    plan = outline(arch, base(arch, 2))
    path = write(tmp_path / "e.gguf", arch, plan.keys, weights(plan))
    with (
        pytest.raises(EngineError, match=f"e.gguf: .*{message}"),
        Engine.open(path, n_ctx=8) as engine,
    ):
        engine.decode([1, 2], logits="all")
    if arch == "bert":  # its memory and the inputs of its weights can be measured
        assert peak_memory(path, 64)["bytes"] > 0


def test_logits_that_are_zero_are_logits(tmp_path: Path) -> None:
    plan = outline("llama", base("llama", 2))
    tensors = weights(plan)
    tensors["output.weight"] = np.zeros_like(tensors["output.weight"])
    path = write(tmp_path / "z.gguf", "llama", plan.keys, tensors)
    with Engine.open(path, n_ctx=8) as engine:
        assert not engine.decode([1, 2], logits="all").any()


def test_tokens_round_trip(small: Path) -> None:
    with Engine.open(small) as engine:
        tokens = engine.tokenize(TEXT)
        assert engine.detokenize(tokens) == TEXT
        assert b"".join(engine.piece(t) for t in tokens).decode() == TEXT
        assert engine.tokenize("<|im_start|>", parse_special=True) == [1]
        assert len(engine.tokenize("<|im_start|>")) > 1


def test_pieces_give_the_logits_of_the_whole(small: Path) -> None:
    with Engine.open(small, n_ctx=64) as engine:
        tokens = engine.tokenize(TEXT)
        whole = engine.decode(tokens, logits="all")
        assert whole.shape == (len(tokens), engine.n_vocab)
        engine.reset()
        first = engine.decode(tokens[:5], logits="none")
        assert first.shape == (0, engine.n_vocab)
        rest = engine.decode(tokens[5:], logits=slice(0, 3))
        np.testing.assert_allclose(rest, whole[5:8], atol=1e-3)
        # going back: what the cache holds behind `start` is dropped
        again = engine.decode(tokens[4:], logits="last", start=4)
        np.testing.assert_allclose(again[0], whole[-1], atol=1e-3)


def test_small_batches_give_the_same(small: Path) -> None:
    with Engine.open(small, n_ctx=64, observe=["l_out-1"]) as engine:
        tokens = engine.tokenize(TEXT)
        whole, hidden = engine.decode(tokens, logits="all"), engine.observed["l_out-1"]
    with Engine.open(small, n_ctx=64, n_batch=7, observe=["l_out-1"]) as engine:
        pieces = engine.decode(tokens, logits="all")
        assert hidden.shape == (len(tokens), 96)
        np.testing.assert_allclose(engine.observed["l_out-1"], hidden, atol=1e-3)
    np.testing.assert_allclose(pieces, whole, atol=1e-2)


def test_embeddings_in_place_of_tokens(small: Path) -> None:
    with Source(small) as source, Engine.open(small, n_ctx=64) as engine:
        info = source.header.by_name["token_embd.weight"]
        table = np.frombuffer(source.data(info), np.float16).reshape(info.shape[::-1])
        tokens = engine.tokenize(TEXT)
        expected = engine.decode(tokens, logits="all")
        engine.reset()
        found = engine.decode_embeddings(table[tokens].astype(np.float32), logits="all")
        np.testing.assert_allclose(found, expected, atol=1e-4)
        del table
        with pytest.raises(EngineError, match=r"expected \[n, 96\], found \[2, 5\]"):
            engine.decode_embeddings(np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("count", [1, 3, 18])
def test_shared_prefix_equals_scoring_each_whole(small: Path, count: int) -> None:
    with Engine.open(small, n_ctx=256) as engine:
        prefix = engine.tokenize(TEXT)
        random = np.random.default_rng(count)
        ends = [random.integers(0, engine.n_vocab, n).tolist() for n in range(1, count + 1)]
        ends = [e[:9] for e in ends]
        found = engine.logprobs(prefix, ends)
        for end, values in zip(ends, found, strict=True):
            engine.reset()
            logits = engine.decode([*prefix, *end], logits="all")
            expected = log_softmax_at(logits[len(prefix) - 1 : -1], np.array(end))
            # F16 products round differently in batches of other sizes
            np.testing.assert_allclose(values, expected, atol=2e-2)


def test_log_softmax_against_float64(small: Path) -> None:
    random = np.random.default_rng(3)
    logits = (random.standard_normal((40, 50_000)) * 8).astype(np.float32)
    targets = random.integers(0, 50_000, 40)
    exact = logits.astype(np.float64)
    top = exact.max(axis=1)
    total = np.log(np.exp(exact - top[:, None]).sum(axis=1))
    expected = exact[np.arange(40), targets] - top - total
    np.testing.assert_allclose(log_softmax_at(logits, targets), expected, atol=2e-6)


def test_greedy_generation_is_the_likeliest_token_each_time(small: Path) -> None:
    with Engine.open(small, n_ctx=64) as engine:
        tokens = engine.tokenize(TEXT)
        said = engine.generate(tokens, max_tokens=8)
        expected = list(tokens)
        for token in said.tokens:
            engine.reset()
            assert token == int(engine.decode(expected, logits="last")[0].argmax())
            expected.append(token)
        assert said.reason == "length"
        assert said.text == engine.detokenize(said.tokens)
        piece = engine.piece(said.tokens[3]).decode("utf-8", "replace")
        stopped = engine.generate(tokens, max_tokens=8, stop=[piece])
        assert stopped.reason == "stop"
        assert piece not in stopped.text
        sampled = [
            engine.generate(tokens, max_tokens=8, temperature=1.5, seed=s).tokens for s in (1, 1, 2)
        ]
        assert sampled[0] == sampled[1] != sampled[2]


def test_generation_ends_with_the_context(small: Path) -> None:
    with Engine.open(small, n_ctx=32) as engine:
        said = engine.generate([5] * 30, max_tokens=50)
        assert said.reason in ("length", "eog")
        assert len(said.tokens) <= 2


def test_observed_by_predicate(small: Path) -> None:
    with Engine.open(small, observe=lambda name: name.startswith("ffn_inp-")) as engine:
        engine.decode([1, 2, 3], logits="all")
        assert set(engine.observed) == {"ffn_inp-0", "ffn_inp-1", "ffn_inp-2"}
        assert {v.shape for v in engine.observed.values()} == {(3, 96)}


def test_an_error_in_the_hook_arrives(small: Path) -> None:
    def broken(name: str) -> bool:
        raise ValueError("my own fault")

    with Engine.open(small, observe=broken) as engine, pytest.raises(ValueError, match="my own"):
        engine.decode([1, 2])


def test_bad_calls(small: Path, wordless: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such file"):
        Engine.open(tmp_path / "nothing.gguf")
    for options in (
        {"n_ctx": 0},
        {"n_ctx": 3, "n_seq": 4},
        {"n_ctx": 64, "n_batch": 2, "n_seq": 4},
    ):
        with pytest.raises(EngineError, match="no room for a token of every sequence"):
            Engine.open(small, **options)
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    with pytest.raises(FormatError, match=r"no\.gguf: file header: GGUF version not supported"):
        Engine.open(tmp_path / "no.gguf")
    with Engine.open(small, n_ctx=32) as engine:
        with pytest.raises(EngineError, match="expected 0 to 49151, found 49152"):
            engine.decode([49152])
        with pytest.raises(EngineError, match="context is full: expected at most 32 tokens"):
            engine.decode([1] * 33)
        with pytest.raises(EngineError, match="empty prefix"):
            engine.logprobs([], [[1]])
        with pytest.raises(EngineError, match="do not fit"):
            engine.logprobs([1] * 30, [[1] * 5])
    with Engine.open(wordless) as engine, pytest.raises(EngineError, match="no vocabulary"):
        engine.tokenize("x")
