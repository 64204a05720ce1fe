"""The type of file arguments."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import GGSurgeryError

#: A path as it was typed. That it cannot be opened is the library's to say, in its one line.
FILE = click.Path(path_type=Path, readable=False)


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from ..quantize.target import parse_size  # numpy and more, which a plain cut does not need

    try:
        size = parse_size(value)
    except GGSurgeryError as error:
        raise click.BadParameter(str(error)) from None
    if size < 1:
        raise click.BadParameter("a size above 0 is needed")
    return size


#: For every command that writes a model.
split_option = click.option(
    "--split-max-size",
    metavar="SIZE",
    callback=_size,
    help="Write OUT-0000K-of-0000N.gguf with tensors of at most so much each: 2G, 500M; names "
    "and entries as of llama-gguf-split.",
)
