"""LaCo: collapse layers as long as the last hidden state stays similar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..files.progress import Progress
from ..find.laco import Result, laco_of_file, split_text
from ..find.laco import Settings as Numbers
from ..find.laco.types import Variant
from ..ggufio.header import read_header
from ..runtime import worker
from . import cautions
from .fields import AllowUnknownArch, Model, ParseSpecial, Threads, corpus
from .request import FilePath, Settings, option

DEFAULT = Numbers()


class LacoSettings(Settings, frozen=True, kw_only=True):
    """A recipe's section `laco`."""

    text: Annotated[
        FilePath, option("Calibration: UTF-8 text, cut into `texts` pieces.", short="-f")
    ]
    texts: Annotated[int, option("Pieces of the text.", ge=1)] = 10
    ctx: Annotated[int, option("Tokens of a piece.", ge=8, short="-c")] = 256
    parse_special: ParseSpecial = False
    merge_layers: Annotated[int, option("C: layers that become one.", ge=2)] = DEFAULT.merge_layers
    lowest: (
        Annotated[int, option("L: no merge below this layer; default: 4, or H − C.", ge=0)] | None
    ) = None
    highest: (
        Annotated[int, option("H: merging starts at H − C; default: the number of layers.", ge=1)]
        | None
    ) = None
    interval: Annotated[int, option("I: down by so many after a merge.", ge=1)] = DEFAULT.interval
    threshold: Annotated[float, option("T: cosine to keep a merge.", ge=-1, le=1)] = (
        DEFAULT.threshold
    )
    max_compression: Annotated[float, option("Share of layers to lose at most.", gt=0, lt=1)] = (
        DEFAULT.max_compression
    )
    variant: Annotated[
        Variant,
        option(
            "paper: Eq. 1, every tensor. reference: what LaCo's published code really computes, "
            "the last merged layer's projections with the base's norms. damped: Eq. 1 with the "
            "differences times `factor`."
        ),
    ] = DEFAULT.variant
    factor: (
        Annotated[float, option("Factor on the differences of the variant damped; default: 0.5.")]
        | None
    ) = None

    @property
    def numbers(self) -> Numbers:
        """LaCo's own settings."""
        return Numbers(
            self.merge_layers,
            self.lowest,
            self.highest,
            self.interval,
            self.threshold,
            self.max_compression,
            self.variant,
            self.factor,
        )


@dataclass(frozen=True, slots=True)
class LacoResult:
    """Every attempt and the recipe of the merges that were kept."""

    laco: Result
    warnings: tuple[str, ...] = ()


class LacoRequest(LacoSettings, frozen=True, kw_only=True):
    """Collapse layers step by step (LaCo), as long as the output stays similar.

    Nothing is written: `result.laco.recipe` makes the model.
    """

    file: Model
    threads: Threads = None
    allow_unknown_arch: AllowUnknownArch = False

    def check(self) -> list[str]:
        """Refuse numbers that do not fit the model; returns warnings."""
        self.numbers.check(read_header(self.file).n_layers)
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> LacoResult:
        """Try the merges in a child process."""
        found = worker.run(
            laco_of_file,
            Path(self.file),
            split_text(corpus(self.text), self.texts),
            self.numbers,
            self.ctx,
            self.threads,
            self.allow_unknown_arch,
            self.parse_special,
            progress=progress,
        )
        loss = found.perplexity
        return LacoResult(found, () if loss is None else tuple(cautions.of_loss(*loss)))
