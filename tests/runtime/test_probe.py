"""The probe: asked once, remembered for this CPU and version, survived where it crashes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggsurgery import host
from ggsurgery.errors import EngineError
from ggsurgery.ggufio.header import read_header
from ggsurgery.runtime import binding, machine, probe


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GGSURGERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(probe.VARIABLE, raising=False)
    probe.result.cache_clear()
    yield
    probe.result.cache_clear()


def _dies_with_extra_buffers(path: Path, extra_buffers: bool) -> Any:
    if extra_buffers:
        os.kill(os.getpid(), signal.SIGILL)
    import numpy as np

    return np.ones(4)


def test_the_model_has_every_repacked_type(tmp_path: Path) -> None:
    probe.write_model(tmp_path / "p.gguf")
    types = {t.type_name for t in read_header(tmp_path / "p.gguf").tensors}
    assert {t.lower() for t in probe.TYPES} <= types


def test_probed_once_then_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe.result()
    assert first.source == "probed"
    known = json.loads(probe.cache_file().read_text())
    assert list(known) == [f"{machine.cpu_digest()}-{binding.installed_version()}"]
    probe.result.cache_clear()
    monkeypatch.setattr(probe, "probe", lambda: pytest.fail("probed a second time"))
    second = probe.result()
    assert (second.survive, second.source) == (first.survive, "remembered")


def test_a_crash_means_they_do_not_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_last_logits", _dies_with_extra_buffers)
    found = probe.result()
    assert not found.survive
    assert "SIGILL" in found.reason
    assert not probe.extra_buffers_survive()


@pytest.mark.parametrize(
    ("text", "used"), [("0", False), ("off", False), ("1", True), ("yes", True)]
)
def test_the_variable_overrides(monkeypatch: pytest.MonkeyPatch, text: str, used: bool) -> None:
    monkeypatch.setattr(probe, "probe", lambda: pytest.fail("asked in spite of the variable"))
    monkeypatch.setenv(probe.VARIABLE, text)
    assert probe.extra_buffers_survive() is used


def test_a_variable_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(probe.VARIABLE, "maybe")
    with pytest.raises(EngineError, match="GGSURGERY_EXTRA_BUFFERS is neither yes nor no"):
        probe.extra_buffers_survive()
    monkeypatch.setenv(probe.VARIABLE, "")
    assert probe.extra_buffers_survive() is probe.result().survive


def test_a_damaged_cache_file_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "probe", lambda: probe.Probe(True, "", "cpu", "0"))
    for text in ("{", "[]", '{"x": 1}'):
        probe.result.cache_clear()
        probe.cache_file().parent.mkdir(parents=True, exist_ok=True)
        probe.cache_file().write_text(text)
        assert probe.result().survive


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "installed_version", lambda: "0.9.9")
    binding.llama.cache_clear()
    try:
        with pytest.raises(EngineError, match=r"expected 0\.3\.36, found 0\.9\.9"):
            binding.llama()
    finally:
        binding.llama.cache_clear()
        monkeypatch.undo()
        binding.llama()


def test_a_shifted_struct_is_noticed() -> None:
    class Shifted:
        def __getattr__(self, name: str) -> Any:
            real = getattr(binding.llama(), name)
            if name == "llama_context_default_params":

                def moved() -> Any:
                    p = real()
                    p.n_ctx = 77
                    return p

                return moved
            return real

    with pytest.raises(EngineError, match=r"n_ctx is not where it was: expected 512, found 77"):
        binding.check_defaults(Shifted())


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_wrong_number_of_threads_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(host.THREADS, text)
    with pytest.raises(
        EngineError, match=f"GGSURGERY_THREADS must be a positive integer: found {text}"
    ):
        host.n_threads()
