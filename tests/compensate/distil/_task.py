"""A small model, a cut of it, and their distillation in a second or two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggsurgery.compensate.distil.run import Distillation, Distilled
from ggsurgery.compensate.distil.settings import Settings
from ggsurgery.files.text import read_corpus
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare
from tests._small_models import write_small_model
from tests._tiny import MODEL, SEARCH_TEXT

SETTINGS = Settings(tokens=12 * 32, ctx=32, batch=2)


def base_and_cut(folder: Path, **options: Any) -> tuple[Path, Path]:
    base = write_small_model(
        folder / "base.gguf", width=64, n_layers=3, vocabulary_of=MODEL, float16=False, **options
    )
    return base, written(Recipe((step("delete", layer="1"),)), base, folder / "cut.gguf")


def written(recipe: Recipe, source: Path, out: Path, given: Any = None) -> Path:
    with prepare(recipe, [source], given=given) as prepared:
        prepared.write(out)
    return out


def task(base: Path, cut: Path, state: Path | None = None, **settings: Any) -> Distillation:
    text = read_corpus(SEARCH_TEXT)
    return Distillation(base, cut, text, replace(SETTINGS, **settings), n_threads=1, state=state)


def distilled(
    base: Path,
    cut: Path,
    state: Path | None = None,
    progress: Callable[..., object] | None = None,
    **settings: Any,
) -> Distilled:
    return task(base, cut, state, **settings).run(progress)
