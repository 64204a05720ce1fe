"""A surgery as a value: what the new stack of layers is made of.

    Plan.blocks   the trunk, in its new order      Take(0,0) Take(0,1) Blend(…) Take(0,5)
    Plan.tail     layers behind the trunk (MTP)    Take(0,28)
    Plan.shell    the source that gives embeddings, final norm and output

Nothing here reads a file. Every type has `to_json`; equal plans have equal digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .edits import BlockEdit, Drop, MetadataEdit, ModelEdit, Params, TrimVocab


@dataclass(frozen=True, slots=True)
class BlockRef:
    """Layer `index` of source number `source`, as numbered in that file."""

    source: int
    index: int


@dataclass(frozen=True, slots=True)
class Take:
    """A layer, unchanged from its source."""

    ref: BlockRef

    def to_json(self) -> Any:
        return {"take": [self.ref.source, self.ref.index]}


@dataclass(frozen=True, slots=True)
class Blend:
    """A layer computed from parents, tensor by tensor (`method` names how)."""

    parents: tuple[Block, ...]
    method: str
    params: Params = ()

    def to_json(self) -> Any:
        return {
            "blend": [p.to_json() for p in self.parents],
            "method": self.method,
            **dict(self.params),
        }


@dataclass(frozen=True, slots=True)
class Edited:
    """A layer with edits, applied in their order."""

    block: Block
    edits: tuple[BlockEdit, ...]

    def to_json(self) -> Any:
        return {"edited": self.block.to_json(), "edits": [e.to_json() for e in self.edits]}


Block = Take | Blend | Edited


def has_edit(block: Block, kind: type) -> bool:
    """Whether a block, or a parent of it, has an edit of a kind."""
    match block:
        case Take():
            return False
        case Blend(parents):
            return any(has_edit(parent, kind) for parent in parents)
        case Edited(inner, edits):
            return has_edit(inner, kind) or any(isinstance(edit, kind) for edit in edits)


def with_edit(block: Block, edit: BlockEdit) -> Edited:
    """A block with one more edit behind those that it has."""
    if isinstance(block, Edited):
        return Edited(block.block, (*block.edits, edit))
    return Edited(block, (edit,))


def references(block: Block) -> tuple[BlockRef, ...]:
    """The layers that a block is made of, main parent first."""
    return tuple(_references(block))


def _references(block: Block) -> Iterator[BlockRef]:
    match block:
        case Take(ref):
            yield ref
        case Blend(parents):
            for parent in parents:
                yield from _references(parent)
        case Edited(inner):
            yield from _references(inner)


def main_reference(block: Block) -> BlockRef:
    """The layer whose kind and metadata entries a block carries on: its first parent."""
    return references(block)[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """The new model: which blocks in which order, and edits that concern all of it.

    Args:
        blocks: the trunk in its new order.
        tail: the layers behind the trunk (MTP / nextn), in order.
        n_sources: number of files that the references index.
        shell: the source of everything outside the layers.
        edits: edits over the whole model, such as a mask with one global threshold.
        metadata: edits of single metadata entries.
    """

    blocks: tuple[Block, ...]
    tail: tuple[Block, ...] = ()
    n_sources: int = 1
    shell: int = 0
    edits: tuple[ModelEdit, ...] = ()
    metadata: tuple[MetadataEdit, ...] = ()

    @classmethod
    def identity(cls, n_layers: int, n_tail: int = 0) -> Plan:
        """The plan that copies a model of `n_layers` layers, the last `n_tail` being its tail.

        Example:
            >>> Plan.identity(2).blocks[1]
            Take(ref=BlockRef(source=0, index=1))
        """
        takes = tuple(Take(BlockRef(0, i)) for i in range(n_layers))
        return cls(takes[: n_layers - n_tail], takes[n_layers - n_tail :])

    @property
    def n_layers(self) -> int:
        return len(self.blocks) + len(self.tail)

    @property
    def stack(self) -> tuple[Block, ...]:
        """Trunk and tail: the blocks in the order of the new `blk.N`."""
        return self.blocks + self.tail

    @property
    def computes(self) -> bool:
        """Whether any tensor has to be computed (not only copied)."""
        edited = any(not isinstance(e, Drop | TrimVocab) for e in self.edits)
        return edited or any(not isinstance(b, Take) for b in self.stack)

    def to_json(self) -> dict[str, Any]:
        return {
            "blocks": [b.to_json() for b in self.blocks],
            "tail": [b.to_json() for b in self.tail],
            "n_sources": self.n_sources,
            "shell": self.shell,
            "edits": [e.to_json() for e in (*self.edits, *self.metadata)],
        }

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON: the key of every cache."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
