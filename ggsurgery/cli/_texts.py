"""Options of the commands that run a text through a model; short forms as in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ._files import FILE

F = TypeVar("F", bound=Callable[..., Any])

threads_option = click.option(
    "-t", "--threads", type=click.IntRange(1), help="Default: all that this process may use."
)
parse_special_option = click.option(
    "--parse-special",
    is_flag=True,
    help="Read special tokens in the text, such as <|im_start|>, as the tokens they name.",
)


def text_option(help: str, *, required: bool = False) -> Callable[[F], F]:
    """`-f`, `--text`: the text's file."""
    return click.option("-f", "--text", required=required, type=FILE, help=help)


def ctx_option(help: str, *, least: int, default: int | None = 512) -> Callable[[F], F]:
    """`-c`, `--ctx`: tokens that the model reads at once."""
    return click.option(
        "-c",
        "--ctx",
        default=default,
        show_default=default is not None,
        type=click.IntRange(least),
        help=help,
    )
