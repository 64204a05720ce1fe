"""What `import ggsurgery` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ggsurgery
from tests._needs import ROOT


@pytest.mark.parametrize("name", ggsurgery.__all__)
def test_every_name_is_there(name: str) -> None:
    assert name in dir(ggsurgery)
    found = getattr(ggsurgery, name)
    assert found.__name__ == name
    assert found.__doc__


def test_no_name_hides_a_module() -> None:
    modules = {path.stem for path in (ROOT / "ggsurgery").iterdir()}
    assert modules.isdisjoint(ggsurgery.__all__)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ggsurgery.nonsense  # type: ignore[attr-defined]


def test_the_import_loads_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ggsurgery, sys; print('numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(ROOT),
    )
    assert done.stdout.strip() == "False"
