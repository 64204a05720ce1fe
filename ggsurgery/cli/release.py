"""release: the folder that people download; release push: upload it."""

from __future__ import annotations

from pathlib import Path

import click

from ..jobs.release import ReleaseRequest, ReleaseResult
from ..present.numbers import human_bytes
from ..release.push import push as push_bundle
from ..release.push import repo_of
from ._files import FILE
from ._groups import DefaultGroup
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import progress_bar
from ._requests import request_options


@click.group(cls=DefaultGroup, default="build", no_args_is_help=True)
def release() -> None:
    """Build a folder for people to download, or upload one.

    `release FILE… --out DIR` is short for `release build FILE… --out DIR`: GGUF files,
    Modelfiles, a model card, checksums and a manifest, all computed from the given files and
    results.

    \b
    Example:
      ggsurgery release tiny-Q8_0.gguf tiny-Q4_K_M.gguf --out bundle
      ggsurgery release push bundle my-name/tiny
    """


@release.command()
@request_options(ReleaseRequest, several="files")
@json_option
@click.pass_context
def build(ctx: click.Context, /, request: ReleaseRequest, as_json: bool) -> None:
    """Build a bundle from GGUF files of one model.

    The bundle is kept even if a check finds an error; the card lists it.

    \b
    Example:
      ggsurgery release tiny-*.gguf --out bundle --base-model Qwen/Qwen3-1.7B
      ggsurgery release tiny-Q4_K_M.gguf --out bundle --results q4.json --original base.json
    """
    request.check()
    with progress_bar("checksums", "B") as progress:
        found = request.run(progress)
    _show(found, as_json)
    if found.bundle.errors:
        ctx.exit(1)


@release.command()
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.argument("repo", metavar="ORG/NAME")
@click.option("--public", is_flag=True, help="Make a new repository public; default: private.")
@click.option("--endpoint", metavar="URL", help="A hub other than huggingface.co.")
@click.option("--message", help="The commit message.")
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


def _show(found: ReleaseResult, as_json: bool) -> None:
    made, chat = found.bundle, found.bundle.chat
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
    warn(*found.warnings)
    for text in chat.notes:
        note(f"Ollama: {text}")
