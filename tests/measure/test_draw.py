"""A limit draws a sample of a question file, and not its beginning."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ggsurgery.measure.bench.tasks import write_tasks
from ggsurgery.measure.draw import draw, draw_questions
from ggsurgery.measure.metrics.gsm8k import draw_problems, load_problems
from ggsurgery.measure.questions import Question, load_questions
from ggsurgery.measure.setup import Setup
from tests._needs import needs_shared

EXTERNAL = pytest.mark.external


@pytest.fixture(scope="module", params=["made", pytest.param("published", marks=EXTERNAL)])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of question files: published ones, or made ones that are sorted by subject, too."""
    if request.param == "published":
        return needs_shared("data")
    folder = tmp_path_factory.mktemp("data")
    sizes = [10 + n // 2 for n in range(57)]
    subjects = [f"subject_{n:02}" for n, size in enumerate(sizes) for _ in range(size)]

    def write(name: str, items: list[dict[str, object]]) -> None:
        lines = (json.dumps({"id": f"{name}-{n}", **item}) + "\n" for n, item in enumerate(items))
        (folder / name).write_text("".join(lines), encoding="utf-8")

    choices = {"choices": ["a", "b", "c", "d"], "answer": 0}
    mmlu = [{"query": f"{n}?", "subject": s, **choices} for n, s in enumerate(subjects)]
    write("mmlu_test_10pct.jsonl", mmlu)
    write("mmlu_dev.jsonl", [{"query": "one?", "subject": s, **choices} for s in set(subjects)])
    write("hellaswag.jsonl", [{"query": f"{n}", **choices} for n in range(1000)])
    write("arc_easy_test.jsonl", [{"query": f"{n}?", **choices} for n in range(600)])
    write("gsm8k_test.jsonl", [{"question": f"{n}?", "final": str(n)} for n in range(1319)])
    return folder


def mmlu(data: Path) -> list[Question]:
    return load_questions(data / "mmlu_test_10pct.jsonl")


def test_sixty_questions_of_mmlu_are_of_all_subjects(data: Path) -> None:
    questions = mmlu(data)
    assert len({q.subject for q in questions}) == 57
    drawn = draw_questions(questions, 60)
    assert len(drawn) == 60 and len({q.subject for q in drawn}) == 57
    assert drawn == sorted(drawn, key=questions.index)
    assert drawn == draw_questions(questions, 60) != draw_questions(questions, 60, seed=1)
    assert len({q.subject for q in draw_questions(questions, 20)}) == 20


def test_shares_follow_the_sizes_of_the_subjects(data: Path) -> None:
    questions = mmlu(data)
    sizes = Counter(q.subject for q in questions)
    drawn = Counter(q.subject for q in draw_questions(questions, 700))
    for subject, size in sizes.items():
        assert drawn[subject] == pytest.approx(size * 700 / len(questions), abs=1)


@pytest.mark.parametrize("subjects", ["a", "aaab", "abcdefg", "aaaaaaaabbbbc"])
def test_a_larger_limit_keeps_what_a_smaller_one_drew(subjects: str) -> None:
    items = [(s, i) for i, s in enumerate(subjects)]
    before: set[tuple[str, int]] = set()
    for limit in range(1, len(items) + 2):
        drawn = draw(items, limit, seed=3, name=str, subject=lambda item: item[0])
        assert len(drawn) == min(limit, len(items)) and before <= set(drawn)
        assert len({s for s, _ in drawn}) == min(limit, len(set(subjects)))
        before = set(drawn)


def test_files_without_subjects_are_drawn_from_too(data: Path) -> None:
    questions = load_questions(data / "hellaswag.jsonl")
    drawn = draw_questions(questions, 100)
    places = [questions.index(q) for q in drawn]
    assert places == sorted(places) and max(places) > 0.9 * len(questions)
    problems = load_problems(data / "gsm8k_test.jsonl")
    assert (
        len(draw_problems(problems, 30))
        == 30
        != len(set(draw_problems(problems, 30)) & set(problems[:30]))
    )
    assert draw_problems(problems, None) == problems


def test_the_harness_s_local_tasks_hold_the_same_draw(data: Path, tmp_path: Path) -> None:
    write_tasks(["mmlu", "arc_easy"], data, tmp_path, shots=0, limit=60, seed=5)
    ids = []
    for path in tmp_path.glob("*.test.jsonl"):
        ids += [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert sorted(ids) == sorted(q.id for q in draw_questions(mmlu(data), 60, seed=5))
    assert len(list(tmp_path.glob("mmlu_*.yaml"))) == 57
    lines = (tmp_path / "arc_easy.drawn.jsonl").read_text().splitlines()
    easy = [json.loads(line)["id"] for line in lines]
    questions = load_questions(data / "arc_easy_test.jsonl")
    assert easy == [q.id for q in draw_questions(questions, 60, seed=5)]


def test_another_draw_is_another_measurement(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "a?", "choices": ["b", "c"], "answer": 0}\n')

    def facts(**changes: int) -> dict[str, object]:
        return Setup(Path("m.gguf"), metric=f"choices:{path}", **changes).facts()  # type: ignore[arg-type]

    assert facts(limit=1) != facts(limit=1, limit_seed=1)
    assert facts() == facts(limit_seed=1)
