"""Write the command and library references from the package itself, while the site is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click
import mkdocs_gen_files

import ggsurgery
from ggsurgery.cli import cli
from ggsurgery.cli._overview import SECTIONS
from ggsurgery.pipeline.schema import recipe_schema

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


def recipe_page() -> str:
    """A table of keys for each section, from the schema."""
    schema = recipe_schema()
    lines = ["# Recipe", "", "What `ggsurgery schema recipe` prints, section by section.", ""]
    for name, section in schema["$defs"].items():
        lines += [f"## {name.removesuffix('Settings')}", "", section["description"], ""]
        lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        for key, value in section["properties"].items():
            cells = (f"`{key}`", kind_of(value), value.get("default"), meaning(value))
            lines.append("| " + " | ".join(cell(c) for c in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def cell(value: object) -> str:
    """A value in a Markdown table."""
    if value in (None, [], ()):
        return ""
    return str(value).replace("|", "\\|")


def meaning(value: dict[str, Any]) -> str:
    return ("Earlier name. " if value.get("deprecated") else "") + value.get("description", "")


def kind_of(value: dict[str, Any]) -> str:
    """The type of a key's value, in words."""
    if "$ref" in value:
        return f"[section](#{value['$ref'].rpartition('/')[2].removesuffix('Settings').lower()})"
    if "enum" in value:
        return ", ".join(map(str, value["enum"]))
    if value.get("type") == "array":
        return f"list of {kind_of(value['items'])}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[name]}" for name, sign in bounds.items() if name in value]
    return ", ".join([value.get("type", "any"), *limits])


for path, text in {
    "reference/cli.md": command_page(),
    "reference/library.md": library_page(),
    "reference/recipe.md": recipe_page(),
}.items():
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)
