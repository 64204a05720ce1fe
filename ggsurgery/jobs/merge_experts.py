"""Merge experts that do alike things on some texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..arch.experts import mixture
from ..errors import RequestError
from ..files.progress import Progress
from ..find.experts import choose
from ..find.experts.group import MOST, Groups, group, text_of
from ..find.experts.ranking import Ranking
from ..ggufio.header import read_header
from ..plan.recipe import step
from . import cautions
from .experts import (
    Drop,
    ExpertChoice,
    Keep,
    Protect,
    RankingSettings,
    Texts,
    cautions_of,
    how_many,
    ranking_of,
)
from .fields import Model
from .request import option


class MergeExpertsRequest(RankingSettings, frozen=True, kw_only=True):
    """Choose which experts of every layer become one. Nothing is written.

    Example:
        >>> request = MergeExpertsRequest(file="moe.gguf", keep=96, text=["t.txt"])
        >>> request.run().steps  # doctest: +SKIP
    """

    file: Model
    text: Texts
    keep: Keep = None
    drop: Drop = None
    group: Annotated[int, option("Experts that become one, at most.", ge=2, metavar="N")] = MOST
    protect: Protect = ()

    def agree(self) -> None:
        if (self.keep is None) == (self.drop is None):
            raise RequestError("one of `keep` and `drop` is needed")
        ranking_of(self, self.file, self.text)  # refuses two texts of one name

    def check(self) -> list[str]:
        """Refuse a dense model; returns warnings."""
        mixture(read_header(self.file))
        return cautions.of_context(Path(self.file), self.ctx)

    def run(self, progress: Progress | None = None) -> ExpertChoice:
        """Measure in a child process, and group."""
        header = read_header(self.file)
        keep = how_many(header, self.keep, self.drop)
        protected = choose.parse_protected(self.protect, header)
        choose.choose(header, choose.random_scores(header, 0), keep, protected)  # or refuse now
        ranking = ranking_of(self, self.file, self.text).measure(progress, likeness=True)
        guarded = ranking.guarded()
        for layer, experts in guarded.items():
            protected[layer] = (*protected.get(layer, ()), *experts)
        kept = choose.choose(header, choose.scores(ranking, self.method), keep, protected)
        groups = {layer: self._grouped(ranking, layer, kept[layer]) for layer in kept}
        lists = {str(layer): text_of(each) for layer, each in groups.items()}
        made = step("merge_experts", experts=lists)
        return ExpertChoice((made,), kept, tuple(cautions_of(ranking)))

    def _grouped(self, ranking: Ranking, layer: int, kept: tuple[int, ...]) -> Groups:
        """A layer's groups; one that did not run (behind the trunk) keeps its experts alone."""
        if layer not in ranking.layers:
            return tuple(((expert, 1.0),) for expert in kept)
        assert ranking.unlikeness is not None
        row = ranking.layers.index(layer)
        saliency = ranking.pooled().score(self.method)[row]
        alone = ranking.guarded().get(layer, ())
        return group(saliency, ranking.unlikeness[row], kept, alone, self.group)
