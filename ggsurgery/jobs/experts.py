"""Rank the experts of a mixture on some texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ..arch.experts import mixture
from ..errors import RequestError
from ..files.atomic import check_output
from ..files.progress import Progress
from ..find.experts import choose
from ..find.experts.ranking import FEW_TOKENS, Method, Ranking, rank_file
from ..find.experts.ranking_file import KIND, read_ranking
from ..find.experts.sweep import Candidate, SweepRow, sweep_file
from ..ggufio.header import read_header
from ..ggufio.imatrix import read_imatrix
from ..ggufio.reader import Source
from ..ggufio.types import Header
from ..measure.metrics.perplexity import Perplexity
from ..measure.results.envelope import envelope
from ..plan.recipe import Step, step
from ..plan.text import format_layers
from ..runtime import worker
from . import cautions
from .fields import Ctx, Force, Model, ParseSpecial, ResultFile, TextSettings, Threads, corpus
from .measured import write_json
from .request import FilePath, FilePaths, Settings, option
from .request import Texts as Names

Texts = Annotated[
    FilePaths,
    option("UTF-8 text that runs through the model; repeat it for one column a text.", short="-f"),
]
Only = Annotated[
    Names, option("Use this text's column of the ranking; may be repeated.", metavar="TEXT")
]
Keep = Annotated[int, option("How many stay in each layer.", ge=1, metavar="N")] | None
Drop = Annotated[
    str | None, option("How many leave each layer, or which share of them.", metavar="N|P%")
]
Protect = Annotated[
    Names,
    option(
        "Experts that stay: 3:0,7 in layer 3, or 0-5 in every layer; may be repeated.",
        metavar="[LAYERS:]EXPERTS",
    ),
]


class RankingSettings(Settings, frozen=True, kw_only=True):
    """How experts are scored on texts."""

    method: Annotated[
        Method,
        option(
            "reap: mean of gate times output norm; ean: sum of output norms; frequency: tokens."
        ),
    ] = "reap"
    ctx: Ctx = 512
    windows: Annotated[int, option("Windows of each text; 0 takes all.", ge=0)] = 64
    parse_special: ParseSpecial = False
    threads: Threads = None


@dataclass(frozen=True, slots=True)
class RankingResult:
    """A ranking, its JSON document, and what the user should know of it."""

    ranking: Ranking
    document: dict[str, Any]
    warnings: tuple[str, ...] = ()


class RankExpertsRequest(RankingSettings, frozen=True, kw_only=True):
    """Measure what each expert of a mixture does for some texts.

    Example:
        >>> RankExpertsRequest(file="moe.gguf", text=["code.txt"]).run()  # doctest: +SKIP
    """

    file: Model
    text: Texts
    out: ResultFile = None
    force: Force = False

    def agree(self) -> None:
        names = [Path(text).stem for text in self.text]
        if not names:
            raise RequestError("`text`", expected="at least one text", found="none")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RequestError("`text`: two texts have one name", found=twice)

    def check(self) -> list[str]:
        """Refuse a dense model and an output in the way; returns warnings."""
        mixture(read_header(self.file))
        if self.out is not None:
            check_output(Path(self.out), self._inputs, force=self.force)
        return cautions.of_context(Path(self.file), self.ctx)

    def measure(self, progress: Progress | None = None, *, likeness: bool = False) -> Ranking:
        """Measure in a child process.

        Args:
            likeness: also how alike the experts' outputs and router scores are.
        """
        return worker.run(
            rank_file,
            Path(self.file),
            {Path(text).stem: corpus(text) for text in self.text},
            self.ctx,
            self.windows or None,
            self.threads,
            self.parse_special,
            likeness=likeness,
            progress=progress,
        )

    def run(self, progress: Progress | None = None) -> RankingResult:
        """Measure, and write the ranking."""
        found = self.measure(progress)
        settings = {
            "n_ctx": self.ctx,
            "n_windows": self.windows or None,
            "parse_special": self.parse_special or None,
        }
        document = envelope(KIND, Path(self.file), settings) | found.to_json(self.method)
        write_json(self.out, document, force=self.force, inputs=self._inputs)
        return RankingResult(found, document, tuple(cautions_of(found)))

    @property
    def _inputs(self) -> tuple[Path, ...]:
        return (Path(self.file), *map(Path, self.text))


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """The experts that stay, as steps of a recipe.

    Args:
        kept: of each layer that has experts; empty where only their use changes.
    """

    steps: tuple[Step, ...]
    kept: dict[int, tuple[int, ...]]
    warnings: tuple[str, ...] = ()


def ranking_of(
    settings: RankingSettings, file: str | Path, texts: Sequence[str | Path]
) -> RankExpertsRequest:
    """The request that scores a model's experts on texts, as a choice among them asks for it."""
    values = {name: getattr(settings, name) for name in RankingSettings.__struct_fields__}
    return RankExpertsRequest(file=file, text=tuple(texts), **values)


class ChooseExpertsRequest(RankingSettings, frozen=True, kw_only=True):
    """Choose the experts of every layer that stay: the same number everywhere.

    Example:
        >>> request = ChooseExpertsRequest(file="moe.gguf", drop="25%", ranking="r.json")
        >>> request.run().steps  # doctest: +SKIP
    """

    file: Model
    keep: Keep = None
    drop: Drop = None
    ranking: Annotated[FilePath | None, option("A ranking that `experts rank -o` wrote.")] = None
    text: Annotated[
        FilePaths, option("Rank the experts on this text first; may be repeated.", short="-f")
    ] = ()
    imatrix: Annotated[
        FilePath | None,
        option("Rank the experts by the tokens that this importance matrix counted."),
    ] = None
    random: Annotated[
        int | None, option("Choose the experts by chance: the control.", metavar="SEED")
    ] = None
    only: Only = ()
    protect: Protect = ()
    used: (
        Annotated[int, option("Change how many experts a token goes through.", ge=1, metavar="K")]
        | None
    ) = None

    def agree(self) -> None:
        if self.keep is not None and self.drop is not None:
            raise RequestError("`keep` and `drop` exclude each other")
        if self.keep is None and self.drop is None and self.used is None:
            raise RequestError("one of `keep`, `drop` and `used` is needed")
        ways = [self.ranking, self.imatrix, self.random, self.text or None]
        if len(ways) - ways.count(None) != int(self._deletes):
            raise RequestError(
                "one of `ranking`, `imatrix`, `text` and `random` goes with `keep` or `drop`"
            )

    @property
    def _deletes(self) -> bool:
        return self.keep is not None or self.drop is not None

    def check(self) -> list[str]:
        """Refuse a dense model; returns warnings."""
        found = mixture(read_header(self.file))
        if self.used is None or self.used == found.n_used:
            return []
        if self.used > found.n_used:
            return [f"the model was trained with {found.n_used} experts a token, not {self.used}"]
        return [
            f"a token will go through {self.used} experts instead of {found.n_used}: faster, and "
            "worse in general; measure it"
        ]

    def run(self, progress: Progress | None = None) -> ExpertChoice:
        """Read or measure the scores, and choose."""
        header, steps = read_header(self.file), []
        if self.used is not None:
            steps.append(step("set", key="{arch}.expert_used_count", value=self.used))
        if not self._deletes:
            return ExpertChoice(tuple(steps), {})
        keep = how_many(header, self.keep, self.drop)
        protected = choose.parse_protected(self.protect, header)
        scores, warnings = self._scores(header, protected, progress)
        kept = choose.choose(header, scores, keep, protected, used=self.used)
        lists = {str(layer): format_layers(list(each)) for layer, each in kept.items()}
        return ExpertChoice((*steps, step("keep_experts", experts=lists)), kept, tuple(warnings))

    def _scores(
        self, header: Header, protected: dict[int, tuple[int, ...]], progress: Progress | None
    ) -> tuple[dict[int, NDArray[np.float64]], list[str]]:
        """Scores by layer, and warnings; guarded experts join the protected ones."""
        if self.imatrix is not None:
            return choose.from_imatrix(read_imatrix(self.imatrix), header), []
        if self.random is not None:
            return choose.random_scores(header, self.random), []
        if self.ranking is not None:
            ranking, facts = read_ranking(Path(self.ranking), header)
            warnings = cautions_of(ranking, self.only)
            with Source(self.file) as opened:
                if facts.checksum not in (None, opened.checksum()):
                    warnings.append(
                        f"the ranking was measured on {facts.file}, another file than {self.file}"
                    )
        else:
            ranking = ranking_of(self, self.file, self.text).measure(progress)
            warnings = cautions_of(ranking)
        for layer, experts in ranking.guarded().items():
            protected[layer] = (*protected.get(layer, ()), *experts)
        return choose.scores(ranking, self.method, self.only), warnings


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Perplexities of the whole model and of each candidate, on one text."""

    base: Perplexity
    rows: tuple[SweepRow, ...]
    document: dict[str, Any]
    warnings: tuple[str, ...] = ()


class SweepExpertsRequest(TextSettings, frozen=True, kw_only=True):
    """Measure the perplexity with fewer experts, without writing a file.

    Example:
        >>> request = SweepExpertsRequest(file="moe.gguf", text="t.txt", ranking="r.json")
        >>> request.run().rows  # doctest: +SKIP
    """

    file: Model
    ranking: Annotated[FilePath, option("A ranking that `experts rank -o` wrote.")]
    keep: Annotated[
        Names,
        option(
            "Experts of each layer to try; default: 7/8, 3/4 and 1/2 of them.",
            metavar="N,N",
            joined=True,
        ),
    ] = ()
    methods: Annotated[
        Names, option("Rankings to try: reap, ean, frequency.", metavar="NAME,NAME", joined=True)
    ] = ("reap",)
    random: Annotated[int, option("Random controls of each number.", ge=0)] = 1
    only: Only = ()
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def agree(self) -> None:
        for method in self.methods:
            if method not in get_args(Method):
                raise RequestError(
                    "`methods`", expected=", ".join(get_args(Method)), found=repr(method)
                )
        for number in self.keep:
            if not number.isdecimal():
                raise RequestError("`keep`", expected="whole numbers", found=repr(number))

    def check(self) -> list[str]:
        """Refuse an output in the way; returns warnings."""
        if self.out is not None:
            check_output(Path(self.out), self._inputs, force=self.force)
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> SweepResult:
        """Measure in a child process."""
        header = read_header(self.file)
        ranking, _ = read_ranking(Path(self.ranking), header)
        candidates = list(self._candidates(header, ranking))
        base, rows = worker.run(
            sweep_file,
            Path(self.file),
            candidates,
            corpus(self.text),
            self.ctx,
            self.windows,
            self.threads,
            self.parse_special,
            progress=progress,
        )
        settings = {
            "n_ctx": self.ctx,
            "n_windows": self.windows,
            "parse_special": self.parse_special or None,
            "only": list(self.only) or None,
        }
        document = envelope("experts-sweep", Path(self.file), settings, Path(self.text)) | {
            "experts": mixture(header).n_experts,
            "base": base.to_json(),
            "candidates": [row.to_json(base) for row in rows],
        }
        write_json(self.out, document, force=self.force, inputs=self._inputs)
        return SweepResult(base, tuple(rows), document)

    @property
    def _inputs(self) -> tuple[Path, ...]:
        return (Path(self.file), Path(self.text), Path(self.ranking))

    def _candidates(self, header: Header, ranking: Ranking) -> Iterator[Candidate]:
        found = mixture(header)
        shares = {found.n_experts * n // 8 // found.n_groups * found.n_groups for n in (7, 6, 4)}
        for keep in sorted(set(map(int, self.keep)) or shares, reverse=True):
            for method in self.methods:
                scores = choose.scores(ranking, cast(Method, method), self.only)
                kept = choose.choose(header, scores, keep, ranking.guarded())
                yield Candidate(method, keep, kept)
            for seed in range(1, self.random + 1):
                kept = choose.choose(header, choose.random_scores(header, seed), keep)
                yield Candidate(f"random {seed}", keep, kept)


def how_many(header: Header, keep: int | None, drop: str | None) -> int:
    """How many experts stay in each layer.

    Raises:
        PlanError: `drop` is neither a number nor a share.
    """
    if keep is not None:
        return keep
    return mixture(header).n_experts - choose.parse_count(str(drop), header)


def cautions_of(found: Ranking, names: Sequence[str] = ()) -> list[str]:
    """Warn of a text that is too short for the number of experts."""
    texts = found.pooled(names)
    mean = texts.n_tokens * found.mixture.n_used / found.mixture.n_experts
    warnings = []
    if mean < FEW_TOKENS:
        warnings.append(
            f"{texts.n_tokens:,} tokens are few for {found.mixture.n_experts} experts: "
            f"{mean:.0f} each on average, at least {FEW_TOKENS} are needed for a ranking"
        )
    missing = sum(map(len, found.unmeasured(names).values()))
    if missing:
        warnings.append(f"{missing} experts received no token of the text: what they do is unknown")
    return warnings
