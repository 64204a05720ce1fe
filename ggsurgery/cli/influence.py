"""influence: what each layer does to the hidden state, from one forward pass."""

from __future__ import annotations

from pathlib import Path

import click

from ..find.influence import Influence
from ..jobs.influence import InfluenceRequest
from ._output import echo, json_option, print_json, table
from ._requests import perform, request_options


@click.command()
@request_options(InfluenceRequest, arguments=("file",))
@json_option
def influence(request: InfluenceRequest, as_json: bool) -> None:
    """Measure what each layer changes, in one forward pass.

    Block influence is 1 − cos(input, output) of a layer: near 0, it changes little. The
    numbers are those that `delete --layer` takes. A small influence is a hint, not a proof:
    `scan` measures the cut itself.

    \b
    Example:
      ggsurgery influence model.gguf --text calibration.txt
      ggsurgery influence model.gguf --text calibration.txt --span 5 --plot influence.png
    """
    found = perform(request, Path(request.file).name, "window")
    if as_json:
        print_json(found.document)
    else:
        _show(found.influence, request.span)


def _show(found: Influence, span: int | None) -> None:
    order = found.ranked()
    rows = [
        (
            layer,
            f"{found.block[layer]:.5f}",
            None if found.n_windows < 2 else f"± {found.block_stderr[layer]:.5f}",
            order.index(layer) + 1,
            f"{found.angular[layer, 1]:.4f}",
            f"{found.norms[layer]:.1f}",
            f"{found.first_norms[layer]:.1f}",
            "makes the attention sink" if layer == found.sink else "",
        )
        for layer in range(found.n_layers)
    ]
    header = ("layer", "influence", "error", "rank", "angular/π", "norm", "first norm", "")
    echo(table(rows, header))
    if span is not None:
        echo()
        spans = [
            (
                f"{first}-{first + span - 1}",
                f"{distance:.4f}",
                "cuts the attention sink" if found.cuts_sink(first, span) else "",
            )
            for first, distance in found.spans(span)[:10]
        ]
        echo(table(spans, (f"span of {span}", "angular/π", "")))
