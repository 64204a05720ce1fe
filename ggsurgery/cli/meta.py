"""meta show|get|set|unset: single header entries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from ..errors import PlanError
from ..files.text import read_stdin, read_text
from ..ggufio.changes import short
from ..ggufio.header import read_header
from ..ggufio.key_types import type_text
from ..plan.recipe import step
from ._files import FILE
from ._output import echo, echo_exact, json_option, print_json, table
from ._surgery import Surgery, in_out, operate, surgery_options

_NEGATIVE = re.compile(r"-[\d.]|-inf\b")


@click.group()
def meta() -> None:
    """Show and change single metadata entries.

    \b
    Example:
      ggsurgery meta show model.gguf
      ggsurgery meta set general.license mit in.gguf out.gguf
    """


@meta.command()
@click.argument("file", metavar="FILE", type=FILE)
@json_option
def show(file: Path, as_json: bool) -> None:
    """List all entries with their types.

    \b
    Example:
      ggsurgery meta show model.gguf
    """
    metadata = read_header(file).metadata
    if as_json:
        print_json({k: {"type": type_text(v), "value": v.value} for k, v in metadata.items()})
        return
    echo(
        table(
            [(k, type_text(v), short(v, 70)) for k, v in metadata.items()], ("key", "type", "value")
        )
    )


@meta.command()
@click.argument("key", metavar="KEY")
@click.argument("file", metavar="FILE", type=FILE)
@json_option
def get(key: str, file: Path, as_json: bool) -> None:
    """Print one entry in full; an array as JSON.

    \b
    Example:
      ggsurgery meta get tokenizer.chat_template model.gguf
    """
    header = read_header(file)
    value = header.metadata.get(key.replace("{arch}", header.architecture))
    if value is None:
        raise PlanError(
            f"no entry {key}", file=file, hint="`ggsurgery meta show` lists the entries."
        )
    if as_json or value.item_type is not None:
        print_json(value.value)
    else:
        echo_exact(str(value.value))


class _Signed(click.Command):
    """Treats a negative number as a value, not as an option `-1`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = any(_NEGATIVE.match(arg) for arg in args)
        return super().parse_args(ctx, args)


@meta.command("set", cls=_Signed)
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    help="uint32 (u32), string, array[float32] …; default: the type that llama.cpp reads, or the "
    "entry's current type.",
)
@click.option(
    "--as-json",
    "value_is_json",
    is_flag=True,
    help="VALUE is JSON, for arrays: '[1, 2, 3]'; @FILE or - reads it from a file.",
)
@surgery_options()
@in_out
def set_(
    surgery: Surgery,
    key: str,
    value: str,
    kind: str | None,
    value_is_json: bool,
    source: Path,
    out: Path,
) -> None:
    """Write a copy with one entry set.

    A known key gets the type that llama.cpp reads; an existing entry keeps its type. The type of an
    unknown key follows the value, and the command prints it.

    \b
    Example:
      ggsurgery meta set general.name "My model" in.gguf out.gguf
      ggsurgery meta set general.tags '["pruned", "27 layers"]' --as-json in.gguf out.gguf
      ggsurgery meta set qwen3.rope.freq_base 5e6 in.gguf out.gguf
    """
    if key == "general.name" and surgery.settings.values()["name"] is not None:
        raise click.UsageError("The name is given twice: as VALUE and with --name.")
    given = _value(value, value_is_json)
    one = step("set", key=key, value=given, type=kind)
    operate(surgery, [one], [source], out)


@meta.command()
@click.argument("key", metavar="KEY")
@surgery_options()
@in_out
def unset(surgery: Surgery, key: str, source: Path, out: Path) -> None:
    """Write a copy without one entry.

    \b
    Example:
      ggsurgery meta unset tokenizer.chat_template in.gguf out.gguf
    """
    operate(surgery, [step("unset", key=key)], [source], out)


@meta.command("drop-tensor")
@click.argument("tensor", metavar="NAME")
@surgery_options()
@in_out
def drop_tensor(surgery: Surgery, tensor: str, source: Path, out: Path) -> None:
    """Write a copy without one tensor, or without all that a pattern such as '*.scale' matches.

    `verify` reports whether llama.cpp needs a tensor; this command warns of anything that `verify`
    would report as an error.

    \b
    Example:
      ggsurgery meta drop-tensor rope_freqs.weight in.gguf out.gguf
      ggsurgery meta drop-tensor 'blk.*.attn_q.bias' in.gguf out.gguf
    """
    operate(surgery, [step("drop_tensor", tensor=tensor)], [source], out)


def _value(text: str, is_json: bool) -> Any:
    if text == "-":
        text = read_stdin()
    elif text.startswith("@"):
        text = read_text(text[1:])
    if not is_json:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the value is not valid JSON: {error}") from None
