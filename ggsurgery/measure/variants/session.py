"""Open plans of one model as loaded models, the cheapest way that gives the same figures.

suffix   layers in front of the first change are not computed again: their output, kept
         once, is fed to a scratch file that holds only the layers behind
file     a scratch file of the whole plan (nothing in common with the base)
live     a model in memory whose weights are overwritten; deleted layers are bypassed
mask     the source itself, whose router never chooses the experts that leave
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ...arch import rules_for
from ...arch.experts import masked_experts
from ...errors import ArchitectureError, EngineError, GGSurgeryError
from ...files.progress import Progress
from ...ggufio.reader import Source
from ...ggufio.types import Header
from ...plan.ops import expert_edits, with_all_experts
from ...plan.types import Block, Plan, main_reference
from ...runtime.engine import Engine
from ...runtime.expert_mask import ExpertMask
from ...runtime.vocab_only import VocabularyFile
from ..setup import CACHE_BYTES, Route
from ..windows import Windows
from .candidate import Candidate
from .live import Live
from .losses import LEAST_ROWS, window_nll
from .scratch import Scratch, candidate_layout
from .states import States, boundaries, record

#: Largest difference of logits, relative to the largest logit, at which states are reused.
SAME = 1e-3
#: Architectures whose graph stops the process when it is fed states instead of tokens.
TOKENS_ONLY = ("glm4moe",)


def takes_states(header: Header) -> bool:
    """Whether a model can be fed hidden states instead of tokens.

    With rotation sections it needs several positions per token, which a batch of states lacks.
    """
    sections = header.get("{arch}.rope.dimension_sections")
    return header.architecture not in TOKENS_ONLY and not any(sections or ())


class Candidates(ExitStack):
    """Measures plans of one source on one set of windows. Use it as a context manager.

    Args:
        path: the model all plans are about.
        windows: what they are measured on; `Windows.of_text` makes them.
        cache_bytes: bound on the kept hidden states; 0 keeps none.
        route: `auto` takes `mask` where only experts leave, `suffix` where layers in front are
            unchanged, else `file`.
        given: arrays for `expr.Given`, by key.
        out_type: ggml type of the tensors that a plan computes; None keeps each one's own.

    Raises:
        GGSurgeryError: the source cannot be read, or an unknown route.
    """

    def __init__(
        self,
        path: str | Path,
        windows: Windows,
        *,
        cache_bytes: int = CACHE_BYTES,
        route: Route = "auto",
        n_threads: int | None = None,
        allow_unknown_arch: bool = False,
        given: dict[str, Any] | None = None,
        out_type: int | None = None,
    ) -> None:
        super().__init__()
        if route not in get_args(Route):
            raise GGSurgeryError("unknown route", expected=get_args(Route), found=route)
        self.path, self.windows, self.route = Path(path), windows, route
        self.n_threads, self.cache_bytes = n_threads, cache_bytes
        self.given: dict[str, Any] = {} if given is None else given
        self.source = self.enter_context(Source(path))
        self.out_type = out_type
        header = self.source.header
        self.rules = rules_for(header, allow_unknown=allow_unknown_arch)
        n_tail = self.rules.n_tail(header)
        self.identity = replace(Plan.identity(header.n_layers, n_tail), tail=())
        self.base = self.identity
        self.states: States | None = None
        self.reusable = route in ("auto", "suffix") and cache_bytes > 0 and takes_states(header)
        self._attention = [kind.attention for kind in self.rules.kinds(header)]
        self.scratch = self.enter_context(Scratch(sum(header.file_size)))
        self._live: Live | None = None
        self._whole: Engine | None = None

    def prepare(self, base: Plan | None = None, progress: Progress | None = None) -> list[float]:
        """Compute the base model once: its loss by window, and the hidden states to reuse.

        Args:
            base: the plan that the next candidates are variants of; None for the source.

        Returns:
            Mean nll of each window under the base.
        """
        self.base = self.identity if base is None else replace(base, tail=())
        self.states = None
        depths: list[int] = []
        if self.reusable:
            width = int(self.source.header.get("{arch}.embedding_length") or 1)
            each = 4 * self.windows.n_tokens * width
            depths = boundaries(len(self.base.blocks), each, self.cache_bytes)
        try:
            states = self._record(depths, progress)
        except (EngineError, ArchitectureError):
            if not depths:
                raise
            self.reusable = False  # no hidden states under known names: measure whole files
            states = self._record([], progress)
        self.states = states
        if depths and self.reusable and not self._reuse_is_exact():
            self.reusable = False
            states.kept.clear()
        return states.base_nll

    def _record(self, depths: list[int], progress: Progress | None) -> States:
        # the source itself would do for the identity, but its vocabulary takes memory
        with self.open_blocks(self.base.blocks, self.base) as engine:
            return record(engine, self.windows, depths, progress)

    def _reuse_is_exact(self) -> bool:
        """Whether the base's own last layers give the base's logits from the kept states.

        They do not where layers look at token ids again (gemma3n), where positions are added
        to the input (gpt2), or where embeddings are scaled on the way in.
        """
        assert self.states is not None and self.states.probe is not None
        depth = self._start(self.base, len(self.base.blocks))
        if not depth:
            return False
        try:
            with self._suffix(self.base, depth) as candidate:
                n = len(self.windows.inputs[0])
                again = candidate.decode(0, logits=slice(max(0, n - LEAST_ROWS), n))[-1]
        except GGSurgeryError:
            return False
        size = float(np.abs(self.states.probe).max())
        return bool(np.abs(again - self.states.probe).max() <= SAME * size)

    @contextmanager
    def open(self, plan: Plan) -> Iterator[Candidate]:
        """Load a plan, ready to decode the windows.

        Raises:
            ArchitectureError: the plan takes a layer's meaning away.
            EngineError: llama.cpp cannot load or run it.
        """
        plan = replace(plan, tail=())
        fewer = any(expert_edits(block) for block in plan.blocks)
        if fewer and self.route in ("auto", "live") and with_all_experts(plan) == self.identity:
            with self._masked(plan) as candidate:
                yield candidate
            return
        self.rules.rewrite([self.source.header], plan)  # refuses what the whole file would
        depth = self._common(plan)
        if self.route == "live":
            yield self._open_live(plan)
            return
        if depth:
            try:
                with self._suffix(plan, depth) as candidate:
                    yield candidate
                return
            except ArchitectureError:  # the last layers alone have no header that states it
                pass
        with self.open_blocks(plan.blocks, plan) as engine:
            yield Candidate(engine, self.windows, None, 0, "file")

    def nll(
        self, plan: Plan, windows: range | None = None, progress: Progress | None = None
    ) -> list[float]:
        """Mean negative log-likelihood of windows under a plan, in nats a token."""
        chosen = range(len(self.windows)) if windows is None else windows
        values = []
        with self.open(plan) as candidate:
            for number, index in enumerate(chosen):
                values.append(window_nll(candidate, index))
                if progress is not None:
                    progress(number + 1, len(chosen))
        return values

    def kind_of(self, layer: int) -> str:
        """The attention of a layer of the source; llama.cpp requires all layer kinds of a model to
        be present."""
        return self._attention[layer]

    def write_whole(self, plan: Plan) -> Path:
        """A scratch file of the whole plan with its vocabulary, for metrics that need text."""
        layout = candidate_layout(
            replace(plan, tail=()),
            (self.source,),
            self.rules,
            vocabulary=True,
            out_type=self.out_type,
        )
        return self.scratch.write(layout, (self.source,), self.given)

    def _common(self, plan: Plan) -> int:
        """How many layers in front need not be computed again."""
        if self.states is None or not self.states.kept or plan.edits != self.base.edits:
            return 0
        depth, last = 0, len(plan.blocks) - 1
        for ours, theirs in zip(plan.blocks[:last], self.base.blocks, strict=False):
            if ours != theirs:
                break
            depth += 1
        return self._start(plan, depth)

    def _start(self, plan: Plan, depth: int) -> int:
        """The deepest kept boundary up to `depth` behind which a plan can be run; 0 if none.

        llama.cpp asserts that a hybrid model has layers of each kind, and so one with windows.
        """
        assert self.states is not None
        kinds = [self.kind_of(main_reference(block).index) for block in plan.blocks]
        while depth := self.states.start(depth):
            if set(kinds[depth:]) == set(kinds):
                return depth
            depth -= 1
        return 0

    @contextmanager
    def _suffix(self, plan: Plan, depth: int) -> Iterator[Candidate]:
        assert self.states is not None
        with self.open_blocks(plan.blocks[depth:], plan) as engine:
            yield Candidate(engine, self.windows, self.states.kept[depth], depth, "suffix")

    @contextmanager
    def open_blocks(
        self, blocks: Sequence[Block], like: Plan | None = None, *, head: bool = True
    ) -> Iterator[Engine]:
        """Some layers as a model of their own.

        Args:
            like: the plan whose edits of the whole model hold for them.
            head: False keeps few rows of the embedding and the output: for hidden states only.

        Raises:
            ArchitectureError: the layers alone have no header that describes them.
            EngineError: llama.cpp cannot load or run them.
        """
        plan = replace(like or self.identity, blocks=tuple(blocks), tail=())
        layout = candidate_layout(
            plan, (self.source,), self.rules, vocabulary=False, head=head, out_type=self.out_type
        )
        with self._engine(self.scratch.write(layout, (self.source,), self.given)) as engine:
            yield engine

    @contextmanager
    def _masked(self, plan: Plan) -> Iterator[Candidate]:
        mask = ExpertMask(masked_experts(self.source.header, plan))
        if self._whole is None:
            self._whole = self.enter_context(self._engine(self.source.header.path))
        self._whole.set_hook(mask)
        try:
            yield Candidate(self._whole, self.windows, None, 0, "mask")
            mask.check(self.path)
        finally:
            self._whole.set_hook(None)

    def _open_live(self, plan: Plan) -> Candidate:
        if self._live is None:
            self._live = Live(self.source, self.rules, self.windows.longest, self.n_threads)
            self.callback(self._live.close)
        self._live.become(plan, self.given)
        return Candidate(self._live.model, self.windows, None, 0, "live")

    def _engine(self, path: Path) -> Engine:
        n_ctx = max(64, self.windows.longest)
        return Engine.open(path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=self.n_threads)


@dataclass(frozen=True)
class Variant:
    """A plan of a session, opened in the way that a metric needs it; see `meter.Model`."""

    session: Candidates
    plan: Plan

    def candidate(self) -> AbstractContextManager[Candidate]:
        return self.session.open(self.plan)

    def losses(self, progress: Progress | None = None) -> list[float]:
        return self.session.nll(self.plan, progress=progress)

    @cached_property
    def file(self) -> Path:
        """A scratch file with a vocabulary; the next plan's takes its place."""
        return self.session.write_whole(self.plan)

    def vocabulary(self) -> VocabularyFile:
        return VocabularyFile(self.file)

    def engine(self, n_ctx: int, *, n_seq: int = 1, unified: bool = True) -> Engine:
        return Engine.open(
            self.file, n_ctx=n_ctx, n_seq=n_seq, unified=unified, n_threads=self.session.n_threads
        )

    def uncut(self, n_ctx: int) -> Engine:
        return Engine.open(
            self.session.path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=self.session.n_threads
        )
