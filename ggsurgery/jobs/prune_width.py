"""Remove feed-forward channels from every layer, and refit what is left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..compensate.width.prune import Choice, Narrowed, narrow, narrow_on
from ..compensate.width.scores import MEASURED, Score
from ..compensate.width.size import Size, falls_back, size_of
from ..errors import RequestError
from ..files.progress import Progress
from ..ggufio.header import read_header
from ..ggufio.imatrix import read_imatrix
from ..plan.recipe import Recipe
from ..runtime import worker
from ..surgery.imatrix_lineage import check_fits
from . import cautions
from .fields import AllowUnknownArch, Model, Threads, corpus
from .heal import FitSettings
from .request import FilePath, option


class PruneWidthSettings(FitSettings, frozen=True, kw_only=True):
    """How many channels leave, by what they are chosen, and how the rest is refitted."""

    ffn: (
        Annotated[
            float, option("Share of the channels that leave, as 0.22.", ge=0, lt=1, metavar="SHARE")
        ]
        | None
    ) = None
    ffn_channels: (
        Annotated[int, option("How many stay in each layer.", ge=1, metavar="N")] | None
    ) = None
    score: Annotated[
        Score,
        option(
            "obs: least loss after the best correction, one by one. energy: output of the channel "
            "alone. wanda: its norm times its weights. magnitude: weights alone. random: control."
        ),
    ] = "obs"
    text: Annotated[
        FilePath | None, option("UTF-8 calibration text; report on another one.", short="-f")
    ] = None
    imatrix: Annotated[
        FilePath | None, option("Take the norms for wanda from this importance matrix.")
    ] = None
    refit: Annotated[
        bool, option("Refit ffn_down of each layer towards the uncut model's states.")
    ] = True
    multiple: Annotated[
        int | str,
        option(
            "Round the number that stays to a multiple of this; auto: 256 where ffn_down is of a "
            "K or I type, else 32.",
            metavar="auto|N",
        ),
    ] = "auto"
    seed: Annotated[int, option("Seed of random.", ge=0)] = 0
    any_refit: Annotated[
        bool, option("Keep corrections that do not help on the held-out text, too.", flag="force")
    ] = False

    def agree(self) -> None:
        super().agree()
        if (self.ffn is None) == (self.ffn_channels is None):
            raise RequestError("one of `ffn` and `ffn_channels` is needed")
        if self.imatrix is not None and self.score != "wanda":
            raise RequestError("`imatrix` goes with `score` wanda", found=f"`score` {self.score}")
        self._multiple()
        if self.text is None and self.ffn != 0 and (self.refit or self._choice_measures):
            raise RequestError(
                "a `text` is needed",
                expected="`text` FILE; or without `refit`, and `score` magnitude, random, or "
                "wanda with an `imatrix`",
            )

    @property
    def _choice_measures(self) -> bool:
        return self.score in MEASURED and self.imatrix is None

    def _multiple(self) -> int | None:
        if self.multiple == "auto":
            return None
        text = str(self.multiple)
        if not (text.isascii() and text.isdigit() and int(text)):
            raise RequestError("`multiple`", expected="auto, or a number from 1 on", found=text)
        return int(text)


@dataclass(frozen=True, slots=True)
class PruneWidthResult:
    """The channels that stay, and the recipe that leaves the others out."""

    narrowed: Narrowed
    warnings: tuple[str, ...] = ()


class PruneWidthRequest(PruneWidthSettings, frozen=True, kw_only=True):
    """Choose feed-forward channels to remove, and refit the layers. Nothing is written.

    Example:
        >>> request = PruneWidthRequest(file="m.gguf", text="t.txt", ffn=0.22)
        >>> request.run().narrowed.recipe  # doctest: +SKIP
    """

    file: Model
    threads: Threads = None
    allow_unknown_arch: AllowUnknownArch = False

    @property
    def inputs(self) -> list[Path]:
        """Files that an output must not replace."""
        return [Path(p) for p in (self.text, self.imatrix) if p is not None]

    @property
    def size(self) -> Size:
        """How many channels stay."""
        header = read_header(self.file)
        return size_of(header, self.ffn, self.ffn_channels, self._multiple())

    def check(self) -> list[str]:
        """Refuse a model that cannot lose channels, and an impossible number; returns warnings."""
        header, size = read_header(self.file), self.size
        warnings = [] if self.text is None else cautions.of_context(Path(self.file), self.ctx)
        if falls_back(header, size):
            warnings.append(
                f"rows of {size.after} do not fit K types, which need a multiple of 256: "
                "`quantize` will give ffn_down a larger type. `multiple` 256 avoids that"
            )
        return warnings

    def run(self, progress: Progress | None = None) -> PruneWidthResult:
        """Choose, and measure and fit in a child process."""
        size = self.size
        matrix = None if self.imatrix is None else read_imatrix(self.imatrix)
        if matrix is not None:
            check_fits(matrix, read_header(self.file))
        choice = Choice(self.score, self.seed, matrix)
        if size.after == size.before:
            return PruneWidthResult(Narrowed(Recipe(()), size, choice, {}, {}))
        if not self.refit and not choice.measures:
            return PruneWidthResult(narrow(self.file, size, choice))
        assert self.text is not None
        found = worker.run(
            narrow_on,
            Path(self.file),
            size,
            choice,
            corpus(self.text),
            self.numbers,
            refit=self.refit,
            n_threads=self.threads,
            allow_unknown_arch=self.allow_unknown_arch,
            out_type=self.type_of_refitted,
            cut_again=self.cut_again,
            few_tokens=self.few_tokens,
            progress=progress,
        )
        fits = () if found.healed is None else found.healed.fits
        return PruneWidthResult(found, tuple(cautions.of_fits(fits)))
