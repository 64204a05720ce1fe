"""The environment of the tests is pinned, and one version of each thing is named once."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests._needs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def pinned_version(name: str) -> str:
    (one,) = PINNED[canonicalize_name(name)].specifier
    assert one.operator == "==", PINNED[name]
    return one.version


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    """Those of the requirements' own requirements as well, where they are installed."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(",".join(re.findall(r"'\.\[([a-z,]+)\]'", makefile)).split(","))
    assert {"dev", "docs", "hub"} <= named <= EXTRAS.keys()
    packages = [*PROJECT["dependencies"], *(p for name in sorted(named) for p in EXTRAS[name])]
    todo = [Requirement(p) for p in packages]
    seen: set[str] = set()
    while todo:
        needed = todo.pop()
        version = pinned_version(needed.name)
        assert needed.specifier.contains(version, prereleases=True), (str(needed), version)
        if str(needed) in seen:
            continue
        seen.add(str(needed))
        try:
            deeper = metadata.requires(needed.name) or []
        except metadata.PackageNotFoundError:
            continue
        extras = ["", *needed.extras]
        for inner in map(Requirement, deeper):
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                todo.append(inner)


def test_no_two_extras_are_alike() -> None:
    contents = [frozenset(packages) for packages in EXTRAS.values()]
    assert len(contents) == len(set(contents))


def test_the_hook_runs_the_ruff_of_the_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (rev,) = (r["rev"] for r in hooks["repos"] if r["repo"].endswith("/ruff-pre-commit"))
    assert rev == f"v{pinned_version('ruff')}"


def test_the_version_is_written_once() -> None:
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
