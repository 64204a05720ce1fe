"""scan: every single operation of a kind, measured against the uncut model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ..files import temporary
from ..find.scan import OPERATIONS, SHARES, Scan
from ..find.scan import scan as run_scan
from ..ggufio.reader import Source
from ..measure.results.comparison import is_logarithmic
from ._files import FILE
from ._measuring import (
    METRIC_HELP,
    envelope_of,
    files_of,
    force_plot_option,
    in_words,
    measuring_options,
    plot_option,
    setup_of,
    unknown_arch_option,
)
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import progress_bar


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
@click.option(
    "--op",
    "operation",
    default="delete",
    show_default=True,
    type=click.Choice(OPERATIONS),
    help="The operation, done once for every layer (prune: for every share).",
)
@click.option("--metric", default="perplexity", show_default=True, help=METRIC_HELP)
@click.option(
    "--shares",
    default=",".join(map(str, SHARES)),
    show_default=True,
    metavar="LIST",
    help="Percent of all weights that `prune` sets to zero, smallest first.",
)
@click.option(
    "--distance",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="How far apart the layers are that `swap` exchanges.",
)
@click.option(
    "--journal",
    type=FILE,
    metavar="JSONL",
    help="Keep every result here; the same command continues a stopped scan.",
)
@plot_option
@force_plot_option
@measuring_options
@unknown_arch_option
@json_option
def scan(
    measuring: dict[str, Any],
    allow_unknown_arch: bool,
    file: Path,
    operation: str,
    metric: str,
    shares: str,
    distance: int,
    journal: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Do one operation at every place, and measure each.

    Leave-one-out (--op delete) shows which layer is missed least. Layers in front of the
    change are not computed again, and no file is left behind. A candidate that is refused
    or crashes is a row with its reason.

    \b
    Example:
      ggsurgery scan model.gguf --text calibration.txt --journal scan.jsonl
      ggsurgery scan model.gguf --op prune --metric choices:mmlu.jsonl --plot prune.png
    """
    from ..find.plot import check_plot, save_plot

    setup = setup_of(file, metric, measuring, allow_unknown_arch=allow_unknown_arch)
    if plot is not None:
        check_plot(plot, (*files_of(setup), journal), force=force)
    with ExitStack() as stack:
        if journal is None:
            folder = stack.enter_context(temporary.Folder("scan"))
            book = folder / "journal.jsonl"
        else:
            book = journal
        progress = stack.enter_context(progress_bar(f"{operation} of {file.name}", "candidate"))
        source = stack.enter_context(Source(file))
        found = run_scan(
            setup,
            operation,
            book,
            shares=_shares(shares),
            distance=distance,
            source=source,
            progress=progress,
        )
        facts = envelope_of("scan", setup, source) if as_json else {}
    if plot is not None:
        save_plot(found.to_json(), plot, force=force)
    if as_json:
        print_json(facts | found.to_json())
        return
    _show(found)


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part.strip().removesuffix("%")) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"not a list of percents: {text!r}", param_hint="--shares"
        ) from None
    if not all(0 < s < 100 for s in shares):
        raise click.BadParameter("percents must lie between 0 and 100", param_hint="--shares")
    return shares


def _show(found: Scan) -> None:
    ranks = {id(t): i + 1 for i, t in enumerate(found.ranked())}
    rows = []
    for trial, p_value in zip(found.trials, found.corrected, strict=True):
        value, difference = trial.measured, trial.difference
        rows.append(
            (
                trial.recipe.describe(),
                in_words(value),
                in_words(difference),
                None if p_value is None else f"{p_value:.4f}",
                ranks.get(id(trial)),
                f"{trial.seconds:.1f} s",
                trial.error or "",
            )
        )
    what = "log ratio to uncut" if is_logarithmic(found.metric) else "difference to uncut"
    metric, _, data = found.metric.partition(":")
    measured = f"{metric} {Path(data).stem}" if data else metric
    echo(table(rows, ("operation", measured, what, "p (Holm)", "rank", "time", "")))
    base = in_words(found.base)
    tests = f"; p: {found.tests}, for {len(found.trials)} candidates" if found.tests else ""
    note(
        f"uncut: {base} (n = {found.base.n}); errors are paired, window by window or "
        f"question by question{tests}"
    )
    if found.guessing:
        warn(
            "guessing explains the uncut model's figure (chance "
            f"{found.base.provenance['chance']:.2f}): what a layer loses or wins here is noise"
        )
    best = next(iter(found.ranked()), None)
    if best is not None and len(found.trials) > 1:
        note(
            f"{len(found.trials)} candidates were tried: the best one's figure is flattered by "
            "the choice. Measure it again on another text before you rely on it."
        )
