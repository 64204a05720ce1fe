"""The surgery suite on a model, against its base and against controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from ..errors import RequestError
from ..files.atomic import check_output
from ..files.progress import Progress
from ..measure import runs
from ..measure.controls import (
    N_RANDOM,
    Control,
    Outcome,
    building,
    controls_of,
    measure_controls,
    verdict,
)
from ..measure.results.comparison import Comparison
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..measure.suite.data import Length, load_weights
from ..measure.suite.result import SurgeryScore, compare_surgery
from ..runtime import worker
from . import cautions
from .fields import Force, Model, ResultFile, Threads
from .measured import Measured, write_results
from .request import FilePath, Settings, option


class SuiteSettings(Settings, frozen=True, kw_only=True):
    """A recipe's section `evaluate.suite`."""

    length: Annotated[Length, option("30 factual questions or 118.")] = "default"
    limit: (
        Annotated[int, option("At most N items of each part: a trial, not a result.", ge=1)] | None
    ) = None
    controls: Annotated[bool, option("With a baseline: build and measure the controls.")] = True
    random: (
        Annotated[
            int, option(f"How many random deletions to compare with; default: {N_RANDOM}.", ge=0)
        ]
        | None
    ) = None
    seed: Annotated[int, option("Seed of the random deletions; default: 0.", ge=0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult(Measured):
    """The suite's score, and what it is worth.

    Args:
        score: of the file; base: of the baseline, if one was given.
        comparisons: of both, item by item.
        outcomes: of the controls.
    """

    score: SurgeryScore
    base: SurgeryScore | None = None
    comparisons: tuple[Comparison, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


class EvaluateRequest(SuiteSettings, frozen=True, kw_only=True):
    """Score a file from 0 to 100; with a baseline test the difference and measure controls.

    Example:
        >>> EvaluateRequest(file="cut.gguf", baseline="in.gguf").run().scores  # doctest: +SKIP
    """

    file: Model
    baseline: Annotated[
        FilePath | None, option("The uncut model to compare with.", metavar="BASE")
    ] = None
    weights: Annotated[
        FilePath | None, option("Your own weights.toml instead of the package's.")
    ] = None
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def agree(self) -> None:
        chosen = not self.controls or self.random is not None or self.seed is not None
        if self.baseline is None and chosen:
            raise RequestError("`controls`, `random` and `seed` need a `baseline`")

    def check(self) -> list[str]:
        """Refuse an output in the way, damaged weights, and controls that cannot be built.

        Returns:
            Warnings.
        """
        if self.out is not None:
            files = [Path(f) for f in (self.file, self.baseline, self.weights) if f is not None]
            check_output(Path(self.out), files, force=self.force)
        load_weights(self.weights)
        self.alternatives()
        return cautions.of_limit(self.limit)

    def run(
        self,
        progress: Progress | None = None,
        partial: Callable[[EvaluateResult], None] | None = None,
    ) -> EvaluateResult:
        """Ask in child processes.

        Args:
            partial: called with what is known so far, after each part that takes long.
        """
        tell = partial or (lambda result: None)
        controls = self.alternatives()
        stages = _Stages(progress, 1 + (self.baseline is not None) + len(controls))
        score = self.suite(Path(self.file), stages.next())
        facts = model_facts(Path(self.file))
        result = EvaluateResult(Results(facts, suite=score), score=score)
        tell(result)
        if self.baseline is not None:
            baseline = Path(self.baseline)
            base = self.suite(baseline, stages.next())
            compared = tuple(compare_surgery(base, score))
            results = Results(
                facts,
                suite=score,
                baseline=str(baseline),
                comparisons=tuple(c.to_json() for c in compared),
                extra={"base": Results(model_facts(baseline), suite=base).to_json()},
            )
            result = EvaluateResult(results, score=score, base=base, comparisons=compared)
            tell(result)
            if controls:
                outcomes = self.measure_controls(score, controls, stages, base)
                judged = judge(results, score, outcomes)
                result = replace(result, results=judged, outcomes=tuple(outcomes))
                tell(result)
        write_results(self.out, result.results, force=self.force)
        return result

    def run_controls(self, score: SurgeryScore, progress: Progress | None = None) -> EvaluateResult:
        """Build and measure only the controls, of a file whose score is known."""
        controls = self.alternatives()
        outcomes = self.measure_controls(score, controls, _Stages(progress, len(controls)))
        results = Results(model_facts(Path(self.file)), baseline=Path(str(self.baseline)).name)
        judged = judge(results, score, outcomes)
        return EvaluateResult(judged, score=score, outcomes=tuple(outcomes))

    def alternatives(self) -> list[Control]:
        """The controls of the file, from both headers; none without a baseline."""
        if self.baseline is None or not self.controls:
            return []
        n_random = N_RANDOM if self.random is None else self.random
        return controls_of(
            Path(self.file), Path(self.baseline), n_random=n_random, seed=self.seed or 0
        )

    def suite(self, file: Path, progress: Progress | None = None) -> SurgeryScore:
        """The suite on one file, in a child process."""
        return worker.run(
            runs.suite_of_file,
            file,
            length=self.length,
            weights=load_weights(self.weights),
            limit=self.limit,
            n_threads=self.threads,
            progress=progress,
        )

    def measure_controls(
        self,
        score: SurgeryScore,
        controls: list[Control],
        stages: _Stages,
        base: SurgeryScore | None = None,
    ) -> list[Outcome]:
        """Build the controls and measure each.

        Args:
            base: the baseline's score, if it is known: the uncut model may be a control.
        """
        baseline = Path(str(self.baseline))

        def measure(path: Path) -> SurgeryScore:
            progress = stages.next()
            return base if base is not None and path == baseline else self.suite(path, progress)

        return measure_controls(score, controls, lambda c: building(c, baseline), measure)


def judge(results: Results, score: SurgeryScore, outcomes: Sequence[Outcome]) -> Results:
    """The results with the controls and the verdict."""
    line = verdict(score, list(outcomes))
    return replace(results, controls=tuple(o.to_json() for o in outcomes), verdict=line)


class _Stages:
    """The progress of several equally long pieces of work as one."""

    def __init__(self, progress: Progress | None, n_stages: int) -> None:
        self.progress, self.n_stages, self.begun = progress, n_stages, 0

    def next(self) -> Progress | None:
        """The progress of the next piece."""
        number, progress = self.begun, self.progress
        self.begun += 1
        if progress is None:
            return None
        return lambda done, total: progress(number * total + done, self.n_stages * total)
