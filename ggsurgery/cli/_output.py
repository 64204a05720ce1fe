"""Output of commands: readable tables, or JSON with the same figures.

The only place that writes to a terminal. Texts come from files, so all terminal control characters
are escaped here.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ..errors import OutputError, json_text, printable

F = TypeVar("F", bound=Callable[..., Any])


#: Layout characters that are not escaped in multi-line texts.
_LAYOUT = "\n\t"


def json_option(function: F) -> F:
    """`--json`: print the figures as one JSON document on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )


def echo(text: object = "", *, newline: bool = True) -> None:
    """Print on standard output; line breaks stay, other control characters are escaped."""
    with _printing():
        click.echo(printable(str(text), _LAYOUT), nl=newline)


@contextmanager
def _printing() -> Iterator[None]:
    """Report a system error on standard output, such as a full disk behind `> FILE`."""
    try:
        yield
    except BrokenPipeError:  # `| head`, which ends the program without a message
        raise
    except OSError as error:
        raise OutputError(
            f"cannot print: {error.strerror or error}",
            file="standard output",
            hint="Check the disk that it is redirected to.",
        ) from error


def echo_exact(text: str) -> None:
    """Print a text from a file byte for byte, with a line break at its end.

    For a terminal it is escaped, as in `echo`.
    """
    text += "" if text.endswith("\n") else "\n"
    buffer = getattr(sys.stdout, "buffer", None)
    if sys.stdout.isatty():
        echo(text.removesuffix("\n"))
    elif buffer is None:  # a text stream that Python code installed
        sys.stdout.write(text)
    else:
        with _printing():
            sys.stdout.flush()
            buffer.write(text.encode("utf-8", "surrogateescape"))
            buffer.flush()


def print_json(result: Any) -> None:
    """One JSON document; not-a-number and infinity, which JSON lacks, become null."""
    with _printing():
        click.echo(json_text(_finite(result), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def note(*texts: str) -> None:
    """Print a remark on standard error, so that standard output holds only figures."""
    for text in texts:
        click.echo(_remark(text), err=True)


def warn(*texts: str) -> None:
    """Print warnings, one per line."""
    for text in texts:
        click.echo(click.style("warning: ", fg="yellow") + _remark(text), err=True)


def _remark(text: str) -> str:
    """The text with flags in place of the fields that it names in backquotes."""
    if "`" in text:
        from ._flags import with_flags

        text = with_flags(text)
    return printable(text, _LAYOUT)


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Rows in columns, as wide as the terminal at most; without a header, pairs."""
    from ..present.table import Table  # more than a plain cut prints

    return Table(header, rows).text(terminal_width())


def terminal_width() -> int | None:
    """Width of the terminal on standard output in cells; None for a file or a pipe."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns
