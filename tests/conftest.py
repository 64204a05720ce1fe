"""What holds for every test: which may be skipped, and the count of those at the end."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from ._needs import NEEDS_ROOT, NEEDS_SHARED, NEEDS_TORCH, shared_folder

# A busy machine is slow to draw examples and to run them: that says nothing about the code.
settings.register_profile(
    "busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of large texts where the folder of these texts is absent."""
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
