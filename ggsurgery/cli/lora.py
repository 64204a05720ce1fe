"""lora: merge LoRA adapters into a model's weights, or check whether they fit."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..ggufio.header import read_header
from ..plan.text import format_layers
from ..surgery.lora import Fit, fit_of
from ._files import FILE
from ._output import echo, json_option, note, print_json, table, warn
from ._surgery import Surgery, check_early, operate, surgery_options

uncut_option = click.option(
    "--uncut",
    type=FILE,
    help="The model that the adapters were made for; their layers are mapped to IN's.",
)


@click.group()
def lora() -> None:
    """Check LoRA adapters, and merge them into the weights.

    They are in llama.cpp's GGUF format, as its convert_lora_to_gguf.py writes them.

    \b
    Example:
      ggsurgery lora check in.gguf adapter.gguf
      ggsurgery lora merge in.gguf adapter.gguf out.gguf
    """


@lora.command()
@uncut_option
@json_option
@click.argument("source", metavar="IN", type=FILE)
@click.argument("adapters", metavar="ADAPTER…", nargs=-1, required=True, type=FILE)
def check(source: Path, adapters: tuple[Path, ...], uncut: Path | None, as_json: bool) -> None:
    """Name the tensors of adapters that do not fit a model. Exit code 1 if there are any.

    \b
    Example:
      ggsurgery lora check in.gguf adapter.gguf
      ggsurgery lora check cut.gguf adapter.gguf --uncut in.gguf
    """
    header = read_header(source)
    fits = [fit_of(path, header, uncut) for path in adapters]
    misfits = [(fit.adapter.path, one) for fit in fits for one in fit.misfits]
    if as_json:
        print_json({"file": str(source), "ok": not misfits, "adapters": [_facts(f) for f in fits]})
    else:
        echo(table(map(_row, fits), ("adapter", "tensors", "ranks", "alpha", "misfits")))
        for path, one in misfits:
            echo(f"{path}: {one.tensor}: {one.problem}")
        _warn_of(fits)
    if misfits:
        sys.exit(1)


@lora.command()
@click.option(
    "--scale",
    multiple=True,
    type=float,
    help="Factor of the updates, one for all adapters or one each; default: 1.",
)
@uncut_option
@surgery_options(also=("out_type",))
@click.argument("source", metavar="IN", type=FILE)
@click.argument("adapters", metavar="ADAPTER…", nargs=-1, required=True, type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def merge(
    surgery: Surgery,
    source: Path,
    adapters: tuple[Path, ...],
    out: Path,
    scale: tuple[float, ...],
    uncut: Path | None,
) -> None:
    """Fold adapters into the weights of a model of any type.

    W becomes W + scale · alpha / rank · B A, as llama.cpp computes with --lora, and is encoded
    in its own type again or in --out-type.

    \b
    Example:
      ggsurgery lora merge in.gguf adapter.gguf out.gguf
      ggsurgery lora merge in.gguf a.gguf b.gguf out.gguf --scale 0.5 --scale 1
    """
    check_early((source, *adapters), out, surgery)
    factors = scale or (1.0,)
    if len(factors) not in (1, len(adapters)):
        raise click.UsageError(f"--scale is needed once, or once for each of {len(adapters)}")
    header = read_header(source)
    fits = [fit_of(path, header, uncut) for path in adapters]
    _warn_of(fits)
    pairs = zip(fits, adapters, factors * (len(adapters) // len(factors)), strict=True)
    steps = [fit.to_step(path, factor) for fit, path, factor in pairs]
    operate(surgery, steps, [source], out, spared=adapters)


def _row(fit: Fit) -> tuple[object, ...]:
    facts = _facts(fit)
    ranks = ", ".join(map(str, facts["ranks"]))
    misfits = len(fit.misfits) or "none"
    return (fit.adapter.path.name, facts["tensors"], ranks, facts["alpha"], misfits)


def _facts(fit: Fit) -> dict[str, Any]:
    return {
        "adapter": fit.adapter.path.name,
        "tensors": len(fit.adapter.pairs),
        "ranks": sorted({pair.rank for pair in fit.adapter.pairs.values()}),
        "alpha": fit.adapter.alpha,
        "misfits": [asdict(one) for one in fit.misfits],
        "gone": list(fit.gone),
        "unused": list(fit.adapter.unused),
    }


def _warn_of(fits: list[Fit]) -> None:
    for fit in fits:
        name = fit.adapter.path
        if fit.gone:
            warn(
                f"{name}: the updates of layers {format_layers(fit.gone)} are skipped: the model "
                f"lacks these layers"
            )
        if fit.adapter.unused:
            note(f"{name}: {len(fit.adapter.unused)} norm vectors are not merged, as in llama.cpp")
