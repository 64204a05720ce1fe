"""release: the folder that people download; release push: upload it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import FormatError
from ..files.fields import read_json
from ..jobs import cautions
from ..measure.results.result_files import Results, load_results, merge_results
from ..present.numbers import human_bytes
from ..release.bundle import Bundle, build_bundle, check_folder
from ..release.laco_section import is_laco
from ..release.licence import licence_of
from ..release.origin import RELATIONS
from ..release.push import push as push_bundle
from ..release.push import repo_of
from ..release.request import Request
from ..runtime import worker
from ._files import FILE
from ._groups import DefaultGroup
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import progress_bar


@click.group(cls=DefaultGroup, default="build", no_args_is_help=True)
def release() -> None:
    """Build a folder for people to download, or upload one.

    `release FILE… --out DIR` is short for `release build FILE… --out DIR`: GGUF files,
    Modelfiles, a model card, checksums and a manifest, everything computed from the files
    and the results that are given.

    \b
    Example:
      ggsurgery release tiny-Q8_0.gguf tiny-Q4_K_M.gguf --out bundle
      ggsurgery release push bundle my-name/tiny
    """


@release.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--out", required=True, type=FILE, help="The folder to make.")
@click.option("--name", help="The model's name; default: general.name.")
@click.option("--family", metavar="NAME", help="Chat family; default: recognised.")
@click.option("--base-model", metavar="ORG/NAME", help="What it was made from.")
@click.option(
    "--results",
    type=FILE,
    multiple=True,
    help="Result files (ggsurgery's or lm-eval's), several of one file too; or what "
    "`laco --log` wrote.",
)
@click.option("--original", type=FILE, multiple=True, help="Results of the model before surgery.")
@click.option(
    "--license",
    "licence",
    metavar="FILE|ID",
    help="A file with the licence's text, or its SPDX or hub identifier (apache-2.0, gemma).",
)
@click.option("--system", metavar="TEXT", help="A system prompt for the Modelfile.")
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="KEY=VALUE",
    help="An Ollama PARAMETER, instead of the header's or the family's.",
)
@click.option("--recommended", metavar="TYPE", help="The file to recommend; default: by results.")
@click.option("--repo", metavar="ORG/NAME", help="Where it will be, for commands on the card.")
@click.option(
    "--relation",
    type=click.Choice(RELATIONS),
    help="To the base model; default: by the operations in the header.",
)
@click.option("--quantized-by", metavar="NAME", help="For the card; default: the header's.")
@click.option("--language", "languages", multiple=True, metavar="CODE", help="For the card.")
@click.option("--tag", "tags", multiple=True, help="For the card.")
@click.option(
    "--memory/--no-memory",
    default=True,
    show_default=True,
    help="Measure the RAM of each file by loading it.",
)
@click.option(
    "--check-tokenizer/--no-check-tokenizer",
    default=True,
    show_default=True,
    help="Run `tokenizer check` on the recommended file; an error gives exit code 1.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    /,
    files: tuple[Path, ...],
    out: Path,
    results: tuple[Path, ...],
    original: tuple[Path, ...],
    licence: str | None,
    parameters: tuple[str, ...],
    memory: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build a bundle from GGUF files of one model.

    The bundle is kept where a check finds an error; the card names it.

    \b
    Example:
      ggsurgery release tiny-*.gguf --out bundle --base-model Qwen/Qwen3-1.7B
      ggsurgery release tiny-Q4_K_M.gguf --out bundle --results q4.json --original base.json
    """
    for file in (*files, *results, *original):
        if not file.is_file():
            raise FormatError("no such file", file=file)
    named = None if licence is None else licence_of(licence, Path(licence))
    numbers = dict(_parameter(text) for text in parameters)
    check_folder(out, force)  # before the memory of every file is measured
    laco, measured = _sorted(results)
    request = Request(
        files=files,
        license=named if isinstance(named, Path) else None,
        license_id=named if isinstance(named, str) else None,
        original=_original(original),
        results=measured,
        laco=laco,
        memory=_memory(files) if memory else {},
        parameters=numbers,
        **options,
    )
    with progress_bar("checksums", "B") as progress:
        made = build_bundle(request, out, force=force, progress=progress)
    _show(made, as_json)
    if made.errors:
        ctx.exit(1)


@release.command()
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.argument("repo", metavar="ORG/NAME")
@click.option("--public", is_flag=True, help="Make a new repository public; default: private.")
@click.option("--endpoint", metavar="URL", help="Another hub than huggingface.co.")
@click.option("--message", help="The commit's message.")
@json_option
def push(
    folder: Path, repo: str, public: bool, endpoint: str | None, message: str | None, as_json: bool
) -> None:
    """Check a bundle against its checksums and upload it with huggingface_hub.

    The upload was tested against a local stand-in for the hub only, not against
    huggingface.co itself. The token is the one of `hf auth login` or of HF_TOKEN.

    \b
    Example:
      ggsurgery release push bundle my-name/tiny
    """
    named = repo_of(folder)
    if named not in (None, repo):
        warn(
            f"the card's commands name the repository {named}: build the bundle with --repo {repo}"
        )
    done = push_bundle(folder, repo, private=not public, endpoint=endpoint, message=message)
    if as_json:
        print_json({"repo": done.repo, "url": done.url, "files": list(done.files)})
    else:
        echo(f"{done.url}: {len(done.files)} files, {human_bytes(done.n_bytes)}")


def _sorted(paths: tuple[Path, ...]) -> tuple[dict[str, Any] | None, tuple[Results, ...]]:
    """LaCo's statistics, if one of the files holds them, and the results of the others."""
    found: list[Results] = []
    laco = None
    for path in paths:
        document = read_json(path)
        if not is_laco(document):
            found += load_results(path)
        elif laco is not None:
            raise FormatError("a second file with LaCo's statistics", file=path)
        else:
            laco = document
    return laco, tuple(found)


def _original(paths: tuple[Path, ...]) -> Results | None:
    found = merge_results([r for path in paths for r in load_results(path)])
    if len(found) > 1:
        raise FormatError(
            "results of one model are needed",
            file=paths[-1],
            found=", ".join(r.model.file for r in found),
        )
    return found[0] if found else None


def _memory(files: tuple[Path, ...]) -> dict[str, dict[str, int]]:
    from ..runtime.memory import peak_memory

    return {file.name: worker.run(peak_memory, file) for file in files}


def _parameter(text: str) -> tuple[str, float]:
    key, _, value = text.partition("=")
    try:
        return key, int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not KEY=NUMBER", param_hint="--parameter") from None


def _show(made: Bundle, as_json: bool) -> None:
    chat = made.chat
    if as_json:
        print_json(
            {
                "folder": str(made.folder),
                "files": [p.name for p in made.files],
                "recommended": made.recommended,
                "family": chat.match.family.name if chat.match else None,
                "ollama_capabilities": list(chat.capabilities.names),
                "lost": list(chat.lost),
                "notes": list(chat.notes),
                "warnings": list(made.warnings),
                "errors": list(made.errors),
            }
        )
        return
    echo(table([(p.name, human_bytes(p.stat().st_size)) for p in made.files], ("file", "size")))
    note(f"recommended: {made.recommended}")
    note(f"Ollama will report: {', '.join(chat.capabilities.names)}")
    warn(*made.errors, *cautions.of_bundle(made))
    for text in chat.notes:
        note(f"Ollama: {text}")
