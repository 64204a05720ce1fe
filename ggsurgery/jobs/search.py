"""Try configurations of operations within a budget, on one machine or many."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from ..compensate.quick import quickly_healed
from ..errors import OutputError, RequestError
from ..files import temporary
from ..files.atomic import atomic_path
from ..files.names import fitting
from ..files.piped import kept
from ..files.progress import NamedProgress, Progress
from ..find.plot import check_plot, save_plot
from ..find.search.disjoint import check_disjoint
from ..find.search.optimize import Budget, Work
from ..find.search.report import Verdict, report
from ..find.search.run import Outcome, search
from ..find.search.space import KINDS, parse_kinds
from ..find.search.storage import shown
from ..find.search.study import Second
from ..ggufio.reader import Source
from ..measure.setup import Setup
from ..measure.variants.measure import check_data
from ..plan.recipe import load_recipe
from ..runtime import worker
from ..runtime.machine import cache_folder
from .candidates import METRIC_HELP, CandidateRequest, context_warnings, envelope_of, files_of
from .fields import Force, Plot
from .request import FilePath, FilePaths, Texts, option


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All configurations, the winner on the reporting set, and their JSON document."""

    outcome: Outcome
    verdict: Verdict | None
    document: dict[str, Any]
    warnings: tuple[str, ...] = ()
    n_recipes: int = 0


class SearchRequest(CandidateRequest, frozen=True, kw_only=True):
    """Search for operations that cost least (or help), within a budget.

    Example:
        >>> SearchRequest(file="m.gguf", study="cuts", text="t.txt").run()  # doctest: +SKIP
    """

    study: Annotated[str, option("Name of the study, made or joined.", metavar="NAME")]
    space: Annotated[Texts, option(f"Operations to try: {', '.join(KINDS)}.", joined=True)] = (
        "delete",
        "swap",
        "duplicate",
        "interpolate",
    )
    max_ops: Annotated[
        int, option("Operations in one configuration. 1 tries every single one.", ge=1, le=8)
    ] = 1
    objective: Annotated[str, option(METRIC_HELP)] = "perplexity"
    second: Annotated[Second | None, option("A further objective: Pareto front.")] = None
    budget: Annotated[
        str,
        option(
            "Configurations in all (200; with several workers it may be a few more), or time of "
            "this worker (90s, 30m, 2h).",
            metavar="N|TIME",
        ),
    ] = "200"
    storage: Annotated[
        str | None,
        option(
            "SQLite or journal file (study.db, study.log), PostgreSQL or grpc:// URL. "
            "Default: NAME.db.",
            metavar="URL",
        ),
    ] = None
    sampler: Annotated[
        Literal["tpe", "nsga2", "random", "grid"],
        option(
            "What proposes configurations once the single operations are done; nsga2 suits two "
            "objectives."
        ),
    ] = "tpe"
    heal: Annotated[
        bool,
        option(
            "Rank by the perplexity after a quick refit at the seams, as `prune-depth --by healed` "
            "does: fitted on three quarters of the windows, measured on the last quarter."
        ),
    ] = False
    halving: Annotated[
        bool,
        option("Give up on a candidate in the worse half of those seen, after 1, 2, 4 … windows."),
    ] = False
    enqueue: Annotated[
        FilePaths,
        option(
            "A hand-made recipe (YAML or JSON) as a configuration of the study; may be repeated.",
            metavar="RECIPE",
        ),
    ] = ()
    report_text: Annotated[
        FilePath | None,
        option(
            "Measure the winner again on this other text: perplexity, or KL if that was the "
            "objective."
        ),
    ] = None
    report_data: Annotated[
        FilePath | None,
        option(
            "Measure the best again on these questions: choices, or problems if gsm8k was the "
            "objective."
        ),
    ] = None
    recipes: Annotated[
        FilePath | None,
        option("Write the best recipes to this folder.", metavar="FOLDER", role="output"),
    ] = None
    top: Annotated[int, option("Recipes written, and rows shown.", ge=1)] = 10
    seed: Annotated[int, option("Seed of the sampler and the controls.", ge=0)] = 0
    heartbeat: Annotated[
        int, option("Seconds between signs of life; after three the candidate is given back.", ge=1)
    ] = 60
    plot: Plot = None
    force: Force = False

    def agree(self) -> None:
        parse_budget(self.budget)
        if self.heal and self.objective != "perplexity":
            raise RequestError("`heal` ranks by perplexity", found=f"`objective` {self.objective}")
        if self.heal and self.report_data is not None:
            raise RequestError("`heal` reports on a text", expected="`report_text`")
        if self.report_text is not None and self.report_data is not None:
            raise RequestError("the winner is reported on `report_text` or on `report_data`")

    def setup(self, metric: str) -> Setup:
        """As the library takes it."""
        found = super().setup(metric)
        return replace(found, refit=quickly_healed) if self.heal else found

    @property
    def url(self) -> str:
        """The storage: as given, or a file named like the study."""
        return self.storage or f"{fitting(self.study)}.db"

    def check(self) -> list[str]:
        """Refuse outputs in the way and a reporting set that cannot be measured.

        Returns:
            Warnings.
        """
        setup = self.setup(self.objective)
        self._reporting(setup)
        if self.plot is not None:
            others = (self.report_text, self.report_data, *self.enqueue, self.url)
            inputs = [*files_of(setup), *(Path(p) for p in others if p is not None)]
            check_plot(Path(self.plot), inputs, force=self.force)
        folder = None if self.recipes is None else Path(self.recipes)
        if folder is not None and folder.exists() and not folder.is_dir():
            raise OutputError("not a folder", file=folder)
        return context_warnings(setup)

    def run(
        self, progress: Progress | None = None, stages: NamedProgress | None = None
    ) -> SearchResult:
        """Search in child processes, report the winner, write recipes and the plot.

        Args:
            stages: instead of `progress`, called with the stage too.
        """

        def stage(name: str) -> Progress | None:
            if stages is None:
                return progress
            return lambda done, total: stages(name, done, total)

        setup = self.setup(self.objective)
        reporting = self._reporting(setup)
        found = search(self._work(setup), stage(f"study {self.study}"))
        verdict = None
        if reporting is not None and found.ranked:
            with temporary.Folder("report") as folder:
                verdict = report(
                    reporting,
                    found.ranked[0],
                    found.tried,
                    folder / "journal.jsonl",
                    folder,
                    seed=self.seed,
                    progress=stage("winner and controls"),
                )
        n_recipes = 0 if self.recipes is None else self._write(found, Path(self.recipes))
        figures = {
            "study": self.study,
            "storage": shown(self.url),
            "objective": self.objective,
            "direction": "lower" if found.lower_is_better else "higher",
            "second": self.second,
            "tried": found.tried,
            "rows": [r.to_json() for r in found.rows],
            "pareto": [r.number for r in found.front],
            "report": None if verdict is None else verdict.to_json(),
        }
        if self.plot is not None:
            save_plot(figures, Path(self.plot), force=self.force)
        warning: tuple[str, ...] = ()
        if verdict is None and reporting is not None:
            warning = ("no configuration could be measured, so the report has no winner",)
        elif verdict is None:
            warning = (
                "these figures are of the text that the winner was chosen on; `report_text` "
                "gives figures to rely on",
            )
        document = envelope_of("search", setup) | figures
        return SearchResult(found, verdict, document, warning, n_recipes)

    def _work(self, setup: Setup) -> Work:
        place = self.url if "://" in self.url else str(Path(self.url).absolute())
        with Source(setup.path) as source:
            checksum = source.checksum()
        space = ",".join(self.space)
        book = _journal(
            self.study, place, checksum, setup.facts(), space, self.max_ops, self.second
        )
        return Work(
            self.study,
            setup,
            self.url,
            book,
            parse_kinds(space),
            self.max_ops,
            parse_budget(self.budget),
            second=self.second,
            sampler=self.sampler,
            seed=self.seed,
            halving=self.halving,
            heartbeat=self.heartbeat,
            recipes=tuple(load_recipe(path) for path in self.enqueue),
        )

    def _reporting(self, setup: Setup) -> Setup | None:
        """The reporting set, checked before the search that it waits for."""
        other = reporting_setup(setup, self.report_text, self.report_data)
        if other is not None:
            worker.run(check_data, other, file=setup.path)
            check_disjoint(setup, other)
        return other

    def _write(self, found: Outcome, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        best = found.ranked[: self.top]
        for rank, row in enumerate(best, 1):
            text = yaml.safe_dump(row.recipe.to_json(), sort_keys=False, allow_unicode=True)
            path = folder / f"{rank:02}-{row.digest[:8]}.yaml"
            with atomic_path(path, force=True) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        return len(best)


def reporting_setup(setup: Setup, text: str | Path | None, data: str | Path | None) -> Setup | None:
    """The setup that measures the winner on another text or other questions."""
    if text is not None:
        metric = setup.metric if setup.needs_text else "perplexity"
        return replace(setup, metric=metric, text=kept(text))
    if data is not None:
        kind = "gsm8k" if setup.metric.partition(":")[0] == "gsm8k" else "choices"
        return replace(setup, metric=f"{kind}:{kept(data)}", text=None)
    return None


def parse_budget(text: str) -> Budget:
    """`200` configurations, or `90s`, `30m`, `2h`.

    Raises:
        RequestError: neither.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        if text[-1:] in units:
            seconds = float(text[:-1]) * units[text[-1]]
            if not math.isfinite(seconds):
                raise ValueError
            return Budget(seconds=seconds)
        return Budget(count=int(text))
    except ValueError:
        raise RequestError("`budget`", expected="200, 90s, 30m or 2h", found=repr(text)) from None


def _journal(study: str, *question: Any) -> Path:
    """This machine's own record: one file for each study of each storage and question."""
    folder = cache_folder() / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in study)
    key = hashlib.sha256(repr(question).encode()).hexdigest()[:8]
    return folder / f"{fitting(name)}-{key}.jsonl"
