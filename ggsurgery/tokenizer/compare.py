"""Compare a trimmed file's tokenizer with the original file's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import PlanError
from ..files.progress import Progress
from ..runtime.vocab_only import VocabularyFile
from ..surgery.vocab_map import VocabMap
from .check import SAMPLES


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many lines a trimmed vocabulary reads as its original does.

    Args:
        whole: lines whose tokens all stayed.
        mapped: the ones whose ids equal the old ids up to the map; all should.
        returned: lines whose tokens give the same text as the original's; all should be.
        tokens: of all lines, before and after.
        wrong: the first line that is wrong; empty without one.
    """

    lines: int
    whole: int
    mapped: int
    returned: int
    tokens: tuple[int, int]
    wrong: str = ""

    @property
    def ok(self) -> bool:
        return self.mapped == self.whole and self.returned == self.lines

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def compare_with_original(
    file: str | Path,
    original: str | Path,
    kept: VocabMap,
    lines: Sequence[str] = SAMPLES,
    progress: Progress | None = None,
) -> Comparison:
    """Tokenize lines with both files.

    Args:
        kept: the map between them.

    Raises:
        EngineError: llama.cpp refuses a vocabulary.
        PlanError: the map is of another original.
    """
    whole = mapped = returned = before = after = 0
    wrong = ""
    with VocabularyFile(original) as old, VocabularyFile(file) as new:
        if (old.n_vocab, new.n_vocab) != (kept.before, kept.after):
            raise PlanError(
                "the map does not lead from the original to this file",
                file=original,
                expected=f"{kept.before} tokens → {kept.after}",
                found=f"{old.n_vocab} → {new.n_vocab}",
            )
        for n, line in enumerate(lines, 1):
            first = old.tokenize(line, add_special=False)
            second = new.tokenize(line, add_special=False)
            stays = all(i in kept.new_ids for i in first)
            same = stays and [kept.new_ids[i] for i in first] == second
            text = b"".join(map(old.piece, first)) == b"".join(map(new.piece, second))
            whole, mapped, returned = whole + stays, mapped + same, returned + text
            before, after = before + len(first), after + len(second)
            if not wrong and (stays != same or not text):
                wrong = line
            if progress is not None:
                progress(n, len(lines))
    return Comparison(len(lines), whole, mapped, returned, (before, after), wrong)
