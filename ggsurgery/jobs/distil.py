"""Train a cut model towards the next-token distribution of the uncut one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ..compensate.distil.run import Distillation, Distilled, check_pair, rounded
from ..compensate.distil.settings import RATES
from ..compensate.distil.settings import Settings as Numbers
from ..compensate.distil.train import Pace
from ..files.progress import Progress
from ..ggufio.header import read_header
from . import cautions
from .fields import Ctx, Model, OutType, ParseSpecial, Threads, corpus
from .request import FilePath, Settings, agreeing, option

DEFAULT = Numbers()


class DistilSettings(Settings, frozen=True, kw_only=True):
    """A training text and how the model is trained on it."""

    text: Annotated[FilePath, option("UTF-8 training text; report on another one.", short="-f")]
    tokens: Annotated[
        int, option("Tokens of the text to use, the held-out ones included.", ge=64)
    ] = DEFAULT.tokens
    ctx: Ctx = DEFAULT.ctx
    parse_special: ParseSpecial = DEFAULT.parse_special
    epochs: Annotated[int, option("How often each window is seen.", ge=1)] = DEFAULT.epochs
    trainable: Annotated[
        str,
        option("all weights of the layers, norms, down (ffn_down), or lora:RANK.", metavar="PART"),
    ] = DEFAULT.trainable
    lr: (
        Annotated[
            float,
            option(
                "Highest learning rate; default: "
                f"{', '.join(f'{part} {rate:g}' for part, rate in RATES.items())}.",
                gt=0,
            ),
        ]
        | None
    ) = None
    batch: Annotated[int, option("Windows between two updates of the weights.", ge=1)] = (
        DEFAULT.batch
    )
    seed: Annotated[int, option("Seed of the windows' order.", ge=0)] = DEFAULT.seed
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        option("Where to train; auto takes a CUDA GPU when there is one."),
    ] = "auto"
    threads: Threads = None

    def agree(self) -> None:
        """Refuse numbers that cannot be trained with."""
        agreeing(self.numbers.check)

    @property
    def numbers(self) -> Numbers:
        """The training's own settings."""
        return Numbers(
            self.tokens,
            self.ctx,
            self.epochs,
            self.trainable,
            self.lr,
            self.batch,
            self.seed,
            self.parse_special,
        )


class DistilRequest(DistilSettings, frozen=True, kw_only=True):
    """Train a cut model towards the uncut one.

    Nothing is written but the checkpoint: `prepare(result.recipe, [cut], given=result.sidecar)`
    makes the model. PyTorch runs in this process, so that an interrupted training can be kept;
    it is imported when the training begins.

    Example:
        >>> DistilRequest(base="in.gguf", cut="cut.gguf", text="t.txt").run()  # doctest: +SKIP
    """

    base: Model
    cut: Model
    checkpoint: Annotated[
        FilePath | None, option("Keep the state of an interrupted training here.", role="output")
    ] = None
    out_type: OutType = None

    def check(self) -> list[str]:
        """Refuse models that cannot be trained; returns warnings."""
        cut = read_header(self.cut)
        check_pair(read_header(self.base), cut)
        types = rounded(cut, self.numbers) if self.out_type is None else []
        return [*cautions.of_context(Path(self.cut), self.ctx), *cautions.of_rounding(types)]

    def prepare(self) -> Distillation:
        """Load both models and the text; the result can tell what the training takes."""
        return Distillation(
            Path(self.base),
            Path(self.cut),
            corpus(self.text),
            self.numbers,
            device=self.device,
            n_threads=self.threads,
            state=None if self.checkpoint is None else Path(self.checkpoint),
        )

    def run(self, progress: Progress | None = None) -> Distilled:
        """Train; on Ctrl-C the checkpoint is written, from which the same request continues."""

        def tick(done: int, total: int, _pace: Pace) -> None:
            if progress is not None:
                progress(done, total)

        task = self.prepare()
        task.estimate()  # decides how layers are computed in the memory that there is
        return task.run(tick)
