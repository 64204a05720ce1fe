"""Shared prefixes give the figures of whole texts, whatever was decoded before."""

from __future__ import annotations

import numpy as np
import pytest

from ggsurgery.measure.metrics.choices import score_question
from ggsurgery.measure.questions import Question, prompts
from ggsurgery.measure.suite.run import run_suite
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.scoring import log_softmax_at
from tests._needs import needs_smollm2
from tests._small_models import write_small_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    write_small_model(path, width=64, n_layers=3, vocabulary_of=needs_smollm2(), float16=False)
    with Engine.open(path, n_ctx=1536) as opened:
        yield opened


def whole(engine: Engine, prefix: list[int], tokens: list[int]) -> float:
    engine.reset()
    wanted = slice(len(prefix) - 1, len(prefix) + len(tokens) - 1)
    logits = engine.decode([*prefix, *tokens], logits=wanted)
    return float(log_softmax_at(logits, np.array(tokens)).sum())


def test_prefixes_that_follow_each_other_are_reused_and_stay_right(engine):
    rng = np.random.default_rng(0)
    shots = rng.integers(10, 40_000, 60).tolist()
    for _ in range(4):
        prefix = shots + rng.integers(10, 40_000, int(rng.integers(1, 9))).tolist()
        tokens = [rng.integers(10, 40_000, int(n)).tolist() for n in rng.integers(1, 6, 5)]
        found = engine.logprobs(prefix, tokens)
        assert engine.held_prefix == prefix
        again = engine.logprobs(prefix[:-1] or prefix, tokens)  # a prefix of the one before
        expected = [whole(engine, prefix, t) for t in tokens]
        assert [float(f.sum()) for f in found] == pytest.approx(expected, abs=2e-2)
        shorter = [whole(engine, prefix[:-1], t) for t in tokens]
        assert [float(f.sum()) for f in again] == pytest.approx(shorter, abs=2e-2)


def test_anything_else_decoded_between_empties_what_is_held(engine):
    prefix, tokens = [5, 6, 7, 8], [[9, 10]]
    first = engine.logprobs(prefix, tokens)[0].sum()
    engine.reset()
    assert engine.held_prefix == []
    engine.decode([100, 101, 102, 103])
    assert engine.logprobs(prefix, tokens)[0].sum() == pytest.approx(first, abs=1e-5)


def test_greedy_says_whether_generation_would(engine):
    prefix = engine.tokenize("Once upon a time")
    said = list(engine.generate(prefix, max_tokens=4).tokens)
    other = [*said[:-1], (said[-1] + 1) % engine.n_vocab]
    assert [f.greedy for f in engine.score(prefix, [said, other, said[:1]])] == [True, False, True]


def test_a_question_with_many_choices_is_split_into_batches(engine):
    question = Question("q", "One of", tuple(f"choice number {i}" for i in range(40)), 3)
    (asked,) = prompts([question], "plain")
    found = score_question(engine, asked)
    prefix = engine.tokenize("One of")
    for i in (0, 17, 39):
        tokens = engine.tokenize(f"One of choice number {i}")[len(prefix) :]
        assert found.logprobs[i] == pytest.approx(whole(engine, prefix, tokens), abs=2e-2)


def test_the_suite_runs_on_a_real_engine_and_repeats_exactly(engine):
    first, second = (run_suite(engine, limit=2) for _ in range(2))
    assert first.total == second.total
    assert [p.items for p in first.parts] == [p.items for p in second.parts]
    assert first.part("perplexity").mean > 2  # random weights predict nothing
