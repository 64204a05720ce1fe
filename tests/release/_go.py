"""Go's own text/template, to see what a Modelfile's TEMPLATE prints."""

from __future__ import annotations

import json
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests._needs import needs_program

_SOURCE = Path(__file__).parent / "gotemplate" / "main.go"


@lru_cache(maxsize=1)
def _binary() -> Path:
    go = needs_program("go")
    folder = Path(mkdtemp(prefix="ggsurgery-go-"))
    binary = folder / "gotemplate"
    cache = {"GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    subprocess.run(
        [go, "build", "-o", str(binary), str(_SOURCE)], check=True, env={**os.environ, **cache}
    )
    return binary


def go_templates(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs (`template` and what it is given) through Go; text, error, names, marks of each."""
    done = subprocess.run(
        [_binary()], input=json.dumps(jobs), capture_output=True, text=True, check=True
    )
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results
