"""Public benchmarks through lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..errors import GGSurgeryError, RequestError
from ..files.atomic import check_output
from ..files.progress import Progress
from ..measure.bench.run import N_CTX, require_harness, run_bench
from ..measure.draw import SEED
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..runtime import worker
from . import cautions
from .fields import Force, LimitSeed, Model, ResultFile, Threads
from .measured import Measured, envelope_of, write_json
from .request import FilePath, Settings, Texts, option


class BenchSettings(Settings, frozen=True, kw_only=True):
    """A recipe's section `evaluate.bench`."""

    tasks: Annotated[Texts, option("The harness's task names.", metavar="A,B,…", joined=True)]
    data: Annotated[
        FilePath | None, option("Folder of question files: no network is used.", role="folder")
    ] = None
    include_path: Annotated[
        FilePath | None,
        option("Folder of your own task files.", role="folder", old_keys=("include",)),
    ] = None
    limit: (
        Annotated[
            int,
            option(
                "Questions of each task; with `data`, the same share of every subject is drawn.",
                ge=1,
            ),
        ]
        | None
    ) = None
    limit_seed: LimitSeed = SEED
    shots: (
        Annotated[int, option("Solved examples; default: the task's own number.", ge=0)] | None
    ) = None
    chat: Annotated[bool, option("Ask through the file's chat template.")] = False
    ctx: Annotated[
        int, option("Context; longer prompts lose their beginning.", ge=64, short="-c")
    ] = N_CTX

    def agree(self) -> None:
        if not self.tasks:
            raise RequestError("`tasks` names no task")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult(Measured):
    """The figures of the tasks; `document` is the harness's own JSON."""

    document: Mapping[str, Any]


class BenchRequest(BenchSettings, frozen=True, kw_only=True):
    """Run tasks of lm-evaluation-harness on a file.

    Example:
        >>> BenchRequest(file="m.gguf", tasks=["piqa"], data="questions").run()  # doctest: +SKIP
    """

    file: Model
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def check(self) -> list[str]:
        """Refuse an output in the way, missing folders and a missing harness.

        Returns:
            Warnings.
        """
        require_harness()
        if self.out is not None:
            check_output(Path(self.out), (Path(self.file),), force=self.force)
        for folder in (self.data, self.include_path):
            if folder is not None and not Path(folder).is_dir():
                raise GGSurgeryError("no such folder", file=folder)
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> BenchResult:
        """Run the tasks in a child process."""
        found = worker.run(
            run_bench,
            self.file,
            list(self.tasks),
            data=self.data,
            include_path=self.include_path,
            limit=self.limit,
            limit_seed=self.limit_seed,
            shots=self.shots,
            chat=self.chat,
            n_ctx=self.ctx,
            n_threads=self.threads,
            progress=progress,
        )
        facts = envelope_of("bench", self)
        document = {**found.document, **facts}  # the harness's versions are of its tasks
        document["versions"] = {**found.document.get("versions", {}), **facts["versions"]}
        write_json(self.out, document, force=self.force, inputs=[Path(self.file)])
        results = Results(model_facts(Path(self.file)), tuple(found.scores))
        warnings = cautions.of_truncated(found.n_truncated, self.ctx)
        return BenchResult(results, tuple(warnings), document=document)
