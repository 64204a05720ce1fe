"""The directions in which modules may import each other, and who may do what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ._needs import ROOT

PACKAGE = ROOT / "ggsurgery"

#: What stands at the root of the package, besides folders.
ROOT_MODULES = {"__init__", "__main__", "errors", "host"}

#: A folder may import those in the rows above its own, and itself.
ROWS: tuple[tuple[str, ...], ...] = (
    ("__version__", "errors"),
    ("host",),
    ("files", "present"),
    ("ggufio", "plan"),
    ("tensors",),
    ("arch",),
    ("inspect",),
    ("surgery",),
    ("runtime",),
    ("chat",),
    ("tokenizer",),
    ("measure",),
    ("quantize",),
    ("compensate",),
    ("find",),
    ("release", "report"),
    ("jobs",),
    ("pipeline",),
    ("example",),
    ("cli",),
    ("__main__",),
)

#: Modules that only one place may import.
DOORS = {"llama_cpp": "runtime", "click": "cli"}

#: Packages of extras: imported inside the function that needs them, never at the top.
EXTRAS = {"huggingface_hub", "lm_eval", "matplotlib", "optuna", "torch"}


@cache
def trees() -> dict[Path, ast.Module]:
    return {
        path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


def module_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path, tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """Line and absolute dotted name of everything that a file imports."""
    package = ["ggsurgery", *path.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield node.lineno, [*base, alias.name]


def row(module: str) -> int:
    found = [n for n, names in enumerate(ROWS) if module in names]
    assert found, f"ggsurgery/{module} has no row in tests/test_imports.py"
    return found[0]


def test_the_root_holds_no_other_module():
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_MODULES


def test_every_folder_has_one_row():
    names = [name for names in ROWS for name in names]
    assert len(names) == len(set(names))
    for path in trees():
        row(module_of(path))


def test_imports_point_upwards_in_the_table():
    wrong = []
    for path, tree in trees().items():
        own = module_of(path)
        for line, name in imports(path, tree):
            if name[0] != "ggsurgery" or len(name) < 2 or name[1] == own:
                continue
            if row(name[1]) >= row(own):
                wrong.append(f"{path}:{line}: {own} imports {name[1]}")
    assert not wrong


@pytest.mark.parametrize("package", DOORS)
def test_one_door(package):
    users = {
        module_of(path)
        for path, tree in trees().items()
        for _, name in imports(path, tree)
        if name[0] == package
    }
    assert users <= {DOORS[package]}


def test_extras_are_imported_where_they_are_used():
    found = []
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found += [
                    f"{path}:{line}: {name[0]}"
                    for line, name in imports(path, ast.Module([node], []))
                    if name[0] in EXTRAS
                ]
    assert not found


def test_only_the_command_line_prints_and_exits():
    found = []
    for path, tree in trees().items():
        if module_of(path) in ("cli", "__main__"):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("print", "exit", "quit", "sys.exit", "input"):
                found.append(f"{path}:{node.lineno}: {called}()")
    assert not found


def test_one_place_escapes_what_a_terminal_gets():
    """`cli/_output.py` prints; `cli/__init__.py` writes the one line of an error."""
    doors = ("click.echo", "click.secho", "sys.stdout.write", "tqdm.write")
    found = [
        f"{path}:{node.lineno}: {ast.unparse(node.func)}() instead of echo, note or warn"
        for path, tree in trees().items()
        if str(path) not in ("cli/_output.py", "cli/__init__.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in doors
    ]
    assert not found


def test_commands_reach_a_child_process_through_a_job():
    found = [
        f"{path}:{line}"
        for path, tree in trees().items()
        if module_of(path) in ("cli", "pipeline")
        for line, name in imports(path, tree)
        if name[:3] == ["ggsurgery", "runtime", "worker"]
    ]
    assert not found


def test_commands_stay_short():
    """Longer work belongs to `jobs`, longer output to a function that shows a result."""
    long = {}
    for path, tree in trees().items():
        for node in tree.body if module_of(path) == "cli" else ():
            if isinstance(node, ast.FunctionDef) and ".command(" in "".join(
                f".{ast.unparse(d)}" for d in node.decorator_list
            ):
                first = node.body[1 if ast.get_docstring(node) else 0]
                lines = (node.end_lineno or 0) - first.lineno + 1
                if lines > 25:
                    long[f"{path}: {node.name}"] = lines
    assert not long


def test_files_stay_short():
    long = {
        str(path): count
        for path in trees()
        if (count := len((PACKAGE / path).read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
