"""doctor: detect what this machine can do, and cache the result."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

from .. import __version__, host
from ..runtime import binding, machine, probe
from ._output import echo, json_option, print_json, table


@click.command()
@click.option("--again", is_flag=True, help="Probe again instead of using the cached result.")
@json_option
def doctor(again: bool, as_json: bool) -> None:
    """Check this machine: CPU features, llama.cpp, and which of its fast paths work.

    On some virtual machines llama.cpp's AMX or repacked matrix products crash. They are tried in a
    subprocess, once for each CPU and version; all other commands use the result.

    \b
    Example:
      ggsurgery doctor
      ggsurgery doctor --again --json
    """
    facts = _facts(again)
    if as_json:
        print_json(facts)
        return
    known = {name: value for name, value in facts.items() if value is not None}
    echo(table([(name.replace("_", " "), _text(value)) for name, value in known.items()]))


def _facts(again: bool) -> dict[str, Any]:
    module = binding.llama()  # checks version and structs
    binding.ggml()
    found = probe.result(again)
    forced = os.environ.get(probe.VARIABLE)
    return {
        "ggsurgery": __version__,
        "python": f"{platform.python_version()} ({sys.platform}, {platform.machine()})",
        "llama_cpp_python": f"{binding.installed_version()}, its structs checked",
        "llama_cpp": module.llama_version().decode(),
        "cpu": machine.cpu()[0],
        "cpu_features": list(machine.cpu_features()),
        "threads": host.n_threads(),
        "extra_buffers_survive": found.survive,
        "reason": found.reason or None,
        "answer": f"{found.source} ({_from_home(probe.cache_file())})",
        "extra_buffers_used": probe.extra_buffers_survive(),
        "forced_by": f"{probe.VARIABLE}={forced}" if forced else None,
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(value) or "none of those that matter"
    return str(value)


def _from_home(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
