"""Compare result files of several models, metric by metric, question by question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..errors import FormatError, GGSurgeryError, RequestError
from ..files.progress import Progress
from ..measure.results.comparison import Comparison, compare_all
from ..measure.results.result_files import Results, load_results, load_with_base
from ..measure.results.statistics import holm
from ..measure.suite.result import compare_surgery
from .request import FilePaths, Settings, option


@dataclass(frozen=True, slots=True)
class CompareResult:
    """The metrics that each model shares with the base.

    Args:
        pairs: "FILE against BASE" and its metrics.
    """

    pairs: tuple[tuple[str, tuple[Comparison, ...]], ...]
    warnings: tuple[str, ...] = ()

    @property
    def tests(self) -> tuple[int, int]:
        """The number of tests, and of verdicts that do not survive a correction for it."""
        found = [c.p_value for _, pairs in self.pairs for c in pairs if c.p_value is not None]
        return len(found), sum(p < 0.05 <= q for p, q in zip(found, holm(found), strict=True))

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {"comparison": name, "metrics": [c.to_json() for c in pairs]}
            for name, pairs in self.pairs
        ]


class CompareRequest(Settings, frozen=True, kw_only=True):
    """Compare result files with the first of them.

    Example:
        >>> CompareRequest(files=["base.json", "cut.json"]).run().pairs  # doctest: +SKIP
    """

    files: Annotated[
        FilePaths, option("Result files, the base's first.", metavar="BASE.json FILE.json")
    ]

    def check(self) -> list[str]:
        """Nothing can be wrong before the files are read."""
        return []

    def run(self, progress: Progress | None = None) -> CompareResult:
        """Read the files and test each metric."""
        load = load_with_base if len(self.files) == 1 else load_results
        loaded = [(Path(path), item) for path in self.files for item in load(Path(path))]
        if len(loaded) < 2:
            raise RequestError("give the base's result file and at least one other")
        _, base = loaded[0]
        found: list[tuple[str, tuple[Comparison, ...]]] = []
        warnings: list[str] = []
        for path, other in loaded[1:]:
            pairs, odd = pairs_of(base, other)
            warnings += odd
            if not pairs:
                raise FormatError(
                    "no metric in common with the base",
                    file=path,
                    expected=", ".join(s.label for s in base.all_scores) or "any score",
                    found=", ".join(s.label for s in other.all_scores) or "none",
                )
            found.append((f"{other.model.name} against {base.model.name}", tuple(pairs)))
        return CompareResult(tuple(found), tuple(warnings))


def pairs_of(base: Results, other: Results) -> tuple[list[Comparison], list[str]]:
    """The metrics that two models share, and why their suites cannot be compared, if so."""
    pairs = compare_all(base.scores, other.scores)
    if base.suite is None or other.suite is None:
        return pairs, []
    try:
        return [*compare_surgery(base.suite, other.suite), *pairs], []
    except GGSurgeryError as error:
        return pairs, [f"{other.model.name}: {error}"]
