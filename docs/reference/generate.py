"""Write the command and library references from the package itself, while the site is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
import mkdocs_gen_files

import ggsurgery
from ggsurgery.cli import cli
from ggsurgery.cli._overview import SECTIONS

WIDTH = 88


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and those below it, by their full names."""
    yield name, command
    if isinstance(command, click.Group):
        with click.Context(command, info_name=name) as context:
            for below in command.list_commands(context):
                inner = command.get_command(context, below)
                if inner is not None and not inner.hidden:
                    yield from commands(f"{name} {below}", inner)


def help_text(name: str, command: click.Command) -> str:
    """What `ggsurgery NAME --help` prints."""
    context = click.Context(command, info_name=f"ggsurgery {name}", terminal_width=WIDTH)
    return command.get_help(context)


def command_page() -> str:
    lines = ["# Commands", "", "What `--help` prints, command by command.", ""]
    context = click.Context(cli)
    for section, names in SECTIONS.items():
        lines += [f"## {section}", ""]
        for top in names:
            command = cli.get_command(context, top)
            assert command is not None
            for name, item in commands(top, command):
                lines += [f"### {name}", "", "```text", help_text(name, item), "```", ""]
    return "\n".join(lines)


def library_page() -> str:
    lines = ["# Library", "", inspect.getdoc(ggsurgery) or "", ""]
    for name in ggsurgery.__all__:
        home = getattr(ggsurgery, name).__module__
        lines += [f"::: {home}.{name}", ""]
    return "\n".join(lines)


for path, text in {
    "reference/cli.md": command_page(),
    "reference/library.md": library_page(),
}.items():
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)
