"""Measure a list of recipes in a process of its own, over crashes and restarts.

parent                       child
run ───── setup, recipes ──▶ Measurer(setup); for each recipe not in the journal:
                             journal "started", measure, journal the result
crash? ◀── signal ────────── ✗
journal the crash as a row, start again with the rest (`journal.past_crashes`)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...arch import rules_for
from ...errors import EngineError, FormatError, GGSurgeryError, InputError, OutputError
from ...files.fields import FieldError, Fields, list_of, mapping, number, text, whole
from ...files.progress import Progress
from ...ggufio.reader import Source
from ...plan.recipe import Recipe
from ...plan.types import Plan
from ...runtime import worker
from ..registry import Metric
from ..results.comparison import Difference
from ..results.score import Score
from ..results.statistics import Interval
from ..setup import Setup
from .journal import Journal, past_crashes
from .measure import Measurer

#: Key of the uncut model's own entry in a journal.
BASE = "base"


@dataclass(frozen=True)
class Trial:
    """One measured recipe.

    If the candidate was refused or crashed, `difference` is None and `error` is the reason.
    """

    recipe: Recipe
    digest: str
    measured: Score | None
    difference: Difference | None
    seconds: float
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": self.digest,
            "operation": self.recipe.describe(),
            "recipe": self.recipe.to_json(),
            "value": None if self.measured is None else self.measured.value,
            "stderr": None if self.measured is None else self.measured.stderr,
            "n": None if self.measured is None else self.measured.n,
            "items": [] if self.measured is None else list(self.measured.items),
            "detail": {} if self.measured is None else dict(self.measured.provenance),
            "difference": None if self.difference is None else self.difference.value,
            **_certainty(self.difference),
            "seconds": self.seconds,
            "error": self.error,
        }

    @classmethod
    def from_json(
        cls, entry: dict[str, Any], where: str | Path = "trial", metric: Metric | None = None
    ) -> Trial:
        """The inverse of `to_json`.

        Args:
            metric: the row of what was measured, which an entry does not name.

        Raises:
            FormatError: a field is missing or of the wrong type.
        """
        try:
            return cls._read(Fields(entry), where, metric)
        except FieldError as error:
            raise FormatError(
                f"result {entry.get('digest', '')}: {error.problem}",
                file=where,
                expected=error.expected,
                found=error.found,
                hint="Delete its line, and it is measured again.",
            ) from None

    @classmethod
    def _read(cls, entry: Fields, where: str | Path, metric: Metric | None) -> Trial:
        measured = difference = None
        value, change = (entry.get_or(k, number, None) for k in ("value", "difference"))
        if value is not None:
            measured = Score(
                "" if metric is None else metric.name,
                value,
                entry.get_or("stderr", number, None),
                entry.get("n", whole),
                entry.get_or("detail", mapping, {}),
                tuple(entry.get("items", list_of(number))),
                direction=None if metric is None else metric.direction,
            )
        if change is not None:
            difference = Difference(
                change,
                entry.get_or("difference_stderr", number, None),
                entry.get_or("difference_p", number, None),
                entry.get_or("difference_interval", Interval.from_json, None),
                entry.get_or("difference_test", text, None),
                n=0 if measured is None else len(measured.items),
            )
        return cls(
            Recipe.from_json(entry.get("recipe", mapping), where),
            entry.get("digest", text),
            measured,
            difference,
            entry.get("seconds", number),
            entry.get_or("error", text, None),
        )


def _certainty(difference: Difference | None) -> dict[str, Any]:
    """How sure a difference is, as JSON."""
    if difference is None:
        return {"difference_stderr": None}
    found: dict[str, Any] = {"difference_stderr": difference.stderr}
    if difference.p_value is not None and difference.interval is not None:
        found["difference_p"] = difference.p_value
        found["difference_interval"] = difference.interval.to_json()
        found["difference_test"] = difference.test
    return found


def measure_all(
    setup: Setup,
    recipes: Sequence[Recipe],
    journal: str | Path,
    *,
    source: Source | None = None,
    progress: Progress | None = None,
) -> tuple[Score, list[Trial]]:
    """Measure recipes that the journal does not hold yet.

    Args:
        source: the setup's model, where it is open already; its header is not read again.
        progress: called with (recipes done, recipes in all).

    Returns:
        The uncut model's figure, and one trial a recipe, in their order; a crash is a trial.

    Raises:
        GGSurgeryError: the uncut model cannot be measured, or the journal is another's.
    """
    with nullcontext(source) if source is not None else Source(setup.path) as opened:
        header = opened.header
        subject = {"source": opened.checksum(), "layers": header.n_layers, **setup.facts()}
    n_tail = rules_for(header, allow_unknown=True).n_tail(header)
    identity = Plan.identity(header.n_layers, n_tail)
    keyed = [(key_of(identity, recipe), recipe) for recipe in recipes]

    def attempt(run: str) -> None:
        book = Journal(journal, subject)
        left = [(key, recipe) for key, recipe in keyed if key not in book.results]
        if left or BASE not in book.results:
            tick = _shifted(progress, len(keyed) - len(left), len(keyed))
            worker.run(
                _work, setup, left, str(journal), subject, run, file=setup.path, progress=tick
            )

    def record(lost: dict[str, str], error: EngineError) -> None:
        book, known = Journal(journal, subject), dict(keyed)
        for key in lost:
            book.finished(Trial(known[key], key, None, None, 0.0, str(error)).to_json())

    past_crashes(Path(journal), subject, attempt, record)
    book = Journal(journal, subject)
    base = Trial.from_json(book.results[BASE], book.path, setup.row).measured
    if base is None:
        raise FormatError(
            "the uncut model's own result has no value",
            file=book.path,
            hint="Delete its line, and it is measured again.",
        )
    if not math.isfinite(base.value):  # in a journal of an earlier version
        raise GGSurgeryError(
            "the uncut model gives no numbers (NaN or infinity), so nothing can be compared",
            file=setup.path,
            found=base.value,
            hint="Find the layer with: ggsurgery perplexity",
        )
    return base, [Trial.from_json(book.results[k], book.path, setup.row) for k, _ in keyed]


def key_of(identity: Plan, recipe: Recipe) -> str:
    """The key of a recipe's result: the digest of its plan, if it can be planned.

    Args:
        identity: the plan of the uncut model.
    """
    try:
        return recipe.apply(identity).digest
    except GGSurgeryError:
        return "refused " + recipe.describe()


def _shifted(progress: Progress | None, done: int, total: int) -> Callable[..., None] | None:
    if progress is None:
        return None

    def report(n: int, _: int) -> None:
        progress(done + n, total)

    return report


def _work(
    setup: Setup,
    keyed: Sequence[tuple[str, Recipe]],
    journal: str,
    subject: dict[str, Any],
    run: str,
    progress: Progress | None = None,
) -> None:
    """The child: measures and journals; only a crash, a broken base or a full disk ends it early.

    Args:
        keyed: recipes, and what their results are filed under.
        run: a word that marks this child's lines in the journal.
    """
    book = Journal(journal, subject)
    with Measurer(setup) as measurer:
        if BASE not in book.results:
            base = Trial(Recipe(()), BASE, measurer.base, None, 0.0)
            book.finished(base.to_json())
        for number, (key, recipe) in enumerate(keyed):
            if key not in book.results:  # equal plans in one list are measured once
                book.started(key, f"{run} {recipe.describe()}")
                book.finished(try_one(measurer, recipe, key).to_json())
            if progress is not None:
                progress(number + 1, len(keyed))


def try_one(measurer: Measurer, recipe: Recipe, key: str) -> Trial:
    """Measure one recipe; a refusal is a trial with its reason.

    Raises:
        InputError, OutputError: no room for the candidate's file, or a source that cannot be read.
    """
    begin = time.monotonic()
    try:
        plan = recipe.apply(measurer.session.identity)
        measured = measurer.measure(plan)
        difference = measurer.difference(measured)
    except (InputError, OutputError):  # of the disk, not of the candidate
        raise
    except GGSurgeryError as error:
        return Trial(recipe, key, None, None, time.monotonic() - begin, str(error))
    return Trial(recipe, key, measured, difference, time.monotonic() - begin)
