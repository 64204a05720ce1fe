"""Split entries in the headers of shards, and of files that only look like shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files.shard_names import SHARD

if TYPE_CHECKING:
    from .types import Header


#: Entries that identify a shard.
KEYS = ("split.no", "split.count", "split.tensors.count")


def is_leftover(header: Header) -> bool:
    """Whether a complete file is still marked as one of several, as merging tools leave it.

    It holds all tensors that `split.tensors.count` counts, and its name is not a shard name.
    """
    count = header.get("split.count", 0)
    return (
        isinstance(count, int)
        and count > 1
        and header.get("split.tensors.count") == len(header.tensors)
        and SHARD.match(header.path.name) is None
    )
