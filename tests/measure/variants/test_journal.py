"""Journals: nothing twice, torn lines survive, another subject is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggsurgery.errors import FormatError
from ggsurgery.measure.variants.journal import Journal

SUBJECT = {"source": "sha256:1", "metric": "perplexity"}


def test_results_come_back(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    book = Journal(path, SUBJECT)
    book.started("a", "delete 1")
    book.finished({"digest": "a", "value": 1.5})
    book.started("b", "delete 2")
    again = Journal(path, SUBJECT)
    assert again.results["a"]["value"] == 1.5
    assert list(again.unfinished) == ["b"] and again.unfinished["b"]["label"] == "delete 2"


def test_a_torn_line_costs_that_result_only(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, SUBJECT).finished({"digest": "a", "value": 1.0})
    with path.open("ab") as file:
        file.write(b'{"digest": "b", "val')
    book = Journal(path, SUBJECT)
    assert set(book.results) == {"a"}
    book.finished({"digest": "c", "value": 3.0})
    assert set(Journal(path, SUBJECT).results) == {"a", "c"}


def test_another_subject_is_refused_and_the_file_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, SUBJECT).finished({"digest": "a", "value": 1.0})
    before = path.read_bytes()
    told = r"another source file: expected sha256:2, found sha256:1"
    with pytest.raises(FormatError, match=told):
        Journal(path, {**SUBJECT, "source": "sha256:2"})
    notes = tmp_path / "notes.txt"
    notes.write_text(json.dumps({"my": "notes"}))
    with pytest.raises(FormatError, match="not a journal"):
        Journal(notes, SUBJECT)
    assert path.read_bytes() == before


def test_lines_that_are_no_entries_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, SUBJECT).finished({"digest": "a", "value": 1.0})
    with path.open("a") as file:
        file.write('17\n["digest"]\nnull\n')
    assert set(Journal(path, SUBJECT).results) == {"a"}
    path.write_text('{"subject": 5}\n')
    with pytest.raises(FormatError, match="not a journal"):
        Journal(path, SUBJECT)
