"""Word problems: files, the number that counts, and answers written side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggsurgery.errors import FormatError
from ggsurgery.measure.bench.tasks import TASKS
from ggsurgery.measure.metrics.gsm8k import Problem, load_problems, plain, room, said_number, solve
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.generation import generate_together
from tests._needs import needs_package
from tests._tiny import MODEL

ANSWERS = [
    "She makes 9 * 2 = <<9*2=18>>18 dollars.\n#### 18",
    "It costs $1,018.50.",
    "The loss is -5 and then 3 more, so -2.",
    "No number here.",
    "70,000 dollars. The answer is $70,000.",
    "",
]


def test_the_number_that_counts_is_lm_evals() -> None:
    needs_package("lm_eval", extra="bench")
    from lm_eval.filters.extraction import RegexFilter

    (chain,) = [f for f in TASKS["gsm8k"].config["filter_list"] if f["name"] == "flexible-extract"]
    regex = RegexFilter(
        regex_pattern=chain["filter"][0]["regex_pattern"],
        group_select=chain["filter"][0]["group_select"],
    )
    theirs = [found[0] for found in regex.apply([[answer] for answer in ANSWERS], [{}] * 6)]
    ours = [said_number(answer) for answer in ANSWERS]
    assert ours == [None if t == "[invalid]" else plain(t) for t in theirs]
    assert ours == ["18", "1018.50", "-2", None, "70000", None]


def test_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}, {"question": "?", "final": "7"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.final.strip() for p in load_problems(path)] == ["2", "7"]
    assert len(load_problems(path, limit=1)) == 1
    for line, wrong in (
        ('{"final": "3"}', "field question"),
        ('{"question": "a?"}', "field final"),
    ):
        path.write_text(line)
        with pytest.raises(FormatError, match=rf"line 1: {wrong}"):
            load_problems(path)
    path.write_text("\n")
    with pytest.raises(FormatError, match="no problems"):
        load_problems(path)


def test_answers_side_by_side_are_those_of_one_at_a_time() -> None:
    texts = ["import sys\n", "def main(", "class A:\n    def", "for i in range(", "#"]
    stop = ("\n\n",)
    with Engine.open(MODEL, n_ctx=64, n_seq=5, unified=False, n_threads=1) as engine:
        prompts = [engine.tokenize(text) for text in texts]
        together = generate_together(engine, prompts, max_tokens=24, stop=stop)
        again = generate_together(engine, prompts[:2], max_tokens=24, stop=stop)
    with Engine.open(MODEL, n_ctx=64, n_threads=1) as engine:
        alone = [engine.generate(tokens, max_tokens=24, stop=stop) for tokens in prompts]
    assert together == alone and again == alone[:2]
    assert {answer.reason for answer in alone} <= {"eog", "stop", "length"}


def test_solving() -> None:
    """A model that continues counting is asked for what it says, and for something else."""
    with Engine.open(MODEL, n_ctx=512, n_seq=2, unified=False, n_threads=1) as engine:
        prompt = engine.tokenize("Question: x = [1, 2, 3, 4,\nAnswer:")
        (answer,) = generate_together(engine, [prompt], max_tokens=256, stop=("Question:",))
        said = said_number(answer.text)
        problems = [
            Problem("a", "x = [1, 2, 3, 4,", said or "none"),
            Problem("b", "x = [1, 2, 3, 4,", "123456"),
            Problem("c", "x = [1, 2, 3, 4,", said or "none"),
        ]
        assert room(engine, problems) == len(prompt) + 256
        assert solve(engine, problems) == [said is not None, False, said is not None]
