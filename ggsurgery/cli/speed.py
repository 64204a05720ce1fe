"""speed: tokens a second of one or several files."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import click

from ..jobs.speed import SpeedRequest
from ..measure.metrics.speed import Speed
from ._files import FILE
from ._output import echo, json_option, note, print_json, table
from ._requests import Maker, perform, request_options


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@request_options(SpeedRequest, skip=("files",))
@json_option
def speed(make: Maker, files: tuple[Path, ...], as_json: bool) -> None:
    """Measure tokens a second: reading a prompt, and generating.

    The definitions are llama-bench's. Several files take turns, so that other load on the machine
    affects all of them equally; the ratio is the mean over the turns. Compare only figures of one
    run: figures from another day or machine differ for other reasons.

    \b
    Example:
      ggsurgery speed model.gguf
      ggsurgery speed in.gguf out.gguf --prompt 256 --generate 64 --repetitions 3
    """
    found = perform(make(SpeedRequest, files=files), files[0].name, "measurement")
    if as_json:
        print_json(found.to_json())
        return
    rows = []
    for one in found.speeds:
        row = [str(one.file), _figure(one.prompt), _figure(one.generation)]
        if len(found.speeds) > 1:
            first = found.speeds[0]
            row += [_ratio(one.prompt, first.prompt), _ratio(one.generation, first.generation)]
        rows.append(row)
    header = ("file", "prompt tokens/s", "generated tokens/s", "ratio", "ratio")
    echo(table(rows, header[: len(rows[0])]))
    first = found.speeds[0]
    note(f"{_settings(first)}; ± is the standard deviation of the repetitions")


def _settings(one: Speed) -> str:
    return (
        f"prompt of {one.n_prompt} tokens, {one.n_generated} generated, {one.n_threads} threads, "
        f"{len(one.prompt)} repetitions"
    )


def _figure(values: tuple[float, ...]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _ratio(values: tuple[float, ...], base: tuple[float, ...]) -> str:
    return f"{fmean(v / b for v, b in zip(values, base, strict=True)):.3f}"
