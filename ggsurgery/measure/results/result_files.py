"""Results of one model in a file: what it is, its scores, the suite, comparisons, controls.

    {"ggsurgery": "results", "version": 1, "model": {...}, "scores": [...], "suite": {...},
     "baseline": "base.gguf", "base": {results of it}, "comparisons": [...], "controls": [...],
     "verdict": "..."}

lm-evaluation-harness's own result files are read as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...files.fields import (
    FieldError,
    Fields,
    dict_of,
    list_of,
    mapping,
    number,
    read_json,
    text,
    whole,
)
from ..registry import Direction, metric_of
from ..suite.result import SurgeryScore
from .facts import ModelFacts
from .score import FACTS, Score

FORMAT = "results"
#: Commands whose `--json` holds scores in the same way.
KINDS = (FORMAT, "kl", "choices", "evaluate")
VERSION = 1


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured on one model."""

    model: ModelFacts
    scores: tuple[Score, ...] = ()
    suite: SurgeryScore | None = None
    comparisons: tuple[Mapping[str, Any], ...] = ()
    controls: tuple[Mapping[str, Any], ...] = ()
    verdict: str | None = None
    baseline: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_scores(self) -> tuple[Score, ...]:
        """The scores, the suite's first."""
        suite = tuple(self.suite.scores()) if self.suite is not None else ()
        return suite + self.scores

    def score(self, label: str) -> Score | None:
        return next((s for s in self.all_scores if s.label == label), None)

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "ggsurgery": FORMAT,
            "version": VERSION,
            "model": asdict(self.model),
            "scores": [s.to_json() for s in self.scores],
        }
        if self.suite is not None:
            document["suite"] = self.suite.to_json()
        for name in ("baseline", "verdict"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        for name in ("comparisons", "controls"):
            if getattr(self, name):
                document[name] = [dict(c) for c in getattr(self, name)]
        return {**document, **self.extra}


def load_results(path: str | Path) -> list[Results]:
    """Read a result file: ggsurgery's own (results or bare scores, one or a list) or lm-eval's.

    Raises:
        FormatError: neither, or a field is missing.
    """
    document = read_json(path)
    if isinstance(document, list):
        return merge_results([_own(item, path) for item in document])
    if isinstance(document, dict) and "results" in document and _by_harness(document):
        return [_lm_eval(document, path)]
    return [_own(document, path)]


def _by_harness(document: Mapping[str, Any]) -> bool:
    """Whether lm-evaluation-harness wrote it, by itself or for `bench`."""
    return str(document.get("ggsurgery", "bench")) == "bench"


def load_with_base(path: str | Path) -> list[Results]:
    """Like `load_results`, the baseline that `evaluate --baseline` measured in front."""
    found = load_results(path)
    document = read_json(path)
    base = document.get("base") if isinstance(document, dict) else None
    return [_own(base, path), *found] if base else found


def _own(document: Any, path: str | Path) -> Results:
    if isinstance(document, dict) and "metric" in document:  # a bare score, as --json prints it
        try:
            score = Score.from_json(document)
        except FieldError as error:
            raise error.at(file=path) from None
        return Results(_facts(score, path), (score,))
    if not isinstance(document, dict) or document.get("ggsurgery") not in KINDS:
        raise FormatError(
            "not a result file",
            file=path,
            expected='{"ggsurgery": "results", …} or lm-eval\'s results JSON',
            hint="Write one with `ggsurgery evaluate FILE -o results.json`",
        )
    if document.get("version") != VERSION:
        raise FormatError(
            "result file of another version",
            file=path,
            expected=VERSION,
            found=document.get("version"),
        )
    try:
        return _results(Fields(document))
    except FieldError as error:
        raise error.at(file=path) from None


def _results(document: Fields) -> Results:
    return Results(
        model=document.get("model", ModelFacts.from_json),
        scores=document.get("scores", list_of(Score.from_json)),
        suite=document.get_or("suite", SurgeryScore.from_json, None),
        comparisons=document.get_or("comparisons", list_of(_comparison), ()),
        controls=document.get_or("controls", list_of(_control), ()),
        verdict=document.get_or("verdict", text, None),
        baseline=document.get_or("baseline", text, None),
    )


def _comparison(data: Any) -> Mapping[str, Any]:
    """Read the output of `Comparison.to_json`, as far as it is used."""
    fields = Fields(data)
    for name in ("label", "verdict"):
        fields.get(name, text)
    return fields.data


def _control(data: Any) -> Mapping[str, Any]:
    """Read the complete output of `controls.Outcome.to_json`."""
    fields = Fields(data)
    interval = fields.get_or("interval", Fields, None)
    return {
        **{k: fields.get(k, text) for k in ("name", "kind", "verdict")},
        "layers": list(fields.get_or("layers", list_of(whole), ())),
        "type": fields.get_or("type", text, None),
        **{k: fields.get_or(k, whole, None) for k in ("bytes", "n")},
        **{
            k: fields.get_or(k, number, None)
            for k in ("score", "difference", "p_value", "p_corrected")
        },
        "interval": None
        if interval is None
        else {k: interval.get(k, number) for k in ("low", "high")},
    }


def _lm_eval(document: Mapping[str, Any], path: str | Path) -> Results:
    """lm-evaluation-harness's results JSON."""
    fields = Fields(document)
    try:
        counts = fields.get_or("n-samples", dict_of(mapping), {})
        better = fields.get_or("higher_is_better", dict_of(mapping), {})
        own = fields.get_or("ggsurgery_scores", list_of(Score.from_json), ())
        rows = fields.get("results", dict_of(mapping))
        known = (fields.get_or(key, text, "") for key in ("model_name", "model_source"))
        name = next(filter(None, known), Path(path).stem)
        scores = own or tuple(  # `bench` keeps the answers beside the figures
            score
            for task, row in rows.items()
            for score in lm_eval_scores(
                task, row, counts.get(task, {}), directions_of({"higher_is_better": better}, task)
            )
        )
    except FieldError as error:
        raise error.at(file=path) from None
    facts = _facts(scores[0], name) if own else ModelFacts(Path(name).stem or name, name)
    return Results(facts, scores)


def _facts(score: Score, path: str | Path) -> ModelFacts:
    """Facts about the model from a score's provenance."""
    recorded = score.provenance
    file = str(recorded.get("file") or path)
    known = {k: recorded.get(k) for k in FACTS}
    return ModelFacts(Path(file).stem, file, **known)


def directions_of(document: Mapping[str, Any], task: str) -> dict[str, Direction]:
    """Which direction of each metric of a task the harness calls better."""
    return directions(document.get("higher_is_better", {}).get(task) or {})


def directions(higher_is_better: Mapping[str, Any]) -> dict[str, Direction]:
    """The harness's flags of a task's metrics as directions; unknown ones are left out."""
    return {
        k: "higher" if v else "lower" for k, v in higher_is_better.items() if v in (True, False)
    }


def lm_eval_scores(
    task: str,
    row: Mapping[str, Any],
    counts: Mapping[str, Any],
    directions: Mapping[str, Direction],
) -> list[Score]:
    """The scores of one task in lm-eval's form (`acc,none`, `acc_stderr,none`).

    Filters other than `none` are named in the metric: `exact_match (strict-match)`.

    Args:
        directions: the harness's directions; figures that the registry does not know as
            the harness's count only if they are in it.
    """
    found = []
    for key, value in row.items():
        metric, _, chosen = key.partition(",")
        row_of = metric_of(metric)
        known = metric in directions or (row_of is not None and row_of.harness)
        if not known or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        error = row.get(spread := f"{metric}_stderr,{chosen}")
        label = metric + ("" if chosen in ("", "none") else f" ({chosen})")
        finite = isinstance(error, int) or (isinstance(error, float) and math.isfinite(error))
        found.append(
            Score(
                label,
                Fields(row).get(key, number),
                Fields(row).get(spread, number) if finite else None,
                _count(counts.get("effective", row.get("sample_len"))),
                {"task": task, "by": "lm-evaluation-harness"},
                direction=directions.get(metric),
            )
        )
    return found


def _count(value: object) -> int:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if known and isinstance(value, int) else 0


def _agree(old: Results, new: Results) -> None:
    """Refuse to take one of two figures silently."""
    if not old.model.may_be(new.model):
        raise FormatError(
            "results of two files of one name",
            file=old.model.file,
            expected=old.model.identity,
            found=new.model.identity,
            hint="Rename one of them, or measure again what has changed.",
        )
    for theirs in new.all_scores:
        ours = old.score(theirs.label)
        if ours is None:
            continue
        unlike = ours.unlike(theirs, same_n=True)
        if unlike is None and not math.isclose(ours.value, theirs.value, rel_tol=1e-3):
            unlike = f"figures: {ours.value:.4f} and {theirs.value:.4f}"
        if unlike is not None:
            raise FormatError(
                f"two results of {theirs.label} differ in {unlike}",
                file=old.model.file,
                hint="Leave one of them out. Results of two models need two model names: the "
                "model_name of an lm-evaluation-harness file, or model.name.",
            )


def merge_results(found: Sequence[Results]) -> list[Results]:
    """Results of the same file as one, in the order of first appearance.

    Raises:
        FormatError: one figure twice and not the same, or two files of one name.
    """
    merged: dict[str, Results] = {}
    for item in found:
        key = item.model.file
        if key not in merged:
            merged[key] = item
            continue
        old = merged[key]
        _agree(old, item)
        labels = {s.label for s in old.scores}
        merged[key] = Results(
            old.model.filled_from(item.model),
            old.scores + tuple(s for s in item.scores if s.label not in labels),
            old.suite or item.suite,
            old.comparisons or item.comparisons,
            old.controls or item.controls,
            old.verdict or item.verdict,
            old.baseline or item.baseline,
        )
    return list(merged.values())
