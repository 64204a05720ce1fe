"""delete, swap, move, duplicate, keep: the commands that rearrange layers."""

from __future__ import annotations

from pathlib import Path

import click

from ..plan.recipe import step
from ._files import FILE
from ._surgery import Surgery, in_out, list_option, operate, scale_tensors_option, surgery_options

LAYER_HELP = "Layers as in the file, from 0: 3, 3-5 or 0-9,11,13."


@click.command()
@list_option("layer", "LIST", LAYER_HELP)
@surgery_options()
@in_out
def delete(surgery: Surgery, layer: str, source: Path, out: Path) -> None:
    """Remove layers.

    \b
    Example:
      ggsurgery delete --layer 10 in.gguf out.gguf
      ggsurgery delete --layer 20-24,27 --dry-run in.gguf out.gguf
    """
    operate(surgery, [step("delete", layer=layer)], [source], out)


@click.command()
@list_option("layers", "A,B", "The two layers to exchange.")
@surgery_options()
@in_out
def swap(surgery: Surgery, layers: str, source: Path, out: Path) -> None:
    """Exchange two layers.

    \b
    Example:
      ggsurgery swap --layers 11,12 in.gguf out.gguf
    """
    operate(surgery, [step("swap", layers=layers)], [source], out)


@click.command()
@list_option("layer", "LIST", LAYER_HELP)
@click.option(
    "--to", required=True, type=int, metavar="N", help="The number that the first moved layer gets."
)
@surgery_options()
@in_out
def move(surgery: Surgery, layer: str, to: int, source: Path, out: Path) -> None:
    """Move layers to another place.

    \b
    Example:
      ggsurgery move --layer 3 --to 20 in.gguf out.gguf
    """
    operate(surgery, [step("move", layer=layer, to=to)], [source], out)


@click.command()
@list_option("layers", "LIST", "The new stack: any order, repeats allowed; all others are removed.")
@surgery_options()
@click.argument("sources", metavar="IN…", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def keep(surgery: Surgery, layers: str, sources: tuple[Path, ...], out: Path) -> None:
    """Build the stack that a list describes: depth cuts and frankenmerges.

    Over several models of one shape and vocabulary, a letter names the input (a the
    first); everything outside the layers comes from the first.

    \b
    Example:
      ggsurgery keep --layers 0-9,11,13,12,14-27 in.gguf out.gguf
      ggsurgery keep --layers 0-15,8-15,16-29 in.gguf frankenmerge.gguf
      ggsurgery keep --layers a:0-15,b:8-23 one.gguf other.gguf stacked.gguf
    """
    operate(surgery, [step("keep", layers=layers)], sources, out)


@click.command()
@list_option("layer", "LIST", LAYER_HELP)
@click.option(
    "--to",
    type=int,
    metavar="N",
    help="The number that the first copy gets; default: right behind the originals.",
)
@click.option(
    "--times",
    type=int,
    default=1,
    show_default=True,
    metavar="K",
    help="How many copies of the whole group.",
)
@click.option("--scale", type=float, metavar="S", help="Damp the copies: they add S times as much.")
@scale_tensors_option
@surgery_options(also=("out_type",))
@in_out
def duplicate(
    surgery: Surgery,
    layer: str,
    to: int | None,
    times: int,
    scale: float | None,
    scale_tensors: tuple[str, ...],
    source: Path,
    out: Path,
) -> None:
    """Insert copies of layers.

    \b
    Example:
      ggsurgery duplicate --layer 8-15 in.gguf out.gguf
      ggsurgery duplicate --layer 5 --to 21 --scale 0.5 in.gguf out.gguf
    """
    one = step(
        "duplicate",
        layer=layer,
        to=to,
        times=times if times != 1 else None,
        scale=scale,
        scale_tensors=list(scale_tensors) or None,
    )
    operate(surgery, [one], [source], out)
