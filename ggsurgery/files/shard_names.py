"""The names of split files: `model-00001-of-00003.gguf`."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import FormatError

SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


def shard_names(stem: str, count: int) -> list[str]:
    """The names of all shards of a split file, in order."""
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def shard_paths(path: Path, count: int) -> list[Path]:
    """All shards of the split file that `path` is one of, in order.

    Raises:
        FormatError: the name is not that of a shard, or a shard is missing.
    """
    match = SHARD.match(path.name)
    if match is None or int(match["count"]) != count:
        raise FormatError(
            "the header marks this as one of several files, but its name does not",
            file=path,
            expected=f"a name that ends in -00001-of-{count:05d}.gguf",
            found=path.name,
            hint="Rename the shards back to the names that llama-gguf-split gave them; if this "
            "file is complete, `ggsurgery meta unset split.count IN OUT` fixes it.",
        )
    paths = [path.with_name(name) for name in shard_names(match["stem"], count)]
    missing = [p.name for p in paths if not p.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FormatError(
            "shards are missing",
            file=path,
            found=f"no {', '.join(missing[:3])}{more}",
            hint="Put all shards into one folder.",
        )
    return paths


def siblings(path: Path) -> list[Path]:
    """The existing shards of the split file that `path` belongs to by its name, in order.

    Only the path if its name is not a shard's.
    """
    match = SHARD.match(path.name)
    if match is None:
        return [path]
    paths = [path.with_name(name) for name in shard_names(match["stem"], int(match["count"]))]
    return [p for p in paths if p == path or p.is_file()]
