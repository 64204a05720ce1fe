"""A PostgreSQL server of the test's own, on a free port of the loopback address."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests._needs import missing


def programs() -> Path:
    """The folder of initdb and postgres; Debian keeps them out of PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    for folder in [*folders, *([Path(found).parent] if found else [])]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    missing("a PostgreSQL server (apt-get install postgresql)")


def _as_user() -> dict[str, Any]:
    """initdb refuses to run as root: there, Debian's own user does it."""
    if os.geteuid() != 0:
        return {}
    import pwd

    try:
        pwd.getpwnam("postgres")
    except KeyError:
        missing("the user postgres")
    return {"user": "postgres", "group": "postgres"}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start one in `folder`; yields the URL of its database."""
    binaries, user = programs(), _as_user()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    if user:
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents:  # pytest's folders are closed to other users
            if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"
    log = folder.with_suffix(".log")
    with log.open("wb") as told:
        quiet: dict[str, Any] = {"stdout": told, "stderr": told, **user}
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "me", "-A", "trust", "-N"],
            check=True,
            cwd=folder,
            **quiet,
        )
        process = subprocess.Popen(
            [
                binaries / "postgres",
                "-D",
                data,
                "-p",
                str(port),
                "-h",
                "127.0.0.1",
                "-k",
                str(folder),
                "-F",
            ],
            cwd=folder,
            start_new_session=True,
            **quiet,
        )
    try:
        for _ in range(600):
            ready = subprocess.run(
                [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "me"],
                check=False,
            )
            if ready.returncode == 0:
                break
            assert process.poll() is None, "postgres ended"
            time.sleep(0.1)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        # a server that died by itself explains what the test ran into
        assert process.poll() is None, f"postgres ended by itself:\n{log.read_text()[-2000:]}"
        process.terminate()
        process.wait(timeout=60)
