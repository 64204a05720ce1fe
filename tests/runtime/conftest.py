"""A small model with a real vocabulary, and one without, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests._needs import needs_smollm2
from tests._small_models import write_small_model


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers of width 96 with SmolLM2's vocabulary."""
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    return write_small_model(path, width=96, n_layers=3, vocabulary_of=needs_smollm2())


@pytest.fixture(scope="session")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten layers of width 256, no vocabulary: enough for quantizing."""
    return write_small_model(tmp_path_factory.mktemp("wordless") / "wordless-F16.gguf")
