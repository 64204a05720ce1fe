"""Build the folder that people download.

Name-TYPE.gguf …   the files            SHA256SUMS     of everything else in the folder
Modelfile          the recommended one  manifest.json  sources, recipe, versions, results
Modelfile.TYPE …   one a file           LICENSE        if given
README.md          the model card       NOTES.md       where Ollama's prompts differ
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..chat.vocabulary import Vocabulary
from ..errors import EngineError, FormatError, OutputError, json_text
from ..files import temporary
from ..files.atomic import tighten
from ..files.exchange import restore, swap_in
from ..files.fields import Fields, read_json, text
from ..files.progress import Progress
from ..files.system_errors import reading, writing
from ..files.text import MAX_SMALL, read_text
from ..measure.results.score import versions
from ..present.markdown import plain
from ..runtime import worker
from ..tokenizer.check import TokenizerReport, check_tokenizer
from ..tokenizer.findings import Finding
from .card import model_card
from .laco_section import check_laco
from .modelfile import Chat, chat_of, modelfile, parameters_of, stop_tokens
from .origin import base_entry, check_origin, quantized_by, relation
from .request import ReleaseFile, Request, foreign_results, recommended, release_files

MARK, SUMS = "manifest.json", "SHA256SUMS"


@dataclass(frozen=True)
class Bundle:
    """A finished bundle: its folder and files, the recommended one, and Ollama's predicted report.

    Args:
        errors: errors that checks found in the files; the bundle is complete nevertheless.
    """

    folder: Path
    files: tuple[Path, ...]
    recommended: str
    chat: Chat
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def build_bundle(
    request: Request, out: Path, *, force: bool = False, progress: Progress | None = None
) -> Bundle:
    """Build a bundle; the folder appears complete or not at all.

    GGUF files are linked where the file system can, else copied.

    Args:
        force: replace an existing bundle (a folder with a `manifest.json` from ggsurgery, or an
            empty one); anything else is never touched.
        progress: called with (bytes done, bytes in all) while checksums are taken.

    Raises:
        OutputError: the folder exists, or holds something else.
        FormatError: the files are not a release; see `release_files`, `check_origin`, `chat_of`.
        MissingExtraError: huggingface_hub is not installed.
    """
    check_origin(request.base_model, request.repo, request.relation)
    files = release_files(request)
    best, why = recommended(files, request.recommended)
    chat = chat_of(best.header, request.family)
    name = request.name or str(best.header.get("general.name") or best.source.stem)
    restore(out)
    check_folder(out, force)
    if request.laco is not None:
        check_laco(request.laco, best.header)
    tokenizer = _tokenizer(best) if request.check_tokenizer else None
    errors, warnings = _findings(tokenizer)
    texts = _texts(request, files, best, why, chat, name, errors)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary.Folder(out=out) as made, writing(out, "the bundle"):
        for file in files:
            _place(file.source, made / file.name)
        for file_name, text in texts.items():
            _write(made / file_name, text)
        if request.license is not None:
            _copy(request.license, made / "LICENSE")
        sums = _checksums(made, progress)
        manifest = _manifest(request, files, best, why, chat, name, sums)
        if tokenizer is not None:
            manifest["tokenizer"] = tokenizer.to_json()
        _write(made / MARK, json_text(manifest, indent=2) + "\n")
        sums[MARK] = _sha256(made / MARK)
        lines = [f"{digest}  {file_name}\n" for file_name, digest in sorted(sums.items())]
        _write(made / SUMS, "".join(lines))
        swap_in(made, out)
    stated = best.header.get("general.license")
    if (
        request.license_id is not None
        and stated
        and (str(stated).lower() != request.license_id.lower())
    ):
        warnings.append(
            f"the card names the licence {request.license_id}, the files' headers name "
            f"{stated}: change them with `ggsurgery meta set general.license`"
        )
    warnings += [
        f"results of {name} are of no file of this release and are left out"
        for name in foreign_results(request)
    ]
    listed = tuple(sorted(out.iterdir()))
    return Bundle(out, listed, best.name, chat, tuple(warnings), tuple(errors))


def _tokenizer(file: ReleaseFile) -> TokenizerReport:
    """Check the tokenizer as llama.cpp runs it; what llama.cpp refuses is a finding too."""
    try:
        report: TokenizerReport = worker.run(check_tokenizer, file.source)
    except EngineError as error:
        vocabulary = Vocabulary.of(file.header)
        finding = Finding("error", "llama.cpp", error.problem)
        return TokenizerReport(
            vocabulary.model, vocabulary.pre, len(vocabulary.tokens), 0, 0, 0, (finding,)
        )
    return report


def _findings(report: TokenizerReport | None) -> tuple[list[str], list[str]]:
    """The errors and the warnings of the tokenizer check."""
    found = report.findings if report is not None else ()
    texts = [(f.level, f"tokenizer, {f.check}: {f.message}") for f in found]
    return (
        [t for level, t in texts if level == "error"],
        [t for level, t in texts if level == "warning"],
    )


def _write(path: Path, text: str) -> None:
    """Bytes of a header that are not UTF-8 are escaped."""
    path.write_bytes(text.encode(errors="backslashreplace"))


def _texts(
    request: Request,
    files: list[ReleaseFile],
    best: ReleaseFile,
    why: str,
    chat: Chat,
    name: str,
    errors: list[str],
) -> dict[str, str]:
    """The written files of a bundle by name."""
    licence = read_text(request.license, MAX_SMALL).removesuffix("\n") if request.license else None
    texts = {
        f"Modelfile.{file.ftype}": modelfile(
            file.header,
            chat,
            file.name,
            parameters=request.parameters,
            system=request.system,
            license=licence,
        )
        for file in files
    }
    texts["Modelfile"] = texts[f"Modelfile.{best.ftype}"]
    texts["README.md"] = model_card(request, files, best, why, chat, name, errors)
    if chat.notes:
        notes = "\n".join(f"- {plain(note)}" for note in chat.notes)
        intro = (
            "The Modelfile's TEMPLATE gives the prompts of the chat template in the GGUF, but for "
            "this:\n\n"
            if chat.go is not None
            else ""
        )
        texts["NOTES.md"] = f"# Prompts in Ollama\n\n{intro}{notes}\n"
    return texts


def _manifest(
    request: Request,
    files: list[ReleaseFile],
    best: ReleaseFile,
    why: str,
    chat: Chat,
    name: str,
    sums: dict[str, str],
) -> dict[str, Any]:
    metadata = best.header.metadata
    made = {k: metadata[k].value for k in metadata if k.startswith("ggsurgery.")}
    listed = []
    for file in files:
        entry: dict[str, Any] = {
            "file": file.name,
            "type": file.ftype,
            "bytes": file.n_bytes,
            "sha256": sums[file.name],
            "bits_per_weight": round(file.bits_per_weight, 4),
        }
        if file.memory:
            entry["memory"] = dict(file.memory)
        if file.results:
            entry["results"] = file.results.to_json()
        listed.append(entry)
    manifest: dict[str, Any] = {
        "ggsurgery": "bundle",
        "version": 1,
        "name": name,
        "architecture": best.header.architecture,
        "layers": best.header.n_layers,
        "parameters": best.header.n_parameters,
        "base_model": base_entry(request, best.header),
        "base_model_relation": relation(request, best.header),
        "repo": request.repo,
        "quantized_by": quantized_by(request, best.header),
        "recommended": {"file": best.name, "why": why},
        "chat": {
            "family": chat.match.family.name if chat.match else None,
            "ollama_capabilities": list(chat.capabilities.names),
            "lost": list(chat.lost),
            "notes": list(chat.notes),
            "parameters": parameters_of(best.header, chat, request.parameters),
            "stop": list(stop_tokens(Vocabulary.of(best.header), chat)),
        },
        "files": listed,
        "made_by": {"ggsurgery": __version__, **versions()},
        "provenance": made,
    }
    if request.original:
        manifest["original"] = request.original.to_json()
    if request.laco:
        manifest["laco"] = dict(request.laco)
    if request.recovery:
        manifest["recovery"] = request.recovery.to_json()
    if request.said:
        manifest["said"] = dict(request.said)
    if request.recipe:
        manifest["recipe"] = request.recipe
    return {k: v for k, v in manifest.items() if v is not None}


def check_folder(out: Path, force: bool) -> None:
    """Refuse to build a bundle over something else.

    Raises:
        OutputError: the folder exists (without `force`), or holds other files than a bundle's.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError("the output is a file", file=out, expected="a folder")
    if not any(out.iterdir()):
        return
    if not force:
        raise OutputError(
            "the folder exists", file=out, hint="Name another one, or replace it with `force`."
        )
    try:
        ours = Fields(read_json(out / MARK)).get("ggsurgery", text) == "bundle"
    except FormatError:
        ours = False
    if not ours:
        raise OutputError(
            "the folder is not a bundle of ggsurgery and is not replaced",
            file=out,
            expected=f"a {MARK} of ggsurgery",
            hint="Name another folder.",
        )
    with contextlib.suppress(OSError, FormatError):
        lines = read_text(out / SUMS, MAX_SMALL).splitlines()
        made = {SUMS, *(line.partition("  ")[2] for line in lines)}
        foreign = sorted(p.name for p in out.iterdir() if p.name not in made)
        if foreign:
            raise OutputError(
                "the bundle's folder holds a file that is not the bundle's and would be lost",
                file=out / foreign[0],
                hint="Move it away, or name another folder.",
            )


def _place(source: Path, target: Path) -> None:
    """Link a file into the bundle, or copy it where links do not reach."""
    with contextlib.suppress(OSError):
        os.link(source.resolve(), target)
        return
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with the rights of the umask, or the tighter ones of the source.

    Raises:
        InputError: the source cannot be read. OSError: of the target.
    """
    with reading(source):
        stream = source.open("rb")
    with stream, target.open("xb") as out:
        tighten(out.fileno(), [source])
        while True:
            with reading(source):
                block = stream.read(1 << 22)
            if not block:
                return
            out.write(block)


def _checksums(folder: Path, progress: Progress | None) -> dict[str, str]:
    paths = sorted(folder.iterdir())
    total, before = sum(p.stat().st_size for p in paths), 0
    sums = {}
    for path in paths:
        start = before

        def report(n: int, start: int = start) -> None:
            if progress is not None:
                progress(start + n, total)

        sums[path.name] = _sha256(path, report)
        before += path.stat().st_size
    return sums


def _sha256(path: Path, report: Callable[[int], None] | None = None) -> str:
    digest, done = hashlib.sha256(), 0
    with reading(path), path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
            done += len(block)
            if report is not None:
                report(done)
    return digest.hexdigest()
