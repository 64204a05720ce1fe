"""Where a study lives: an SQLite or journal file, PostgreSQL (any RDB), or a gRPC proxy.

study.db             SQLite            one machine, several processes
study.log            journal file      a shared folder, no database; no heartbeat
postgresql+psycopg://user@host/name    many machines
grpc://host:port     Optuna's proxy    many machines, one open port
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ...errors import GGSurgeryError
from ...files.installation import MissingExtraError, require

T = TypeVar("T")

#: Pauses between tries when a storage does not answer, seconds.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
#: How often a candidate whose worker died is given back.
RETRIES = 3


def optuna() -> Any:
    """The module, quiet.

    Raises:
        MissingExtraError: it is not installed.
    """
    module = require("optuna", "search", "a search")
    module.logging.set_verbosity(module.logging.ERROR)
    return module


def open_storage(url: str, heartbeat: int) -> Any:
    """An Optuna storage by URL or file name.

    Args:
        heartbeat: seconds between signs of life; a worker silent for three of them is dead.

    Raises:
        GGSurgeryError: it cannot be opened.
    """
    module = optuna()
    try:
        with warnings.catch_warnings():  # heartbeat and gRPC are marked experimental
            warnings.simplefilter("ignore")
            if url.startswith("grpc://"):
                host, _, port = url.removeprefix("grpc://").partition(":")
                return module.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
            if "://" not in url and Path(url).suffix in (".log", ".journal"):
                backend = module.storages.journal.JournalFileBackend(url)
                return module.storages.JournalStorage(backend)
            return _rdb(module, url, heartbeat)
    except MissingExtraError:
        raise
    except Exception as error:  # each backend has its own exceptions
        raise GGSurgeryError(
            f"the study's storage cannot be opened: {_first_line(error)}",
            file=shown(url),
            hint="Check the URL; a file name such as study.db needs no server.",
        ) from error


def close_storage(storage: Any) -> None:
    """Close a storage's connections, where it has any."""
    if hasattr(storage, "engine"):
        storage.remove_session()
        storage.engine.dispose()


def _rdb(module: Any, url: str, heartbeat: int) -> Any:
    if "://" not in url:
        url = f"sqlite:///{url}"
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        engine["connect_args"] = {"timeout": 60}
    return module.storages.RDBStorage(
        url,
        engine_kwargs=engine,
        heartbeat_interval=heartbeat,
        grace_period=3 * heartbeat,
        heartbeat_stale_trial_callback=module.storages.RetryHeartbeatStaleTrialCallback(
            max_retry=RETRIES
        ),
    )


def shown(url: str) -> str:
    """A URL without its password."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, user = head.rpartition("//")
    return f"{scheme}//{user.partition(':')[0]}@{tail}"


def patiently(action: Callable[[], T], url: str, kept: Callable[[], int]) -> T:
    """Do something with the storage; wait and try again while it does not answer.

    Args:
        kept: how many results are safe on this machine, for the message.

    Raises:
        GGSurgeryError: it is gone for good.
    """
    for pause in (*PAUSES, None):
        try:
            return action()
        except Exception as error:
            if (fault := _lasting_fault(error)) is not None:
                raise GGSurgeryError(fault[0], file=shown(url), hint=fault[1]) from error
            if not lost_storage(error):
                raise
            if pause is None:
                raise GGSurgeryError(
                    f"the study's storage went away: {_first_line(_root(error))}",
                    file=shown(url),
                    hint=f"All {kept()} results measured here are kept in the local journal; run "
                    "the same command when the storage is back: nothing is measured twice.",
                ) from error
            time.sleep(pause)
    raise AssertionError("unreachable")


#: Database errors that waiting cannot fix, with the next step.
_LASTING = {
    "readonly database": "Make the file and its folder writable, or work on a copy.",
    "malformed": "Restore the file from a copy, or name a new one.",
    "not a database": "Name another file, such as study.db.",
    "no such table": "Restore the file from a copy, or name a new one.",
    "no such column": "Restore the file from a copy, or name a new one.",
}


def _lasting_fault(error: BaseException) -> tuple[str, str] | None:
    """Problem and next step where a study is damaged or may not be written; None otherwise."""
    root = _root(error)
    if lost_storage(error):
        message = str(root)
        hint = next((hint for words, hint in _LASTING.items() if words in message), None)
        return None if hint is None else (f"the study cannot be used: {_first_line(root)}", hint)
    if isinstance(error, GGSurgeryError | optuna().exceptions.OptunaError):
        return None
    modules = [f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(error.__traceback__)]
    last = {
        name: i
        for i, module in enumerate(modules)
        for name in ("ggsurgery", "optuna.storages")
        if module.startswith(name)
    }
    if last.get("optuna.storages", -1) <= last.get("ggsurgery", -1):
        return None
    problem = f"the study is damaged, or not there: {_first_line(error)}"
    return problem, "Restore the file from a copy, or name a new study."


def lost_storage(error: BaseException) -> bool:
    """Whether an exception means that the storage does not answer.

    Those that it was raised from or during count too: when a trial cannot be recorded, Optuna
    stumbles over its own clean-up.
    """
    module = optuna()
    kinds: list[type[BaseException]] = [module.exceptions.StorageInternalError, ConnectionError]
    try:
        from sqlalchemy.exc import DBAPIError, OperationalError

        kinds += [OperationalError, DBAPIError]
    except ImportError:
        pass
    with suppress(ImportError):
        kinds.append(import_module("grpc").RpcError)
    found: BaseException | None = error
    while found is not None and not isinstance(found, tuple(kinds)):
        found = found.__cause__ or found.__context__
    return found is not None


def _root(error: BaseException) -> BaseException:
    """The exception that began it."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _first_line(error: BaseException) -> str:
    details = getattr(error, "details", None)  # gRPC's own words stand there
    lines = str(details() if callable(details) else error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
