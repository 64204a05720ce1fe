"""Every command explains itself with an example, and the README knows every command."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from ggsurgery.cli import COMMANDS, SECTIONS, LazyGroup, cli

from ._needs import ROOT


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands and those below them, by their full name: `meta set`."""
    assert isinstance(cli, LazyGroup)
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                inner = command.get_command(context, below)
                assert inner is not None
                yield f"{name} {below}", inner


ALL = dict(commands())


def examples(name: str) -> list[str]:
    """What stands behind the command's name in the example lines of its help.

    The default command of a group (`imatrix collect`) may be shown without its name.
    """
    text = inspect.cleandoc(ALL[name].help or "")
    assert "\b\nExample:\n" in text, "no example, or one that click would reflow"
    example = text.split("Example:\n", 1)[1].replace("\\\n", " ")
    group, _, below = name.partition(" ")
    shown = rf"{group}(?: {below})?" if below else group
    lines = re.findall(rf"^\s*ggsurgery {shown}(?: (.*))?$", example, re.MULTILINE)
    assert lines, f"the example has no line `ggsurgery {name} …`"
    return [re.split(r" [>|] |  #", line)[0] for line in lines]


@pytest.mark.parametrize("name", ALL)
def test_help_has_a_sentence_and_an_example(name):
    assert examples(name)
    assert len(ALL[name].get_short_help_str(limit=72)) > 10


@pytest.mark.parametrize("name", ALL)
def test_options_explain_themselves(name):
    silent = [
        option.opts[-1]
        for option in ALL[name].params
        if isinstance(option, click.Option) and not option.help and not option.hidden
    ]
    assert not silent


@pytest.mark.parametrize("name", ALL)
def test_the_example_is_valid_usage(name):
    """Each example line parses: its options and arguments exist."""
    command = ALL[name]
    if isinstance(command, click.Group):
        return
    for line in examples(name):
        context = click.Context(command, info_name=name, resilient_parsing=True)
        _, rest, _ = command.make_parser(context).parse_args(shlex.split(line, comments=True))
        assert not rest, f"left over: {rest}"


def test_the_overview_shows_every_command_once():
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(COMMANDS)


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if not re.search(rf"ggsurgery {name}\b", text)]
    assert not missing, f"README.md has no `ggsurgery {missing[0]}`"


def test_the_readme_knows_no_other_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"^\$?\s*ggsurgery ([a-z_-]+)", blocks, re.MULTILINE))
    assert named
    assert named <= set(COMMANDS)
