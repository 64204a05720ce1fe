"""Fields of the requests that measure many candidates: scan, prune-depth, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from ..files.piped import kept
from ..ggufio.reader import Source
from ..measure.draw import SEED
from ..measure.registry import askable, readers
from ..measure.results.envelope import envelope
from ..measure.setup import CACHE_BYTES, Route, Setup
from . import cautions
from .fields import AllowUnknownArch, LimitSeed, Model, ParseSpecial, Threads
from .request import FilePath, Settings, option

METRIC_HELP = (
    f"{', '.join(askable())}. FILE is a JSONL file of questions (MMLU, HellaSwag, word problems), "
    "TASK one of lm-evaluation-harness's, or FOLDER/TASK with the questions in FOLDER. "
    f"{', '.join(readers('text'))} need `text`."
)


class CandidateSettings(Settings, frozen=True, kw_only=True):
    """How candidates are measured, and on which data."""

    text: Annotated[FilePath | None, option("UTF-8 text for perplexity and KL.", short="-f")] = None
    ctx: Annotated[int, option("Tokens of a window.", ge=8, short="-c")] = 512
    windows: Annotated[
        int, option("Use the first N windows of the text; 0 takes all.", ge=0, old=("chunks",))
    ] = 8
    limit: (
        Annotated[
            int,
            option(
                "At most N questions where a metric asks some, the same share of every subject.",
                ge=1,
            ),
        ]
        | None
    ) = None
    limit_seed: LimitSeed = SEED
    score: Annotated[
        Literal["acc", "acc_norm"], option("Which accuracy of choices or of a bench task counts.")
    ] = "acc_norm"
    route: Annotated[
        Route,
        option(
            "How candidates are loaded: reuse of the layers in front (auto, suffix), a scratch "
            "file in memory (file), or edits of a loaded model (live)."
        ),
    ] = "auto"
    cache_mib: Annotated[int, option("Bound on the hidden states kept for reuse.", ge=0)] = (
        CACHE_BYTES >> 20
    )
    parse_special: ParseSpecial = False
    threads: Threads = None


class CandidateRequest(CandidateSettings, frozen=True, kw_only=True):
    """The same for one model."""

    file: Model
    allow_unknown_arch: AllowUnknownArch = False

    def setup(self, metric: str) -> Setup:
        """As the library takes it; pipes as files that child processes can read."""
        kind, colon, data = metric.partition(":")
        return Setup(
            Path(self.file),
            f"{kind}:{kept(data)}" if colon and data else metric,
            text=None if self.text is None else kept(self.text),
            n_ctx=self.ctx,
            n_windows=self.windows or None,
            limit=self.limit,
            limit_seed=self.limit_seed,
            score=self.score,
            cache_bytes=self.cache_mib << 20,
            route=self.route,
            n_threads=self.threads,
            parse_special=self.parse_special,
            allow_unknown_arch=self.allow_unknown_arch,
        )


def context_warnings(setup: Setup) -> list[str]:
    """Warn of a context beyond training, where a text is read."""
    return cautions.of_context(setup.path, setup.n_ctx) if setup.needs_text else []


def files_of(setup: Setup) -> tuple[Path | None, ...]:
    """The files that a setup reads: model, text, questions."""
    return setup.path, setup.text, setup.data


def envelope_of(kind: str, setup: Setup, source: Source | None = None) -> dict[str, Any]:
    """The provenance of a result; `source` is the setup's model, if it is open."""
    facts = {k: v for k, v in setup.facts().items() if k != "text"}
    return envelope(kind, setup.path, facts, setup.text if setup.needs_text else None, source)
