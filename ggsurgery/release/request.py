"""The inputs of a release: the files, the measurements, and facts that only the user knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..files.names import fitting
from ..ggufio.constants import LlamaFileType
from ..ggufio.header import read_header
from ..ggufio.types import Header
from ..measure.results.facts import model_facts
from ..measure.results.recovery import Recovery
from ..measure.results.result_files import Results, merge_results
from ..measure.results.score import Score


@dataclass(frozen=True)
class Request:
    """The contents of a bundle; fields that are None or empty are omitted.

    Args:
        files: GGUF files of one model in several types.
        name: the model's name; None takes `general.name` of the first file.
        family: the chat family; None recognises it.
        base_model: `org/name` of the model it was made from.
        license: a file with the licence's text.
        license_id: the licence's identifier; None takes the header's.
        system: a SYSTEM prompt for the Modelfile.
        recommended: the type of the recommended file; None chooses by the results.
        results: what was measured of the files, and of the original (`original`).
        laco: settings and statistics of LaCo, as `Result.to_json` writes them.
        recovery: what each step behind the cut won back.
        said: what the recommended file answered, `{"question", "text"}`.
        memory: peak bytes of loading a file, by file name, and the context it was measured at.
        recipe: the recipe document that made the files.
        repo: `owner/name` of the repository that the bundle goes to, for commands on the card.
        relation: to the base model, in the Hub's words; None finds it in the header.
        quantized_by: who made the files; None takes `general.quantized_by`.
        check_tokenizer: run llama.cpp's tokenizer against the reference and the samples.
    """

    files: tuple[Path, ...]
    name: str | None = None
    family: str | None = None
    base_model: str | None = None
    license: Path | None = None
    license_id: str | None = None
    system: str | None = None
    recommended: str | None = None
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    original: Results | None = None
    results: tuple[Results, ...] = ()
    laco: Mapping[str, Any] | None = None
    recovery: Recovery | None = None
    said: Mapping[str, Any] | None = None
    memory: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    recipe: str | None = None
    repo: str | None = None
    relation: str | None = None
    quantized_by: str | None = None
    check_tokenizer: bool = True


@dataclass(frozen=True)
class ReleaseFile:
    """One GGUF of a bundle: where it comes from, what it is called there, what it is."""

    source: Path
    name: str
    ftype: str
    header: Header
    results: Results | None = None
    memory: Mapping[str, int] | None = None

    @property
    def n_bytes(self) -> int:
        return sum(self.header.file_size)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.header.n_bytes / max(1, self.header.n_parameters)

    def value(self, metric: str) -> float | None:
        """A figure by its metric, None where it was not measured."""
        found = self.results.score(metric) if self.results else None
        return None if found is None else found.value


def type_of(header: Header) -> str:
    """llama.cpp's name of a file's type: `Q4_K_M`.

    Raises:
        FormatError: the header does not state it.
    """
    try:
        name = LlamaFileType(header.get("general.file_type")).name
    except ValueError:
        raise FormatError(
            "the header does not state the file's type",
            file=header.path,
            tensor="general.file_type",
            found=header.get("general.file_type"),
            hint="Write it with: ggsurgery quantize IN OUT --type TYPE",
        ) from None
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def release_files(request: Request) -> list[ReleaseFile]:
    """Open the files of a request and put their results beside them, largest file first.

    Raises:
        FormatError: no file, two of one type or name, files of different models, a split one,
            or results that do not belong to them or together.
    """
    if not request.files:
        raise FormatError("no file to release")
    headers = [read_header(path) for path in request.files]
    for header in headers:
        if len(header.paths) > 1:
            raise FormatError(
                "a split file cannot be released",
                file=header.path,
                expected="one file",
                found=f"{len(header.paths)} shards",
                hint=f"Write it as one: ggsurgery keep --layers 0-{header.n_layers - 1} IN OUT",
            )
    name = request.name or str(headers[0].get("general.name") or request.files[0].stem)
    by_type: dict[str, Header] = {}
    for header in headers:
        kind = type_of(header)
        if kind in by_type:
            raise FormatError(
                f"two files of the type {kind}", file=header.path, found=by_type[kind].path
            )
        if _identity(header) != _identity(headers[0]):
            raise FormatError(
                "the files are of different models",
                file=header.path,
                expected=_identity(headers[0]),
                found=_identity(header),
            )
        if header.path.name in {h.path.name for h in by_type.values()}:
            raise FormatError(
                "two files of one name",
                file=header.path,
                hint="Results are found by a file's name: rename one.",
            )
        by_type[kind] = header
    stem = safe_name(name)
    found = [
        ReleaseFile(
            header.path,
            f"{stem}-{kind}.gguf",
            kind,
            header,
            _results_of(request, header.path),
            request.memory.get(header.path.name),
        )
        for kind, header in by_type.items()
    ]
    _check_alike([(f.source, f.results) for f in found], request.original)
    return sorted(found, key=lambda f: -f.n_bytes)


def _identity(header: Header) -> tuple[str, int, int]:
    return header.architecture, header.n_layers, header.n_parameters


def _results_of(request: Request, path: Path) -> Results | None:
    """All results whose file has this name, wherever it lay when it was measured.

    Raises:
        FormatError: they are of another file of this name.
    """
    found = [r for r in request.results if Path(r.model.file).name == path.name]
    if not found:
        return None
    ours = model_facts(path)
    for results in found:
        if not ours.may_be(results.model):
            raise FormatError(
                "the results are of another file of this name",
                file=path,
                expected=ours.identity,
                found=results.model.identity,
                hint="The file has changed since it was measured: measure it again.",
            )
    merged = merge_results([replace(r, model=replace(r.model, file=path.name)) for r in found])
    return replace(merged[0], model=found[0].model)


def _check_alike(measured: Sequence[tuple[Path, Results | None]], original: Results | None) -> None:
    """Refuse figures that a card would compare although they were measured differently.

    Raises:
        FormatError: names the file, the metric and the first setting that differs.
    """
    first: dict[str, Score] = {}
    known = [(Path(original.model.file), original)] if original else []
    for path, results in [*known, *((p, r) for p, r in measured if r is not None)]:
        for score in results.scores:
            base = first.setdefault(score.label, score)
            unlike = base.unlike(score, same_n=True)
            if unlike is not None:
                raise FormatError(
                    f"{score.label} was measured differently from the other models, in {unlike}",
                    file=path,
                    hint="Measure all alike, or leave these results out.",
                )


def foreign_results(request: Request) -> list[str]:
    """Files that results were given of, but that are not released."""
    names = {path.name for path in request.files}
    found = (Path(r.model.file).name for r in request.results)
    return list(dict.fromkeys(name for name in found if name not in names))


def safe_name(name: str) -> str:
    """A model's name as part of a file's: no white space, no separators.

    Example:
        >>> safe_name("Qwen3 8B / LaCo")
        'Qwen3-8B-LaCo'
    """
    kept = "".join(c if c.isalnum() or c in "._+-" else " " for c in name)
    name = "-".join(part for part in kept.split() if part.strip("-._")).lstrip("-.")
    return fitting(name or "model")  # never an option of a command, never hidden


#: A file this much worse in perplexity than the best one is not recommended.
TOLERATED = 1.05


def recommended(files: list[ReleaseFile], wanted: str | None = None) -> tuple[ReleaseFile, str]:
    """The file to recommend, and why.

    The smallest whose perplexity is within `TOLERATED` of the best file's, if all were
    measured; else Q4_K_M; else the largest.

    Raises:
        FormatError: the wanted type is not among the files.
    """
    by_type = {f.ftype: f for f in files}
    if wanted is not None:
        if wanted not in by_type:
            raise FormatError(
                f"no file of the type {wanted} to recommend",
                expected=f"one of {', '.join(by_type)}",
            )
        return by_type[wanted], "chosen by its makers"
    values = [f.value("perplexity") for f in files]
    if len(files) > 1 and all(v is not None for v in values):
        best = min(v for v in values if v is not None)
        good = [
            f for f, v in zip(files, values, strict=True) if v is not None and v <= TOLERATED * best
        ]
        percent = round(100 * (TOLERATED - 1))
        return good[-1], f"the smallest file within {percent} % of the best file's perplexity"
    if "Q4_K_M" in by_type:
        return by_type["Q4_K_M"], "the usual compromise; quality was not measured"
    return files[0], "the largest file; quality was not measured"
