"""Studies whose file is damaged, foreign or read-only: one line at once, with the next step."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from ggsurgery.errors import GGSurgeryError
from ggsurgery.find.search.storage import close_storage, open_storage, optuna, patiently


def use(url: str) -> None:
    """Read a study and ask for a trial, as a worker does."""

    def action() -> None:
        storage = open_storage(url, 60)
        try:
            study = optuna().load_study(study_name="s", storage=storage)
            study.get_trials()
            study.ask()
        finally:
            close_storage(storage)

    patiently(action, url, lambda: 0)


@pytest.fixture(params=["study.db", "study.log"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    storage = open_storage(str(path), 60)
    optuna().create_study(study_name="s", storage=storage).ask()
    close_storage(storage)
    return path


def refused(url: str) -> str:
    start = time.monotonic()
    with pytest.raises(GGSurgeryError) as caught:
        use(url)
    assert time.monotonic() - start < 10  # the pauses of a storage that may come back take 15 s
    text = str(caught.value)
    assert "went away" not in text
    return text


@pytest.mark.filterwarnings("ignore")
def test_damaged_files(study: Path) -> None:
    use(str(study))
    data = study.read_bytes()
    damaged = [b"garbage\n" * 99, data[: len(data) // 2] + b"\n", b"\xff\xfe" + data[2:]]
    if study.suffix == ".log":
        damaged += [
            b"[]\n" + data,
            data + b'{"op_code": 99}\n' + data,
            data + b'{"op_code": 4, "worker_id": "x"}\n' + data,
        ]
    for content in damaged:
        study.write_bytes(content)
        assert study.name in refused(str(study))


@pytest.mark.filterwarnings("ignore")
def test_a_database_with_other_contents(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    storage = open_storage(str(path), 60)
    optuna().create_study(study_name="s", storage=storage).ask()
    close_storage(storage)
    with sqlite3.connect(path) as database:
        database.execute("update trials set state = 'x'")
    database.close()
    assert "the study is damaged" in refused(str(path))
    with sqlite3.connect(path) as database:
        database.execute("delete from trials")
    database.close()
    url = f"sqlite:///file:{path}?mode=ro&uri=true"
    assert "readonly database. Make the file and its folder writable" in refused(url)


@pytest.mark.filterwarnings("ignore")
def test_another_bug_stays_one(study: Path) -> None:
    def bug() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        patiently(bug, str(study), lambda: 0)
