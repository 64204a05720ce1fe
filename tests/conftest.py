"""What holds for every test: which may be skipped, and the count of those at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ._needs import NEEDS_ROOT, NEEDS_SHARED, NEEDS_TORCH, shared_folder

# A busy machine is slow to draw examples and to run them: that says nothing about the code.
settings.register_profile(
    "busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")

#: The files that take longest, longest first. A parallel run (`make test`) gives a whole file
#: to one worker: one of these at the end would leave the other workers idle.
LONGEST = (
    "test_cli_docs.py",
    "golden/test_outputs.py",
    "arch/test_contract.py",
    "pipeline/test_run.py",
    "tensors/test_scales.py",
    "kill/test_kill.py",
    "measure/test_perplexity.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; skip the tests of large texts where these are absent."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
    folder = shared_folder()
    if not folder.is_dir():
        skip = pytest.mark.skip(reason=f"{NEEDS_SHARED} {folder}")
        for item in items:
            if item.get_closest_marker("external"):
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the tests that are skipped in CI as well."""
    reasons = [
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple)
    ]
    absent = {
        f"the texts of {shared_folder()}": NEEDS_SHARED,
        "root's rights": NEEDS_ROOT,
        "PyTorch": NEEDS_TORCH,
    }
    for what, beginning in absent.items():
        if count := sum(reason.startswith(beginning) for reason in reasons):
            terminalreporter.write_line(f"skipped for want of {what}: {count}", yellow=True)
