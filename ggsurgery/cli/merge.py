"""merge, interpolate, bridge: the commands that compute a layer from others."""

from __future__ import annotations

from pathlib import Path

import click

from ..plan.blend_ops import INTERPOLATIONS, MERGES, PARTS
from ..plan.recipe import step
from ._surgery import Surgery, in_out, list_option, operate, scale_tensors_option, surgery_options

SCALE_HELP = (
    "Damp the copy: scale what it adds to the residual stream (attn_output and ffn_down, or the "
    "norms behind them)."
)


@click.command()
@list_option("layers", "A-B", "Neighbours that collapse into A.")
@click.option(
    "--method", type=click.Choice(MERGES), default="rdsc", show_default=True, help="See above."
)
@click.option(
    "--factor", type=float, metavar="F", help="Factor of the method damped: 0 keeps A, 1 is rdsc."
)
@click.option(
    "--parts",
    type=click.Choice(PARTS),
    default="all",
    show_default=True,
    help="Merge the attention or the feed-forward half only; the other half stays A's.",
)
@surgery_options(also=("out_type", "force_kinds"))
@in_out
def merge(
    surgery: Surgery,
    layers: str,
    method: str,
    factor: float | None,
    parts: str,
    source: Path,
    out: Path,
) -> None:
    """Collapse layers A…B into A.

    \b
    rdsc       A plus the differences of all others to it, norms included
               (LaCo, equation 1); of two layers that is the second
    damped     the same with the differences times --factor
    mean       the average of all
    reference what LaCo's published code actually computes: it subtracts the base that it has just
    updated, so the sum collapses and the seven projections of B simply replace A's; A keeps its
    norms and biases

    \b
    Example:
      ggsurgery merge --layers 12-14 in.gguf out.gguf
      ggsurgery merge --layers 12-14 --method damped --factor 0.5 in.gguf out.gguf
    """
    one = step(
        "merge",
        layers=layers,
        method=method,
        factor=factor,
        parts=None if parts == "all" else parts,
    )
    operate(surgery, [one], [source], out)


@click.command()
@list_option("layers", "A,B", "The two parents.")
@click.option(
    "--weight",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of B: 0 gives A, 1 gives B.",
)
@click.option(
    "--method",
    type=click.Choice(INTERPOLATIONS),
    default="lerp",
    show_default=True,
    help="Along the line or along the arc between the parents, tensor by tensor.",
)
@click.option(
    "--at", type=int, metavar="N", help="Number of the new layer; default: right behind A."
)
@surgery_options(also=("out_type", "force_kinds"))
@in_out
def interpolate(
    surgery: Surgery,
    layers: str,
    weight: float,
    method: str,
    at: int | None,
    source: Path,
    out: Path,
) -> None:
    """Insert a new layer between two.

    \b
    Example:
      ggsurgery interpolate --layers 20,22 in.gguf out.gguf
      ggsurgery interpolate --layers 20,22 --weight 0.25 --method slerp --at 21 in.gguf out.gguf
    """
    one = step("interpolate", layers=layers, weight=weight, method=method, at=at)
    operate(surgery, [one], [source], out)


@click.command()
@click.option(
    "layer", "--layer", "--layers", required=True, type=int, metavar="A", help="The layer to copy."
)
@click.option("--at", required=True, type=int, metavar="N", help="The number that the copy gets.")
@click.option("--scale", type=float, metavar="S", help=SCALE_HELP)
@scale_tensors_option
@surgery_options(also=("out_type",))
@in_out
def bridge(
    surgery: Surgery,
    layer: int,
    at: int,
    scale: float | None,
    scale_tensors: tuple[str, ...],
    source: Path,
    out: Path,
) -> None:
    """Insert a copy of a layer elsewhere.

    \b
    Example:
      ggsurgery bridge --layer 5 --at 21 in.gguf out.gguf
      ggsurgery bridge --layer 5 --at 21 --scale 0.5 in.gguf out.gguf
    """
    one = step("bridge", layer=layer, at=at, scale=scale, scale_tensors=list(scale_tensors) or None)
    operate(surgery, [one], [source], out)
