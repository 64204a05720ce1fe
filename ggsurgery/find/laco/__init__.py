"""LaCo, layer collapse: the loop, its settings and statistics (`types`), a model (`run`)."""

from .loop import collapse
from .run import cosine, laco, laco_of_file, split_text
from .types import METHODS, Attempt, Result, Settings

__all__ = [
    "METHODS",
    "Attempt",
    "Result",
    "Settings",
    "collapse",
    "cosine",
    "laco",
    "laco_of_file",
    "split_text",
]
