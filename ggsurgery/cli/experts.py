"""experts: rank the experts of a mixture, and delete or merge those that are needed least."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from ..compensate.experts import HealedExperts
from ..compensate.fit import check_wins
from ..find.experts.ranking import Method, Ranking
from ..jobs.experts import ChooseExpertsRequest, RankExpertsRequest, SweepExpertsRequest
from ..jobs.heal_experts import HealExpertsRequest
from ..jobs.merge_experts import MergeExpertsRequest
from ..plan.text import format_layers
from ..present.numbers import human_count
from ._files import FILE
from ._output import echo, json_option, note, print_json, table
from ._requests import Maker, output_option, perform, request_options
from ._surgery import Surgery, check_early, in_out, operate, save_arrays, surgery_options

#: Shades of the heat map, from the least needed expert of a layer to the most needed.
SHADES = " ░▒▓█"


@click.group()
def experts() -> None:
    """Mixtures of experts: rank the experts, delete those that your texts need least.

    \b
    Example:
      ggsurgery experts rank model.gguf --text code.txt --text german.txt -o ranking.json
      ggsurgery experts delete --drop 25% --ranking ranking.json model.gguf smaller.gguf
    """


@experts.command()
@request_options(RankExpertsRequest, arguments=("file",))
@json_option
def rank(request: RankExpertsRequest, as_json: bool) -> None:
    """Measure what each expert does for some texts, in one pass.

    An expert that no token of the texts reached is unmeasured, not useless. With several texts,
    experts that one text needs far more than the others are listed: a cut chosen for another text
    would lose them.

    \b
    Example:
      ggsurgery experts rank model.gguf --text code.txt
      ggsurgery experts rank model.gguf --text code.txt --text german.txt -o ranking.json
    """
    found = perform(request, Path(request.file).name, "window")
    if as_json:
        print_json(found.document)
    else:
        _show(found.ranking, request.method)


@experts.command()
@surgery_options(ChooseExpertsRequest, skip=("file",))
@in_out
def delete(surgery: Surgery, make: Maker, source: Path, out: Path) -> None:
    """Delete the experts that are needed least, the same number in every layer.

    Rows of the router, selection biases, scales and the experts' matrices leave together, as
    bytes: nothing is computed, whatever the type. The experts to keep come from a ranking, an
    importance matrix, or from a text that is measured first.

    \b
    Example:
      ggsurgery experts delete --keep 96 --ranking ranking.json in.gguf out.gguf
      ggsurgery experts delete --drop 25% --text calibration.txt in.gguf out.gguf
      ggsurgery experts delete --used 6 in.gguf out.gguf
    """
    check_early((source,), out, surgery)
    found = perform(make(ChooseExpertsRequest, file=source), source.name, "window")
    operate(surgery, found.steps, [source], out)


@experts.command()
@surgery_options(MergeExpertsRequest, also=("out_type",), skip=("file",))
@in_out
def merge(surgery: Surgery, make: Maker, source: Path, out: Path) -> None:
    """Merge the experts that are needed least into those that are most like them.

    The experts with the highest scores stay. Each absorbs the experts whose outputs and router
    scores on the texts are most similar to its own: their neurons are reordered to match, and the
    weights are averaged by saliency. The router keeps the row of the remaining expert.

    \b
    Example:
      ggsurgery experts merge --keep 96 --text calibration.txt in.gguf out.gguf
      ggsurgery experts merge --drop 25% --text code.txt --out-type f16 in.gguf out.gguf
    """
    check_early((source,), out, surgery)
    found = perform(make(MergeExpertsRequest, file=source), source.name, "window")
    operate(surgery, found.steps, [source], out)


@experts.command()
@surgery_options(HealExpertsRequest, also=("out_type",), skip=("file", "cut", "any_cut"))
@output_option("sidecar", "Write the fitted arrays here too (.npz).", old=())
@click.argument("source", metavar="IN", type=FILE)
@click.argument("cut", metavar="CUT", type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def heal(
    surgery: Surgery, make: Maker, source: Path, cut: Path, out: Path, sidecar: Path | None
) -> None:
    """Heal a file whose experts were deleted or merged, without training.

    CUT was made from IN. What each layer lacks against the uncut one is fitted into the down
    projections of the experts that it kept, by least squares; a layer is corrected where that
    helps on held-out text. No tensor is added.

    \b
    Example:
      ggsurgery experts heal --text calibration.txt in.gguf pruned.gguf healed.gguf
    """
    request = make(HealExpertsRequest, file=source, cut=cut, any_cut=surgery.force)
    others = [cut, Path(request.text)]
    check_early((source,), out, surgery, sidecar, spared=others)
    found = perform(request, "heal", "window").healed
    if not surgery.as_json:
        _show_healed(found)
    if not request.any_cut:
        check_wins(found.losses)
    save_arrays(surgery, found.sidecar, sidecar, (source, *others))
    figures = {"heal": found.to_json()}
    steps = found.recipe.steps
    operate(surgery, steps, [source], out, given=found.sidecar, spared=others, figures=figures)


@experts.command()
@request_options(SweepExpertsRequest, arguments=("file",))
@json_option
def sweep(request: SweepExpertsRequest, as_json: bool) -> None:
    """Measure the perplexity with fewer experts, without writing a file.

    The experts are masked in the loaded model, so each row costs one pass over the text. Random
    choices of the same number are the control. Rank on one text and sweep on another.

    \b
    Example:
      ggsurgery experts sweep model.gguf --ranking ranking.json --text test.txt
      ggsurgery experts sweep model.gguf --ranking r.json --text test.txt --keep 112,96,64
    """
    found = perform(request, Path(request.file).name, "window")
    if as_json:
        print_json(found.document)
        return
    base, everyone = found.base, found.document["experts"]
    rows = [(everyone, "–", f"{base.value:.4f}", f"± {base.stderr:.4f}", "1.0000")]
    for row in found.rows:
        measured = row.perplexity
        ratio = f"{measured.value / base.value:.4f}"
        cells = (f"{measured.value:.4f}", f"± {measured.stderr:.4f}", ratio)
        rows.append((row.keep, row.method, *cells))
    echo(table(rows, ("experts", "chosen by", "perplexity", "error", "ratio")))


def _show(found: Ranking, method: Method) -> None:
    pooled = found.pooled()
    values = pooled.score(method)
    guarded = found.guarded()
    rows = []
    for row, layer in enumerate(found.layers):
        order = np.argsort(values[row], kind="stable")
        unseen = int((pooled.counts[row] == 0).sum())
        rows.append(
            (
                layer,
                "|" + _heat(values[row]) + "|",
                " ".join(map(str, order[:4])),
                unseen or "–",
                format_layers(list(guarded.get(layer, ()))) or "–",
            )
        )
    header = ("layer", f"{method} of experts 0 to {found.mixture.n_experts - 1}")
    echo(table(rows, (*header, "least needed", "unmeasured", "guarded")))
    for name, layers in found.own(method).items():
        listed = "; ".join(f"{n}: {format_layers(list(e))}" for n, e in layers.items())
        echo(f"\nused by {name} far more than by the others (layer: experts): {listed or 'none'}")
    note(
        f"{human_count(pooled.n_tokens)} tokens, {found.mixture.n_used} of "
        f"{found.mixture.n_experts} experts each; darker is needed more, within its layer"
    )


def _show_healed(found: HealedExperts) -> None:
    rows = [
        (fit.layer, f"{fit.ridge:g}", f"{fit.tokens:,}", f"{fit.left:.4f}", "" if fit.used else "–")
        for fit in found.fits
    ]
    echo(table(rows, ("layer", "ridge", "fewest tokens of an expert", "error left", "")))
    bare, healed = found.losses.bare, found.losses.healed
    note(
        f"error left: of what the layer lacks, on {found.windows[1]} held-out windows; loss on "
        f"them: {bare:.4f} bare, {healed:.4f} healed"
    )


def _heat(values: Any) -> str:
    top = float(values.max()) or 1.0
    return "".join(SHADES[min(int(v / top * len(SHADES)), len(SHADES) - 1)] for v in values)
