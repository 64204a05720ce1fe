"""The closing table of `run`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ggsurgery.cli.run import _table
from ggsurgery.evaluate.facts import ModelFacts
from ggsurgery.evaluate.results import Results
from ggsurgery.evaluate.score import Score

from .._gguf import big_llama


def test_a_column_for_everything_that_was_measured(tmp_path: Path) -> None:
    source = big_llama(tmp_path / "in.gguf", 2, 1 << 12)
    made = Path(shutil.copy(source, tmp_path / "cut.gguf"))
    facts = {"task": "quiz"}
    measured = {
        "source": (Score("perplexity", 10.0, 0.5, 99), Score("acc", 0.5, 0.1, 25, facts)),
        "cut": (Score("perplexity", 15.0, 0.5, 99), Score("kl_mean", 0.25, 0.01, 99),
                Score("acc", 0.25, 0.1, 25, facts), Score("acc_norm", 0.75, 0.1, 25, facts)),
    }  # fmt: skip
    pipeline: Any = SimpleNamespace(
        files={"source": source, "cut": made},
        results=lambda name: Results(ModelFacts(name, name), measured[name]),
    )
    head, _, first, second = _table(pipeline).splitlines()
    columns = ["file", "size", "bits/weight", "perplexity", "ratio", "KL", "quiz acc_norm"]
    assert re.split(r" {2,}", head) == columns
    assert "in.gguf (original)" in first and re.split(r" {2,}", first)[3:] == [
        "10.000 ± 0.500", "1.000", "–", "–",
    ]  # fmt: skip
    assert re.split(r" {2,}", second)[3:] == [
        "15.000 ± 0.500", "1.500", "0.2500 ± 0.0100", "0.750 ± 0.100",
    ]  # fmt: skip
