"""Build the folder that people download."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..errors import FormatError
from ..files.fields import read_json
from ..files.progress import Progress
from ..measure.results.recovery import Recovery, is_recovery, read_recovery
from ..measure.results.result_files import Results, load_results, merge_results
from ..release.bundle import Bundle, build_bundle, check_folder
from ..release.laco_section import is_laco
from ..release.licence import licence_of
from ..release.request import Request
from ..runtime import worker
from ..runtime.memory import peak_memory
from . import cautions
from .fields import Threads
from .request import FilePath, FilePaths, Settings, Texts, option

#: `release.origin.RELATIONS`.
Relation = Literal["quantized", "finetune", "merge", "adapter"]


class ReleaseSettings(Settings, frozen=True, kw_only=True):
    """A recipe's section `release`."""

    family: Annotated[str | None, option("Chat family; default: recognised.", metavar="NAME")] = (
        None
    )
    base_model: Annotated[
        str | None, option("The model that this one was made from.", metavar="ORG/NAME")
    ] = None
    license: Annotated[
        str | None,
        option(
            "A file with the licence's text, or its SPDX or hub identifier (apache-2.0, gemma).",
            metavar="FILE|ID",
        ),
    ] = None
    recommended: Annotated[
        str | None, option("The file to recommend; default: by results.", metavar="TYPE")
    ] = None
    system: Annotated[str | None, option("A system prompt for the Modelfile.", metavar="TEXT")] = (
        None
    )
    languages: Annotated[Texts, option("For the card.", metavar="CODE", flag="language")] = ()
    tags: Annotated[Texts, option("For the card.", flag="tag")] = ()
    results: Annotated[
        FilePaths,
        option(
            "Result files (ggsurgery's or lm-eval's), several of one file too; or what "
            "`laco --out` wrote, and results/recovery.json of a run."
        ),
    ] = ()
    parameters: Annotated[
        dict[str, int | float],
        option(
            "Ollama PARAMETERs, instead of the header's or the family's.",
            flag="parameter",
            metavar="KEY=VALUE",
        ),
    ] = msgspec.field(default_factory=dict)
    memory: Annotated[bool, option("Measure the RAM of each file by loading it.")] = True
    repo: Annotated[
        str | None, option("Where it will be, for commands on the card.", metavar="ORG/NAME")
    ] = None
    relation: Annotated[
        Relation | None, option("To the base model; default: by the operations in the header.")
    ] = None
    quantized_by: Annotated[
        str | None, option("For the card; default: the header's.", metavar="NAME")
    ] = None
    check_tokenizer: Annotated[
        bool, option("Run `tokenizer check` on the recommended file; an error gives exit code 1.")
    ] = True

    def bundle(
        self, files: Iterable[Path], name: str | None, licence: Path | str | None, **more: Any
    ) -> Request:
        """The arguments of `release.build_bundle`.

        Args:
            licence: a file, or an identifier.
            more: further fields of `Request`.
        """
        return Request(
            files=tuple(files),
            name=name,
            family=self.family,
            base_model=self.base_model,
            license=licence if isinstance(licence, Path) else None,
            license_id=licence if isinstance(licence, str) else None,
            system=self.system,
            recommended=self.recommended,
            languages=tuple(self.languages),
            tags=tuple(self.tags),
            parameters=self.parameters,
            repo=self.repo,
            relation=self.relation,
            quantized_by=self.quantized_by,
            check_tokenizer=self.check_tokenizer,
            **more,
        )


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The bundle that was built."""

    bundle: Bundle
    warnings: tuple[str, ...] = ()


class ReleaseRequest(ReleaseSettings, frozen=True, kw_only=True):
    """Build a folder for people to download, from GGUF files of one model.

    Example:
        >>> ReleaseRequest(files=["m-Q8_0.gguf"], out="bundle").run()  # doctest: +SKIP
    """

    files: Annotated[FilePaths, option("GGUF files of one model.", metavar="FILE")]
    out: Annotated[FilePath, option("The folder to make.", role="output")]
    name: Annotated[str | None, option("The model's name; default: general.name.")] = None
    original: Annotated[FilePaths, option("Results of the model before surgery.")] = ()
    threads: Threads = None
    force: Annotated[bool, option("Replace an existing bundle.")] = False

    def check(self) -> list[str]:
        """Refuse missing files and a folder in the way, before the work."""
        for file in (*self.files, *self.results, *self.original):
            if not Path(file).is_file():
                raise FormatError("no such file", file=file)
        check_folder(Path(self.out), self.force)
        return []

    def run(self, progress: Progress | None = None) -> ReleaseResult:
        """Measure the memory of the files in child processes, and build the bundle."""
        named = None if self.license is None else licence_of(self.license, Path(self.license))
        laco, recovery, measured = _sorted(map(Path, self.results))
        files = tuple(map(Path, self.files))
        request = self.bundle(
            files,
            self.name,
            named,
            original=_original(list(map(Path, self.original))),
            results=measured,
            laco=laco,
            recovery=recovery,
            memory=memory_of(files, self.threads) if self.memory else {},
        )
        made = build_bundle(request, Path(self.out), force=self.force, progress=progress)
        return ReleaseResult(made, (*made.errors, *cautions.of_bundle(made)))


def _sorted(
    paths: Iterable[Path],
) -> tuple[dict[str, Any] | None, Recovery | None, tuple[Results, ...]]:
    """LaCo's statistics and a recovery, where files hold them, and the results of the others."""
    found: list[Results] = []
    laco, recovery = None, None
    for path in paths:
        document = read_json(path)
        if is_recovery(document):
            recovery = read_recovery(path)
        elif not is_laco(document):
            found += load_results(path)
        elif laco is not None:
            raise FormatError("a second file with LaCo's statistics", file=path)
        else:
            laco = document
    return laco, recovery, tuple(found)


def _original(paths: Sequence[Path]) -> Results | None:
    found = merge_results([r for path in paths for r in load_results(path)])
    if len(found) > 1:
        raise FormatError(
            "results of one model are needed",
            file=paths[-1],
            found=", ".join(r.model.file for r in found),
        )
    return found[0] if found else None


def memory_of(files: Iterable[Path], threads: int | None = None) -> dict[str, dict[str, int]]:
    """The peak memory of running each file, in a child process each."""
    return {file.name: worker.run(peak_memory, file, n_threads=threads) for file in files}
