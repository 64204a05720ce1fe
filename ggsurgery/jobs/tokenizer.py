"""Check a file's tokenizer against another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..errors import FormatError, RequestError
from ..files.progress import Progress
from ..runtime import worker
from ..surgery.vocab_map import VocabMap, map_of_file
from ..tokenizer.check import SAMPLES, TokenizerReport, check_tokenizer
from ..tokenizer.compare import Comparison, compare_with_original
from .fields import Model, corpus
from .request import FilePath, Settings, option


@dataclass(frozen=True, slots=True)
class TokenizerResult:
    """The findings, and of a trimmed file how it compares with its original."""

    report: TokenizerReport
    compared: Comparison | None = None

    @property
    def ok(self) -> bool:
        return self.report.ok and (self.compared is None or self.compared.ok)

    def to_json(self) -> dict[str, Any]:
        more = {} if self.compared is None else {"original": self.compared.to_json()}
        return self.report.to_json() | more


class CheckTokenizerRequest(Settings, frozen=True, kw_only=True):
    """Compare llama.cpp's tokens with another tokenizer's and look for faults.

    Example:
        >>> CheckTokenizerRequest(file="m.gguf").run().ok  # doctest: +SKIP
    """

    file: Model
    text: Annotated[
        FilePath | None,
        option("UTF-8 text whose lines are tried; default: a few samples.", short="-f"),
    ] = None
    original: Annotated[FilePath | None, option("The file that a trimmed FILE was made from.")] = (
        None
    )
    map: Annotated[FilePath | None, option("With `original`: the map; default: FILE's.")] = None

    def agree(self) -> None:
        if self.map is not None and self.original is None:
            raise RequestError("`map` goes with `original`")

    def check(self) -> list[str]:
        """Refuse a damaged map."""
        self._map()
        return []

    def run(self, progress: Progress | None = None) -> TokenizerResult:
        """Tokenize in child processes."""
        kept = self._map()
        lines = SAMPLES if self.text is None else tuple(corpus(self.text).split("\n"))
        if not any(lines):
            raise FormatError("no text in it", file=self.text)
        report = worker.run(check_tokenizer, Path(self.file), lines, progress=progress)
        if kept is None:
            return TokenizerResult(report)
        original = Path(str(self.original))
        compared = worker.run(
            compare_with_original, Path(self.file), original, kept, lines, progress=progress
        )
        return TokenizerResult(report, compared)

    def _map(self) -> VocabMap | None:
        if self.original is None:
            return None
        return map_of_file(Path(self.file), None if self.map is None else Path(self.map))
