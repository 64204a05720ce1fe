"""Exit codes and messages: 2 for wrong usage, 1 and one clear line for all else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click
import pytest

from ggsurgery.cli import COMMANDS, cli

from .._command import call, command, environment, error_line, run
from .._gguf import Raw, tensor, tiny_llama
from .._needs import ROOT


@pytest.fixture
def model(tmp_path):
    return tiny_llama(tmp_path / "in.gguf", 4, meta=lambda w: w.add_array("x.list", [1, 2]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["delete"],
        ["delete", "--layer", "1"],
        ["delete", "--layer", "1", "in.gguf"],
        ["delete", "--removed", "1", "in.gguf", "out.gguf"],
        ["delete", "in.gguf", "out.gguf"],
        ["delete", "--layer", "1", "in.gguf", "out.gguf", "more.gguf"],
        ["move", "--layer", "1", "--to", "x", "in.gguf", "out.gguf"],
        ["inspect", "--ctx", "0", "in.gguf"],
        ["meta", "set", "key", "in.gguf", "out.gguf"],
        ["meta", "sat"],
        ["meta", "set", "general.name", "A", "--name", "B", "in.gguf", "out.gguf"],
        ["template", "render", "--conversation", "single", "--messages", "m.json", "in.gguf"],
        ["--verbose"],
    ],
)
def test_wrong_usage_is_2(arguments):
    said = call(*arguments, code=2)
    assert "Usage: ggsurgery" in said.err
    assert "Error: " in said.err


def test_layer_lists_have_both_names():
    """`--layer` and `--layers`, singular or plural, wherever a list of layers is taken."""
    taken = {
        name: {o for p in command.params for o in p.opts}
        for name, command in ((n, cli.get_command(click.Context(cli), n)) for n in COMMANDS)
    }
    lists = {
        "blend",
        "bridge",
        "delete",
        "duplicate",
        "heal",
        "interpolate",
        "keep",
        "merge",
        "move",
        "swap",
    }
    assert {n for n, options in taken.items() if {"--layer", "--layers"} <= options} == lists
    # the one command whose --layers is a number of layers
    assert {n for n, o in taken.items() if {"--layer", "--layers"} & o} - lists == {"prune-depth"}


def test_both_names_do_the_same(tmp_path, model):
    call("delete", "--layers", "1", "--layer", "2", model, tmp_path / "a.gguf")
    call("delete", "--layer", "1,2", model, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    recipe = tmp_path / "r.yaml"
    recipe.write_text("- delete: {layers: '1,2'}\n")
    call("apply", recipe, model, tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_a_plot_replaces_nothing(tmp_path, model):
    """Refused before the work: without --force, and never an input."""
    text = tmp_path / "t.txt"
    text.write_text("some words " * 50)
    old = tmp_path / "old.png"
    old.write_bytes(b"old")
    for name in (["influence"], ["scan"], ["search", "--study", tmp_path / "s"]):
        arguments = [*name, model, "--ctx", "64", "--text", text, "--plot"]
        assert "old.png: the output exists" in error_line(*arguments, old)
        text.rename(tmp_path / "t.svg")
        same = error_line(
            *name,
            model,
            "--ctx",
            "64",
            "--force",
            "--text",
            tmp_path / "t.svg",
            "--plot",
            tmp_path / "t.svg",
        )
        assert "input and output are the same file" in same
        (tmp_path / "t.svg").rename(text)
    assert old.read_bytes() == b"old"


@pytest.mark.parametrize(
    "arguments", [["laco"], ["heal", "--layer", "1"], ["prune-depth", "--layers", "1"]]
)
def test_a_calibration_text_is_an_input(tmp_path, model, arguments):
    text = tmp_path / "t.txt"
    text.write_text("some words " * 50)
    said = error_line(*arguments, "--ctx", 64, "--text", text, "--force", model, text)
    assert "input and output are the same file" in said
    assert text.read_text() == "some words " * 50


def test_a_mistyped_command_gets_a_proposal():
    assert "Did you mean delete?" in call("delet", code=2).err


def test_no_arguments_show_the_overview():
    assert "ggsurgery delete --layer 10 in.gguf out.gguf" in call(code=2).err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["delete", "--help"], ["--version"]])
def test_help_is_0(arguments):
    assert call(*arguments).out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    assert f"Usage: ggsurgery {name}" in call(name, "--help").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["delete", "--layer", "9", "IN", "OUT"], "layer 9 does not exist: expected 0 to 3"),
        (["delete", "--layer", "x", "IN", "OUT"], "not a list of layers: expected such as 3, 3-5"),
        (["delete", "--layer", "0-3", "IN", "OUT"], "no layer would be left"),
        (["swap", "--layers", "1", "IN", "OUT"], "two layers are needed: expected such as 11,12"),
        (["swap", "--layers", "1,1", "IN", "OUT"], "layer 1 is named twice"),
        (["move", "--layer", "1", "--to", "4", "IN", "OUT"], "position 4 does not exist"),
        (["duplicate", "--layer", "1", "--times", "0", "IN", "OUT"], "impossible number of copies"),
        (["keep", "--layers", "0,4", "IN", "OUT"], "layer 4 does not exist"),
        (["keep", "--layers", "", "IN", "OUT"], "not a list of layers"),
        (["delete", "--layer", "1", "NONE", "OUT"], "none.gguf: No such file or directory"),
        (["delete", "--layer", "1", "IN", "IN"], "input and output are the same file"),
        (["delete", "--layer", "1", "--force", "IN", "IN"], "input and output are the same file"),
        (["delete", "--layer", "1", "IN", "LINK"], "input and output are the same file"),
        (["delete", "--layer", "1", "IN", "OLD"], "old.gguf: the output exists"),
        (["delete", "--layer", "1", "IN", "none/out.gguf"], "the output's folder does not exist"),
        (["delete", "--layer", "1", "FOLDER", "OUT"], "not a regular file"),
        (["delete", "--layer", "1", "BROKEN", "OUT"], "x: tensor reaches over the end"),
        (["apply", "NONE", "IN", "OUT"], "No such file"),
        (["apply", "IN", "IN", "OUT"], "not a UTF-8 text"),
        (["replay", "IN", "IN", "OUT"], "no ggsurgery provenance in this file"),
        (["inspect", "BROKEN"], "reaches over the end"),
        (["verify", "NONE"], "No such file"),
        (["diff", "IN", "NONE"], "No such file"),
        (["meta", "get", "no.key", "IN"], "no entry no.key. `ggsurgery meta show` lists"),
        (["meta", "unset", "no.key", "IN", "OUT"], "no entry no.key to remove"),
        (["meta", "set", "llama.block_count", "3", "IN", "OUT"], "cannot be changed alone"),
        (["meta", "set", "general.alignment", "8", "IN", "OUT"], "cannot be changed alone"),
        (["meta", "unset", "ggsurgery.recipe", "IN", "OUT"], "written only by ggsurgery"),
        (
            ["meta", "set", "llama.vocab_size", "many", "IN", "OUT"],
            "in.gguf: llama.vocab_size: the value does not fit the type uint32: expected a whole "
            "number from 0 to 4294967295, found 'many'",
        ),
        (
            ["meta", "set", "--", "llama.vocab_size", "-1", "IN", "OUT"],
            "does not fit the type uint32",
        ),
        (["meta", "set", "a", "128", "--type", "int8", "IN", "OUT"], "from -128 to 127"),
        (["meta", "set", "a", "yes", "--type", "bool", "IN", "OUT"], "expected true or false"),
        (["meta", "set", "a", "1", "--type", "int", "IN", "OUT"], "unknown type 'int'"),
        (["meta", "set", "a", "1", "--type", "array", "IN", "OUT"], "no item type in 'array'"),
        (["meta", "set", "a", "[[1]]", "--as-json", "IN", "OUT"], "an array of arrays"),
        (["meta", "set", "a", "[1", "--as-json", "IN", "OUT"], "the value is not valid JSON"),
        (["meta", "set", "a", '"\\ud800"', "--as-json", "IN", "OUT"], "is not valid Unicode"),
        (["meta", "set", "", "x", "IN", "OUT"], "impossible length of a key"),
        (["meta", "set", "x.list", "[5]", "IN", "OUT"], "set --as-json` reads the value as JSON"),
        (["meta", "set", "a", "@in.gguf", "IN", "OUT"], "in.gguf: not a UTF-8 text"),
        (
            ["meta", "set", "a", "[" * 10**5, "--as-json", "IN", "OUT"],
            "the value is not valid JSON",
        ),
        (["meta", "set", "a", "1" * 5000, "--as-json", "IN", "OUT"], "the value is not valid JSON"),
        (["delete", "--layer", "1 2", "IN", "OUT"], "not a list of layers"),
        (["delete", "--layer", "1", "--name", "\udcff", "IN", "OUT"], "is not valid Unicode"),
    ],
)
def test_one_line_and_1(tmp_path, model, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.gguf").write_bytes(b"old")
    (tmp_path / "link.gguf").symlink_to(model)
    (tmp_path / "folder").mkdir()
    Raw(tensors=[tensor("x")], data=b"").write(tmp_path / "broken.gguf")
    before = state(tmp_path)
    names = ["IN", "OUT", "NONE", "LINK", "OLD", "FOLDER", "BROKEN"]
    known = {n: n.lower() + ("" if n == "FOLDER" else ".gguf") for n in names}
    line = error_line(*(known.get(a, a) for a in arguments))
    assert message in line
    assert state(tmp_path) == before


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything in a folder that a write would change."""
    return {
        p.name: (s.st_ino, s.st_size, s.st_mtime_ns) for p in folder.iterdir() for s in (p.stat(),)
    }


def test_a_traceback_only_with_debug(tmp_path):
    said = subprocess.run(
        command("--debug", "inspect", tmp_path / "none.gguf"),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in said.stderr
    assert "FormatError" in said.stderr


def test_a_bug_is_one_line_too(monkeypatch, model):
    import ggsurgery.cli.inspect as module

    def explode(*_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(module, "summarize", explode)
    line = error_line("inspect", model)
    assert line.startswith("unexpected ZeroDivisionError: by zero. This is a bug")
    with pytest.raises(ZeroDivisionError):
        call("--debug", "inspect", model)


def test_hostile_text_does_not_reach_the_terminal(tmp_path, model):
    out = tmp_path / "out.gguf"
    call("meta", "set", "general.name", "\x1b[2J\x07evil", model, out)
    for arguments in (["inspect", out], ["meta", "show", out], ["diff", model, out]):
        said = call(*arguments, code=1 if arguments[0] == "diff" else 0)
        assert "\x1b" not in said.out
        assert "\\x1b[2J\\x07evil" in said.out


def test_a_closed_pipe_is_quiet(model):
    with subprocess.Popen(
        command("meta", "show", model),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_as_a_user_runs_it(tmp_path, model):
    """From another folder, as `python -m ggsurgery`, with relative names."""
    done = run("delete", "--layer", "1", "in.gguf", "out.gguf", cwd=tmp_path)
    assert "out.gguf: layers 4 → 3" in done.stderr
    assert done.stdout == ""
    assert os.path.getsize(tmp_path / "out.gguf") > 100_000  # noqa: PTH202


def test_whether_a_file_may_be_read_is_found_out_by_reading(model, monkeypatch):
    """click's own check would call it wrong usage: exit code 2 instead of 1, three lines."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "layers" in call("inspect", model).out

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(model))

    monkeypatch.setattr(os, "open", refuse)
    assert error_line("diff", model, model) == f"{model}: Permission denied"


def test_one_helper_suggests_names_and_one_imports_extras() -> None:
    """`did_you_mean` alone compares names, `require` alone imports the packages of extras."""
    texts = {p: p.read_text(encoding="utf-8") for p in (ROOT / "ggsurgery").rglob("*.py")}

    def users(word: str) -> list[str]:
        return [str(p.relative_to(ROOT / "ggsurgery")) for p, text in texts.items() if word in text]

    assert users("get_close_matches") == ["errors.py"]
    assert users("raise MissingExtraError(") == ["files/installation.py"]
    assert users("__dict__.update(function") == []


@pytest.mark.parametrize("group", ["imatrix", "release"])
def test_a_group_runs_its_default(group: str) -> None:
    """Options may come first; the group's own help stays its own."""
    assert "No such file" not in call(group, "--help").out
    for arguments in (("--force", "a.gguf"), ("a.gguf", "--force")):
        said = call(group, *arguments, code=2).err
        assert (
            "Missing" in said and f"{group} {'collect' if group == 'imatrix' else 'build'}" in said
        )


@pytest.mark.parametrize(
    ("name", "old"), [("laco", "--log"), ("heal", "--sidecar"), ("distil", "--sidecar")]
)
def test_files_beside_the_model_are_named_by_out(name: str, old: str) -> None:
    shown = call(name, "--help").out
    assert "-o, --out PATH" in shown
    assert old not in shown
    assert "requires an argument" in call(name, old, code=2).err
