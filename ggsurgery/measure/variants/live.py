"""Make a model in memory behave as a plan, by overwriting and bypassing its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...arch import ArchRules
from ...errors import ArchitectureError
from ...ggufio.reader import Source
from ...ggufio.types import TensorInfo
from ...plan.types import Block, BlockRef, Plan, Take, main_reference
from ...runtime.live import LiveModel
from ...surgery.layout import Copy
from ...surgery.write import settle
from ...tensors import kernels
from ...tensors.expr import Read
from ...tensors.scales import NEED_SCALE, belongs_to_weight
from .scratch import candidate_layout

#: A residual branch is closed by zeroing the last tensor in it.
BRANCH_ENDS = (
    "attn_output.weight",
    "ffn_down.weight",
    "ffn_down_exps.weight",
    "ffn_down_shexp.weight",
    "ssm_out.weight",
    "shortconv.out_proj.weight",
)
POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")
#: With one of these, a zeroed weight still adds something.
OPEN_ENDS = ("attn_output.bias", "ffn_down.bias", "post_attention_norm.bias", "post_ffw_norm.bias")


class Live:
    """One loaded copy of a source, turned from one plan into the next.

    Raises:
        EngineError: the model cannot be loaded.
    """

    def __init__(self, source: Source, rules: ArchRules, n_ctx: int, n_threads: int | None) -> None:
        self.source, self.rules = source, rules
        n_ctx = max(64, n_ctx)
        self.model = LiveModel.open(
            source.header.path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=n_threads
        )
        self.n_slots = source.header.n_layers - rules.n_tail(source.header)

    def become(self, plan: Plan, given: Mapping[str, Any] | None = None) -> None:
        """Put the plan's weights into the layers, and bypass the layers left over.

        Raises:
            ArchitectureError: more layers than the model has, a layer that cannot be
                bypassed, or one that would run as another kind than its own.
        """
        slots = assign(plan.blocks, self.n_slots)
        self._check(plan, slots)
        layout = candidate_layout(plan, (self.source,), self.rules, vocabulary=False)
        layout = settle(layout, (self.source,), given=given)
        self.model.restore(self._original)
        for slot in sorted(set(range(self.n_slots)) - set(slots)):
            self._bypass(slot)
        placed = set()
        for piece in layout.pieces:
            name = piece.info.name
            if (layer := piece.info.layer) is not None:
                name = f"blk.{slots[layer]}.{piece.info.suffix}"
            placed.add(name)
            if name.endswith(".input_scale"):  # no graph reads it
                continue
            tensor = self.source.header.by_name.get(name)
            if tensor is None:
                raise self._unlike(name, "none", "a tensor as in the layer that takes its place")
            if piece.info.shape != tensor.shape:
                raise self._unlike(name, str(list(tensor.shape)), str(list(piece.info.shape)))
            if isinstance(piece.job, Copy):
                if piece.job.tensor.name == name:
                    continue
                if piece.job.tensor.type != tensor.type:
                    raise self._unlike(name, tensor.type_name, piece.job.tensor.type_name)
                self.model.set(name, self.source.data(piece.job.tensor))
                self.source.forget(piece.job.tensor)
            else:
                from ...tensors.evaluate import evaluate

                if tensor.type in NEED_SCALE:
                    raise self._unlike(name, tensor.type_name, piece.info.type_name)
                blocks = evaluate(piece.job.expr, tensor.type, (self.source,), given=given)
                self.model.set(name, b"".join(bytes(b) for b in blocks))
        for slot in slots:
            for suffix, tensor in self.source.header.layer_tensors(slot).items():
                if tensor.name not in placed:
                    self._neutralize(slot, suffix, tensor)
        self.model.reset()

    def _neutralize(self, slot: int, suffix: str, tensor: TensorInfo) -> None:
        """Give a tensor that the layer now in this place lacks the values that change nothing."""
        own = self.source.header.layer_tensors(slot)
        read = {s: Read(0, t) for s, t in own.items()}
        if suffix.endswith(".input_scale"):
            return
        if belongs_to_weight(read.get, suffix):
            ones = np.ones(tensor.n_elements, np.float32)
            self.model.set(tensor.name, kernels.encode(tensor.type, ones, ones.size).tobytes())
        elif suffix.endswith(".bias"):
            self.model.set(tensor.name, bytes(tensor.nbytes))
        else:
            raise self._unlike(tensor.name, tensor.type_name, "none")

    def _unlike(self, name: str, here: str, there: str) -> ArchitectureError:
        return ArchitectureError(
            "layers are stored in different ways, so one cannot take the other's place in memory",
            file=self.source.header.path,
            tensor=name,
            expected=here,
            found=there,
            hint="Use --route file.",
        )

    def _original(self, name: str) -> bytes:
        return bytes(self.source.data(self.source.header.by_name[name]))

    def _check(self, plan: Plan, slots: Sequence[int]) -> None:
        kinds = self.rules.kinds(self.source.header)
        for block, slot in zip(plan.blocks, slots, strict=True):
            origin = main_reference(block).index
            if kinds[origin] != kinds[slot]:
                raise ArchitectureError(
                    f"layer {origin} cannot run in the place of layer {slot}",
                    file=self.source.header.path,
                    expected=kinds[slot].label,
                    found=kinds[origin].label,
                    hint="Use --route file.",
                )

    def _bypass(self, slot: int) -> None:
        tensors = self.source.header.layer_tensors(slot)
        if bad := [s for s in OPEN_ENDS if s in tensors]:
            raise ArchitectureError(
                f"layer {slot} cannot be bypassed: its output has a bias",
                file=self.source.header.path,
                tensor=f"blk.{slot}.{bad[0]}",
                hint="Use --route file.",
            )
        norms = [s for s in POST_NORMS if s in tensors]
        ends = norms if len(norms) == 2 else [s for s in BRANCH_ENDS if s in tensors]
        if len(ends) < 2:
            raise ArchitectureError(
                f"layer {slot} has no two branches that can be closed",
                file=self.source.header.path,
                found=ends,
                hint="Use --route file.",
            )
        for suffix in ends:  # all-zero bytes decode to 0 in every ggml type
            self.model.set(f"blk.{slot}.{suffix}", bytes(tensors[suffix].nbytes))

    def close(self) -> None:
        self.model.close()


def assign(blocks: Sequence[Block], n_slots: int) -> list[int]:
    """Increasing places for the blocks, so that as many as possible stay where they are.

    Raises:
        ArchitectureError: there are more blocks than places.

    Example:
        >>> assign(Plan.identity(4).blocks[1:], 4)
        [1, 2, 3]
    """
    if len(blocks) > n_slots:
        raise ArchitectureError(
            "the plan has more layers than the model in memory",
            expected=f"at most {n_slots}",
            found=len(blocks),
            hint="Use --route file.",
        )
    # best[b][s]: most blocks in place when the first b blocks use some of the first s slots
    rows = [[0] * (n_slots + 1)]
    for b, block in enumerate(blocks, 1):
        row = [-1] * (n_slots + 1)
        for s in range(b, n_slots + 1):
            stays = block == Take(BlockRef(0, s - 1))
            row[s] = max(row[s - 1], rows[b - 1][s - 1] + stays)
        rows.append(row)
    slots, s = [], n_slots
    for b in range(len(blocks), 0, -1):
        while rows[b][s - 1] == rows[b][s] and s - 1 >= b:
            s -= 1
        slots.append(s - 1)
        s -= 1
    return slots[::-1]
