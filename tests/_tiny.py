"""The trained tiny model and its held-out texts (models/tiny-qwen3)."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "models" / "tiny-qwen3"
MODEL = FOLDER / "tiny-qwen3.gguf"
SEARCH_TEXT = FOLDER / "heldout_search.txt"
REPORT_TEXT = FOLDER / "heldout_report.txt"

#: What train.py made it of.
N_LAYERS = 10
