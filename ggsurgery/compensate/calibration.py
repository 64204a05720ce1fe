"""The text that a least-squares fit learns from, in windows, and the progress of its passes."""

from __future__ import annotations

from pathlib import Path

from ..files.progress import Progress
from ..measure.windows import Windows
from ..runtime.vocab_only import VocabularyFile
from .settings import CHOICE_WINDOWS, Chosen, Settings


class Ticks:
    """Windows that went through the models, of an estimate that grows if it was too small."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done = min(self._done + 1, self._total - 1)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def finish(self) -> None:
        if self._progress is not None:
            self._progress(self._total, self._total)


def windows_of(
    path: str | Path, text: str, settings: Settings, chosen: Chosen | None = None
) -> tuple[Windows, int]:
    """The windows of a text, and how many of them the fit sees; the others are for choosing.

    They follow the text that is fitted on, or are an eighth of a text that ends there.
    """
    count = settings.tokens // settings.ctx
    more = CHOICE_WINDOWS if chosen is None else 0
    with VocabularyFile(path) as vocabulary:
        windows = Windows.of_text(
            vocabulary, text, settings.ctx, count + more, parse_special=settings.parse_special
        )
    if chosen is not None:
        n_fit = min(chosen.windows or count, len(windows))
        return windows.part(range(n_fit)), n_fit
    n = len(windows)
    held_out = max(n - count, 0 if n < 2 else min(CHOICE_WINDOWS, max(1, n // 8)))
    return windows, n - held_out
