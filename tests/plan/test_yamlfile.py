"""YAML that stands for more than it says, or takes for ever: refused before it is built."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ggsurgery.errors import FormatError
from ggsurgery.plan.recipe import load_recipe
from ggsurgery.plan.yamlfile import MAX_NODES, load, parse
from tests._command import command, environment

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {x: 1, y: 2}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
)
BOMBS = {
    "aliases": (f"{LAUGHS}operations: *a11\n", "too many values"),
    "merges": (f"{MERGES}operations: []\n", "too many values"),
    "many": ("operations: [" + "1," * (MAX_NODES + 1) + "]\n", "line 1: too many values"),
    "deep": ("operations: " + "[" * 400_000, "(nesting depth|nested too deep)"),
    "deep blocks": ("- " * 300_000 + "x", "nested too deep"),
    "deep aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 90)),
        "nested too deep",
    ),
    "long": ("name: " + "x" * 2**21, "the file is too long"),
    "digits": ("name: 1" + "0" * 900_000, "line 1: a value of 900,001 characters"),
    "hexadecimal": ("name: 0x1" + "0" * 900_000, "line 1: a value of 900,003 characters"),
    "base 60": ("name: 1" + ":10" * 300_000, "line 1: a value of 900,001 characters"),
    "itself": ("name: &a [*a]\n", r"line 1: \*a holds itself"),
    "itself deeper": ("name: &a {b: [{c: *a}]}\n", r"line 1: \*a holds itself"),
    "anchor of nothing": ("name: *a\n", "no valid YAML"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    text, message = BOMBS[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(FormatError, match=rf"r\.yaml: .*{message}") as caught:
        load(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["aliases", "deep", "long"])
@pytest.mark.parametrize("arguments", [("apply", "BOMB", "in.gguf", "out.gguf"), ("run", "BOMB")])
def test_commands_end_at_once(tmp_path: Path, name: str, arguments: tuple[str, ...]) -> None:
    text, message = BOMBS[name]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    limited = ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "limited"]
    done = subprocess.run(
        [*limited, *command(*(str(path) if a == "BOMB" else a for a in arguments))],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_a_device_is_not_a_recipe() -> None:
    with pytest.raises(FormatError, match="/dev/zero: a device"):
        load_recipe("/dev/zero")


@pytest.mark.parametrize(
    "text",
    [
        '!!int ""',
        "!!float x",
        "!!bool maybe",
        "!!timestamp never",
        "!!int x",
        "!!x y",
        "{[a]: b}",
        "!!binary é",
        "!!omap [a]",
        "2024-13-45",
        "<<: a",
        "!!set [a]",
    ],
)
def test_values_that_cannot_be_read(text: str) -> None:
    with pytest.raises(FormatError, match=r"r\.yaml: no valid YAML"):
        parse(text, "r.yaml")


def test_values_and_lines() -> None:
    data, tree = parse("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\n", "r.yaml")
    assert data == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}
    assert tree is not None
    keys = tree.value[1][1].value  # as they were written, the merge among them
    assert [(k.value, k.start_mark.line) for k, _ in keys] == [("<<", 2), ("b", 3)]
    assert parse("", "r.yaml") == (None, None)
    assert parse('{"a": [1, 2.5, null, true, "x"]}', "r.json")[0] == {
        "a": [1, 2.5, None, True, "x"]
    }
