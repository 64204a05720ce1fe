"""The closing table of `run`."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ggsurgery.cli.run import _table

from .._gguf import big_llama


def test_files_of_the_bundle_are_not_listed_twice(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    source = big_llama(tmp_path / "in.gguf", 2, 1 << 12)
    made = Path(shutil.copy(source, tmp_path / "cut-Q8_0.gguf"))
    bundled = Path(shutil.copy(source, tmp_path / "bundle" / "cut-Q8_0.gguf"))
    pipeline: Any = SimpleNamespace(
        source=source,
        places=SimpleNamespace(results=lambda path: tmp_path / "none.json", imatrix=None),
        tasks=[SimpleNamespace(files=(made,)), SimpleNamespace(files=(bundled,))],
    )
    text = _table(pipeline)
    assert text.count("cut-Q8_0.gguf") == 1
    assert "in.gguf (original)" in text
