"""A header with values of hundreds of megabytes: looked at in bounded time, memory and output."""

from __future__ import annotations

import resource
import struct
import subprocess
import time
from pathlib import Path

import pytest

from ggsurgery.ggufio.header import read_header
from tests._command import command, environment

SIZE = 200_000_000


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose name has 200 MB, sparse."""
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    entries = [
        ("general.architecture", 8, _string(b"llama")),
        ("llama.block_count", 4, struct.pack("<I", 1)),
    ]
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 3))
        for key, kind, value in entries:
            file.write(_string(key.encode()) + struct.pack("<I", kind) + value)
        file.write(_string(b"general.name") + struct.pack("<IQ", 8, SIZE) + b"n" * 1000)
        file.truncate(file.tell() + SIZE - 1000)
    return path


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("inspect", "--json"), ("meta", "show"), ("verify",)]
)
def test_commands_stay_small(large: Path, arguments: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    start = time.monotonic()
    limited = ["bash", "-c", 'ulimit -v 4000000; exec "$@"', "limited"]
    measure = ["/usr/bin/env", "python3", "-c", MEASURE]
    done = subprocess.run(
        [*limited, *measure, *command(*arguments, large)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert "Traceback" not in done.stderr
    peak = int(done.stderr.splitlines()[-1])
    assert peak < 750 << 10, f"{peak} KiB"  # the value's bytes once, mapped and copied
    assert len(done.stdout) < 20_000
    assert spent < 20 and time.monotonic() - start < 100


#: Runs a command and prints its peak memory in KiB as the last line of stderr.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


def test_previews() -> None:
    from gguf.constants import GGUFValueType as Kind

    from ggsurgery.ggufio.types import Value

    def text(value: str) -> Value:
        return Value.of(value, Kind.STRING)

    assert text("short").preview(5) == "short"
    assert text("longer").preview(5) == "long…"
    assert text("ééééé").preview(5) == "ééééé"
    assert text("é🙂" * 100).preview(5) == "é🙂é🙂…"
    assert Value.of(3, Kind.UINT32).preview(5) == "3"
    assert Value.of([1, 2, 3], Kind.ARRAY, Kind.UINT32).preview(9) == "[1, 2, 3]"
    assert Value.of([1] * 99, Kind.ARRAY, Kind.UINT32).preview(9) == "uint32 × 99"
    assert Value.of(["x" * 99999], Kind.ARRAY, Kind.STRING).preview(9) == "string × 1"


def test_the_value_is_whole_where_it_is_asked_for(large: Path) -> None:
    name = read_header(large).get("general.name")
    assert len(name) == SIZE and name.startswith("nnn")
