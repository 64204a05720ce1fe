"""The surgery suite: its data, what counts as right, and what a scripted model scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ggsurgery.errors import EngineError, FormatError, GGSurgeryError
from ggsurgery.measure.results import statistics
from ggsurgery.measure.suite import data
from ggsurgery.measure.suite.answers import accepted
from ggsurgery.measure.suite.repetition import (
    compression_ratio,
    distinct_ngrams,
    freedom_from_loops,
    linear,
)
from ggsurgery.measure.suite.result import Part, SurgeryScore, compare_surgery
from ggsurgery.measure.suite.run import N_STOP, N_THINKING, n_steps, run_suite
from ggsurgery.measure.suite.talk import split_thinking
from tests.measure.fakes import CHATML, SWITCHED, ByteModel

FACTS = {f.question: f for f in data.load_facts("long")}
STORY = "Once there was a keeper who lit the lamp, cleaned the glass and wrote the weather down."


def scripted(prompt: str) -> str:
    """Answers every question right, thinks when it may, and writes a story otherwise."""
    for question, fact in FACTS.items():
        if question in prompt:
            thoughts = "" if prompt.endswith("</think>\n\n") else "<think>Let me see.</think>"
            return f"{thoughts}It is {fact.answers[0]}."
        if prompt.startswith(fact.cloze):
            return f" {fact.answers[0]}.\nNext"
    return STORY


def test_question_data_is_what_it_says():
    long, default = data.load_facts("long"), data.load_facts("default")
    assert len(default) >= 17
    assert len(long) >= 100
    assert len({f.id for f in long}) == len(long)
    assert len({f.question for f in long}) == len(long)
    for fact in long:
        assert fact.question.endswith("?") or "=" in fact.cloze
        assert not accepted(fact.question, fact.answers), fact.id  # an echo must not count
        assert not accepted(fact.cloze, fact.answers), fact.id
        assert all(accepted(f"Well: {a}!", fact.answers) for a in fact.answers), fact.id
    assert sum(len(f.answers) > 1 for f in long) > len(long) / 2


def test_coherence_data_puts_the_sensible_choice_first_everywhere():
    questions = data.load_coherence()
    assert len(questions) >= 17
    assert {(q.answer, len(q.choices)) for q in questions} == {(0, 4)}


@pytest.mark.parametrize(
    ("said", "answers", "right"),
    [
        ("The capital is **Paris**.", ["Paris"], True),
        ("parisian", ["Paris"], False),
        ("It is fifty-six", ["56", "fifty six"], True),
        ("1,000 grams", ["1000"], True),
        ("10000", ["1000"], False),
        ("4.5", ["4"], False),
        ("It is 4.", ["4"], True),
        ("-4", ["4"], False),
        ("14", ["4"], False),
        ("H₂O", ["H2O"], True),
        (r"\boxed{63}", ["63"], True),
        ("", ["Paris"], False),
        ("Mt. Everest", ["Mt. Everest"], True),
        ("TŌKYŌ", ["Tokyo"], True),
    ],
)
def test_accepted_answers(said, answers, right):
    assert accepted(said, answers) is right


def test_repetition_measures():
    loop = "the cat sat on the mat and " * 20
    assert distinct_ngrams(loop, 4) < 0.1
    assert compression_ratio(loop) > 8
    assert distinct_ngrams("one two three") == 1.0
    assert compression_ratio("") == 1.0
    rules = {"ngram": 4, "distinct_bad": 0.2, "ratio_good": 2.4, "ratio_bad": 8.0}
    assert freedom_from_loops(loop, **rules) == 0.0
    assert freedom_from_loops("too short", **rules) == 0.0
    assert freedom_from_loops(data.load_prose()[:800], **rules) == pytest.approx(1.0, abs=0.02)
    assert (linear(9, bad=8, good=2), linear(1, bad=8, good=2)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("prompt", "said", "expected"),
    [
        ("", "Four.", ("Four.", None, False, False)),
        ("", "<think>Hm</think>\nFour.", ("Four.", "Hm", True, True)),
        ("…<think>\n", "Hm</think>Four.", ("Four.", "Hm", True, True)),
        ("…<think></think>", "Four.", ("Four.", None, False, False)),
        ("", "<think>Hm, and on", ("", "Hm, and on", True, False)),
        ("", "[THINK]Hm[/THINK]4", ("4", "Hm", True, True)),
    ],
)
def test_thinking_is_split_from_the_answer(prompt, said, expected):
    assert split_thinking(prompt, said) == expected


def test_a_model_with_all_answers_gets_full_parts():
    model = ByteModel(1, n_ctx=1536, template=SWITCHED, says=scripted)
    told: list[tuple[int, int]] = []
    score = run_suite(model, progress=lambda *step: told.append(step))
    assert [p.name for p in score.parts] == list(data.PARTS)
    values = {p.name: p.value for p in score.parts}
    assert values["facts"] == values["thinking"] == values["stop"] == 1.0
    assert values["perplexity"] == 0.0  # a random table of bytes predicts no prose
    assert len(score.part("facts").items) == 30
    assert len(score.part("thinking").items) == 2 * N_THINKING
    assert len(score.part("stop").items) == N_STOP
    weights = data.load_weights().weights
    expected = sum(weights[n] * v for n, v in values.items()) / sum(weights.values())
    assert score.total == pytest.approx(100 * expected)
    assert score.total in score.interval
    assert told[-1][0] == len(told) <= told[-1][1] == n_steps()
    assert run_suite(model).total == score.total  # deterministic


def test_long_set_asks_all_questions():
    model = ByteModel(1, n_ctx=1536, template=CHATML, says=scripted)
    assert len(run_suite(model, length="long").part("facts").items) == len(FACTS)


def test_a_base_model_completes_sentences_and_its_chat_parts_do_not_apply():
    score = run_suite(ByteModel(1, n_ctx=1536, says=scripted), limit=5)
    assert score.part("facts").value == 1.0
    assert score.part("facts").transcript[0]["said"] == "Paris."
    for name in ("thinking", "stop"):
        assert not score.part(name).applies
        assert "no chat template" in (score.part(name).note or "")
    assert score.provenance["mode"] == "plain text"
    assert math.isfinite(score.total)


def test_a_model_that_never_stops_thinking_fails_where_it_should():
    model = ByteModel(1, n_ctx=1536, template=CHATML + "<think>", says=lambda _: "Hm " * 900)
    score = run_suite(model, limit=3)
    assert {n: score.part(n).value for n in ("facts", "thinking", "stop")} == {
        "facts": 0.0,
        "thinking": 0.0,
        "stop": 0.0,
    }
    assert score.part("thinking").transcript[0]["closed"] is False
    assert score.part("repetition").value == 0.0


def test_switched_off_but_still_thinking_fails_the_off_position():
    model = ByteModel(1, n_ctx=1536, template=SWITCHED, says=lambda _: "<think>Hm</think>Paris")
    part = run_suite(model, limit=2).part("thinking")
    items = dict(zip(part.ids, part.items, strict=True))
    assert items == {
        "capital-france-on": 1.0,
        "capital-france-off": 0.0,
        "capital-japan-on": 1.0,
        "capital-japan-off": 0.0,
    }


def suite_of(facts: list[float]) -> SurgeryScore:
    return SurgeryScore(
        (
            Part("facts", 40, tuple(facts), ids=tuple(map(str, range(len(facts))))),
            Part("perplexity", 15, (1.0, 1.2, 1.4), 3.0, 0.8),
            Part("stop", 10, (), note="no chat template"),
        )
    )


def test_total_is_the_weighted_mean_over_parts_that_apply():
    score = suite_of([1, 1, 0, 0])
    assert score.total == pytest.approx(100 * (40 * 0.5 + 15 * (3 - 1.2) / 2.2) / 55)
    again = SurgeryScore.from_json(json.loads(json.dumps(score.to_json())))
    assert again.total == score.total
    assert again.interval == score.interval
    assert [s.metric for s in score.scores()] == ["surgery", "surgery_facts", "surgery_perplexity"]


def test_differences_are_paired_and_small_ones_are_not_called_differences():
    base, same = suite_of([1] * 10 + [0] * 10), suite_of([1] * 9 + [0] * 11)
    total, facts, perplexity = compare_surgery(base, same)
    assert facts.test == "McNemar (exact)"
    assert facts.verdict == "not distinguishable at n = 20"
    assert total.verdict == "not distinguishable at n = 23"
    assert perplexity.difference == 0
    assert perplexity.verdict == "not distinguishable at n = 3"
    worse = compare_surgery(base, suite_of([0] * 20))
    assert (worse[0].verdict, worse[1].verdict) == ("worse", "worse")


def test_unlike_suites_are_not_compared():
    with pytest.raises(GGSurgeryError, match=r"facts.*other items"):
        compare_surgery(suite_of([1, 0]), suite_of([1, 0, 0]))
    other = SurgeryScore((*suite_of([1, 0]).parts[:2], Part("stop", 10, (1.0,))))
    with pytest.raises(GGSurgeryError, match="stop does not apply"):
        compare_surgery(suite_of([1, 0]), other)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("facts = 40", "facts = -1", r"weights\.facts: weights file.*found -1"),
        ("facts = 40", "fakts = 40", "unknown part 'fakts'.*facts, coherence"),
        ("ngram = 4", 'ngram = "4"', r"repetition\.ngram"),
        ("stop = 256", "", r"budgets\.stop: weights file.*found nothing"),
        ("[weights]", "[weights", "not a weights file"),
        ("facts = 40", "facts = nan", r"weights\.facts: weights file"),
        ("stop = 256", "stop = inf", r"budgets\.stop: weights file"),
        ("bits_bad = 3.0", "bits_bad = 0.8", r"perplexity\.bits_bad.*another figure"),
        ("[weights]", "a = 1\n[weights]", "a: weights file: expected a section, found 1"),
    ],
)
def test_wrong_weights_files_are_named(tmp_path, old, new, message):
    path = tmp_path / "w.toml"
    path.write_text((data.DATA / "weights.toml").read_text().replace(old, new))
    with pytest.raises(FormatError, match=rf"w\.toml.*{message}"):
        data.load_weights(path)


def test_own_weights_change_the_total(tmp_path):
    path = tmp_path / "w.toml"
    text = (data.DATA / "weights.toml").read_text()
    path.write_text(text.replace("perplexity = 15", "perplexity = 0"))
    model = ByteModel(1, n_ctx=1536, template=SWITCHED, says=scripted)
    plain = run_suite(model, limit=4)
    own = run_suite(model, limit=4, weights=data.load_weights(path))
    assert own.total > plain.total
    assert own.provenance["weights"] == str(path)


def test_weights_of_parts_that_do_not_apply_are_named():
    chat_only = replace(data.load_weights(), weights={"thinking": 10.0, "stop": 5.0})
    with pytest.raises(EngineError, match=r"no part.*weight for one of facts, coherence"):
        run_suite(ByteModel(1, n_ctx=1536, says=scripted), limit=1, weights=chat_only)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "topic": "t", "question": "q"}', "line 1: field cloze"),
        ('{"id": "a", "topic": "t", "question": "q", "cloze": "c"}', "line 1: field answers"),
        ("", "no questions in it"),
    ],
)
def test_wrong_fact_files_are_named(tmp_path, line, message):
    path = tmp_path / "facts.jsonl"
    path.write_text(line)
    with pytest.raises(FormatError, match=message):
        data.load_facts("long", path)


def test_no_part_and_no_total_has_an_interval_without_width():
    """20 of 20, 0 of 3, windows all beyond the scale, one window alone."""
    parts = (
        Part("facts", 40.0, (0.0,) * 3),
        Part("coherence", 15.0, (1.0,) * 20),
        Part("perplexity", 15.0, (5.0, 6.0), 3.0, 0.8),
        Part("repetition", 10.0, (0.4,)),
    )
    for part, expected in zip(parts, ((0, 0.5615), (0.8389, 1), (0, 0.6576), None), strict=True):
        found = part.interval
        assert found.low < found.high and part.value in found
        assert part.to_json()["interval"] == found.to_json()
        if expected is not None:
            assert (found.low, found.high) == pytest.approx(expected, abs=1e-4)
    score = SurgeryScore(parts)
    assert score.interval.low < score.total < score.interval.high
    perfect = SurgeryScore((Part("facts", 40.0, (1.0,) * 20), Part("stop", 10.0, (1.0,) * 10)))
    assert perfect.interval.low < 95 and perfect.interval.high == pytest.approx(100)
    assert all(s.stderr for s in perfect.scores())
    for found in compare_surgery(perfect, perfect):
        assert found.interval is not None and found.interval.low < 0 < found.interval.high


def test_the_total_s_interval_is_that_of_its_only_part_and_near_the_bootstrap_s():
    alone = SurgeryScore((Part("facts", 40.0, (1.0,) * 19 + (0.0,) * 11),))
    assert alone.interval.low == pytest.approx(100 * alone.parts[0].interval.low)
    rng = np.random.default_rng(1)
    parts = (
        Part("facts", 40.0, tuple(np.repeat([0.0, 1.0], [12, 18]))),
        Part("repetition", 10.0, tuple(rng.random(20))),
        Part("stop", 10.0, tuple(np.repeat([0.0, 1.0], [5, 5]))),
    )
    score = SurgeryScore(parts)
    drawn = statistics.interval_of(score.draws())
    assert score.interval.low == pytest.approx(drawn.low, abs=2.5)
    assert score.interval.high == pytest.approx(drawn.high, abs=2.5)
