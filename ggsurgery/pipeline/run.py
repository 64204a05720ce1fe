"""Run a recipe: what is done stays, what changed and what follows from it is done again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import OutputError, rename
from ..files import temporary
from ..files.system_errors import writing
from ..ggufio.copying import write_all
from ..ggufio.imatrix import Entry, Imatrix, write_imatrix
from ..host import use_threads
from ..jobs import cautions
from ..measure.results.result_files import Results
from ..plan.recipe import Recipe
from ..release.request import safe_name
from ..runtime.quantize import plan
from ..runtime.quantize_plan import check_requantized, requantized_warning
from ..surgery.prepare import prepare
from .document import Document, load_document, names_of
from .evaluation import measurements, results_of
from .paths import Places, stages_of_file
from .recovery import check_stages, most_bytes
from .source import find_source
from .state import State, locked
from .tasks import Task, quantize_options, recipe_of, tasks_of
from .width import estimated


@dataclass(frozen=True)
class Event:
    """An event of a running pipeline.

    `kind`: `start`, `progress` (done of total), `done` (seconds, result), `skip` (up to date),
    `warning` (text; before the first step). `step` counts from 1, of `steps`.
    """

    kind: Literal["start", "progress", "done", "skip", "warning"]
    task: Task
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    result: Any = None
    text: str = ""
    step: int = 0
    steps: int = 0

    @property
    def label(self) -> str:
        """`step 3 of 14: quantize Q8_0`."""
        return f"step {self.step} of {self.steps}: {self.task.name}"


Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Planned:
    """A task before it runs: whether it is done already, and the size of what it writes.

    `at_most`: what will be cut is not known yet, so this is the size without a cut.
    """

    task: Task
    done: bool
    n_bytes: int | None
    at_most: bool = False


class Pipeline:
    """A recipe, its source and its folder; nothing is written before `run`.

    Example:
        >>> pipeline = Pipeline("models/demo.yaml", "demo")  # doctest: +SKIP
        >>> pipeline.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        recipe: str | Path | Document,
        out: str | Path,
        *,
        source: str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        """Read and check everything that can be checked before the work.

        Args:
            threads: for every step; None takes `host.n_threads`.

        Raises:
            FormatError: the recipe or the source is not what it should be.
            PlanError, ArchitectureError: an operation cannot be done.
            EngineError: a file type that does not exist or cannot be made.
        """
        self.document = recipe if isinstance(recipe, Document) else load_document(recipe)
        self.source = find_source(self.document, None if source is None else Path(source))
        self.folder = Path(out)
        self.threads = threads
        self.places = Places(
            self.folder, safe_name(self.document.name), stages_of_file(self.document.file)
        )
        check_stages(self.document, self.source)
        self.tasks = tasks_of(self.document, self.source, self.places)
        #: Warnings before the work starts.
        self.cautions = tuple(self._check())
        #: Warnings of `plan` before the work starts.
        self.warnings: tuple[str, ...] = ()

    def _check(self) -> list[str]:
        """Check the requests as far as they concern the source; returns their warnings.

        Raises:
            GGSurgeryError: a request cannot work.
        """
        found = []
        file = self.document.file
        sections = (
            ("laco", file.laco),
            ("prune-width", file.prune_width),
            ("heal", file.heal),
            ("distil", file.distil),
            ("imatrix", file.imatrix),
        )
        for name, section in sections:
            if section is not None:
                texts = cautions.of_context(self.source, section.ctx)
                found += [rename(text, names_of(type(section), name)) for text in texts]
        for asked in measurements(self.document, self.source):
            if asked.needs is None:
                found += map(asked.named, asked.request(self.source).check())
        return list(dict.fromkeys(found))

    def plan(self) -> list[Planned]:
        """Every task, whether it is done, and how large its file becomes (to the byte).

        Raises:
            EngineError: llama.cpp cannot make one of the files.
        """
        state = State(self.folder)
        done = {t.name for t in self.tasks if state.done(t.name, t.key) is not None}
        unknown = any(t.kind == "laco" and t.name not in done for t in self.tasks)
        recipe = self.document.recipe if unknown else recipe_of(self.document, self.places)
        if self.document.file.prune_width is not None:
            unknown = True
            recipe = estimated(self.document, self.source)
        sizes = self._sizes(recipe)
        more = len(self.places.stages) > 1  # their headers are not known to the byte
        return [
            Planned(t, t.name in done, sizes.get(t.name), unknown or (more and t.kind != "cut"))
            for t in self.tasks
        ]

    @property
    def files(self) -> dict[str, Path]:
        """The models of the run: `source`, `cut` and each type."""
        kinds = (*self.places.stages, "quantize")  # the last stage's model takes the cut's place
        made = {t.subject or "cut": t.files[0] for t in self.tasks if t.kind in kinds}
        return {"source": self.source, **made}

    def results(self, file: str) -> Results | None:
        """Everything measured so far of `source`, `cut` or a type."""
        asked = measurements(self.document, self.source)
        return results_of(self.places.results(file, asked))

    def _sizes(self, recipe: Recipe) -> dict[str, int]:
        """Sizes of all files that will be written, found without writing one.

        A sparse file with the cut model's header replaces it: llama.cpp's dry run reads
        shapes and types only.
        """
        types = [t.subject for t in self.tasks if t.kind == "quantize"]
        with prepare(recipe, [self.source]) as operation:
            layout = operation.layout
            stages = most_bytes(self.document, layout, operation.shell)
            sizes = {"cut": layout.n_bytes, **stages.steps}
            if not types:
                return sizes
            with temporary.Folder("sizes") as folder:
                model = folder / self.places.cut.name
                with writing(model), model.open("wb") as stream:
                    write_all(stream.fileno(), layout.header, 0)
                    os.ftruncate(stream.fileno(), layout.n_bytes)
                quantized = self._quantized_sizes(model, types)
                sizes |= {name: size + stages.header for name, size in quantized.items()}
        return sizes

    def _quantized_sizes(self, model: Path, types: list[str]) -> dict[str, int]:
        asked = self.document.file.imatrix
        imatrix = self.places.imatrix
        if asked is not None:  # sizes depend on whether there is one, not on what is in it
            imatrix = model.with_name(imatrix.name)
            entry = Entry(np.ones((1, 1), np.float32), np.ones(1, np.int64))
            text = Path(asked.text).name
            write_imatrix(Imatrix({"token_embd.weight": entry}, (text,), 1, 1), imatrix)
        found = []
        for ftype in types:
            options = quantize_options(self.document, imatrix, self.source, model, ftype)
            options_of_trial = options | {"allow_requantize": True}
            (one,) = plan(model, [ftype], **options_of_trial, trial=asked is not None)
            check_requantized(one.result, self.source, options["allow_requantize"])
            found.append(one.result)
        worst = max(found, key=lambda result: result.requantized)
        self.warnings = tuple(filter(None, [requantized_warning(worst, str(self.source))]))
        return {f"quantize {result.ftype}": result.n_bytes for result in found}

    def run(self, tell: Tell | None = None) -> dict[str, Any]:
        """Do every task that is not done; returns the figures of all, by task.

        Raises:
            OutputError: no room for all files (nothing was written), another run in the
                folder, a file in the way that this run did not make.
        """
        tell = tell or (lambda event: None)
        planned = self.plan()
        self._check_room(planned)
        if any(not p.done and p.task.kind == "quantize" for p in planned):
            for text in self.warnings:
                tell(Event("warning", self.tasks[0], text=text))
        self.folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {}
        with locked(self.folder):
            state = State(self.folder)
            self._check_in_the_way(state)
            for number, task in enumerate(self.tasks, 1):
                at = Event("start", task, step=number, steps=len(self.tasks))
                found = state.done(task.name, task.key)
                if found is not None:
                    results[task.name] = found.result
                    tell(replace(at, kind="skip", result=found.result))
                    continue
                tell(at)
                state.begin(task.files)
                began = time.monotonic()

                def report(done: int, total: int, at: Event = at) -> None:
                    tell(replace(at, kind="progress", done=done, total=total))

                with use_threads(self.threads):
                    result = task.make(report)
                state.record(task.name, task.key, task.files, result)
                results[task.name] = result
                seconds = time.monotonic() - began
                tell(replace(at, kind="done", seconds=seconds, result=result))
        return results

    def _check_room(self, planned: Sequence[Planned]) -> None:
        needed = sum(p.n_bytes or 0 for p in planned if not p.done)
        place = self.folder
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if needed > free:
            raise OutputError(
                "not enough room on the disk for all files of this recipe",
                file=self.folder,
                expected=f"{needed:,} bytes",
                found=f"{free:,} bytes free",
                hint="Nothing was written. Free some room, or ask for fewer types.",
            )

    def _check_in_the_way(self, state: State) -> None:
        for task in self.tasks:
            for file in task.files:
                if file.exists() and not state.owns(file):
                    raise OutputError(
                        "a file of this name exists that this run did not make",
                        file=file,
                        hint="Move it away, or choose another folder with --out.",
                    )
