"""Replace field names in the library's messages by flags: `out_type` becomes --out-type."""

from __future__ import annotations

import click

from ..errors import rename

#: Fields of recipes and of library calls whose flag has another name.
_OTHERS = {"normalize: false": "--no-normalize", "tensor_types": "--tensor-type"}
_SAME = (
    *("allow_unknown_arch", "ctx", "drop_mtp", "force", "force_kinds", "imatrix", "imatrix_of"),
    *("only", "out_type", "scale", "split_max_size", "type", "uncut"),
)
FLAGS = {name: "--" + name.replace("_", "-") for name in _SAME} | _OTHERS


def with_flags(text: str, command: str | None = None) -> str:
    """A message with flags in place of backquoted fields; `run` keeps the fields of its recipe.

    Args:
        command: the command that reports it; None means the running one.

    Example:
        >>> with_flags("replace it with `force`")
        'replace it with --force'
    """
    if command is None and (context := click.get_current_context(silent=True)) is not None:
        command = context.info_name
    return text if command == "run" else rename(text, FLAGS)
