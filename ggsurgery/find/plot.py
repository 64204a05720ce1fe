"""Plots of influence and scans; matplotlib comes with the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError
from ..files.atomic import atomic_path, check_output
from ..files.installation import MissingExtraError
from .influence import Influence
from .scan import Scan

#: Kinds of file that a plot can be written as.
KINDS = (".png", ".svg", ".pdf")


def check_plot(path: Path, inputs: Sequence[Path | None] = (), *, force: bool = False) -> None:
    """Refuse a plot before any work is done for it.

    Args:
        inputs: files that the command reads or writes besides.
        force: whether an existing file may be replaced.

    Raises:
        OutputError: a kind of file that is not known, an existing file, an input, no such folder.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in KINDS:
        raise OutputError("cannot plot as this kind of file", file=path,
                          expected=" or ".join(KINDS), found=path.suffix)  # fmt: skip
    check_output(path, [p for p in inputs if p is not None], force=force)
    new_figure(1, 1.0)


def render_influence(
    found: Influence, path: Path, span: int | None = None, *, force: bool = False
) -> None:
    """Block influence by layer, the sink marked; with `span`, its angular distances below."""
    figure, axes = new_figure(1 if span is None else 2, 3.2)
    layers = np.arange(found.n_layers)
    errors = None if found.n_windows < 2 else found.block_stderr
    colours = ["tab:red" if i == found.sink else "tab:blue" for i in layers]
    axes[0].bar(layers, found.block, yerr=errors, color=colours, ecolor="0.3", capsize=2)
    axes[0].set_yscale("log")
    title = f"Block influence, {found.file.name} ({found.n_tokens:,} tokens)"
    if found.sink is not None:
        title += f"\nred: layer {found.sink} makes the attention sink"
    axes[0].set_title(title, fontsize=10)
    axes[0].set(xlabel="layer", ylabel="1 − cos(input, output)")
    if span is not None:
        firsts = layers[: found.n_layers - span + 1]
        distances = found.angular[firsts, span]
        colours = ["tab:red" if found.cuts_sink(i, span) else "tab:blue" for i in firsts]
        axes[1].plot(firsts, distances, color="0.7", zorder=1)
        axes[1].scatter(firsts, distances, c=colours, s=16, zorder=2)
        best = int(np.argmin(distances))
        axes[1].annotate(
            f"{best}-{best + span - 1}", (best, distances[best]), xytext=(0, -12),
            textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
        at = {"last": "last token", "all": "all tokens"}[found.tokens]
        axes[1].set(xlabel=f"first of {span} layers", ylabel=f"angular distance / π ({at})")
        axes[1].set_ylim(bottom=0)
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(-1, found.n_layers)
    save(figure, path, force=force)


def render_scan(found: Scan, path: Path, *, force: bool = False) -> None:
    """The metric against the layer (or the pruned share), the uncut model as a line."""
    figure, axes = new_figure(1, 3.6)
    drawn = [(p, t) for p, t in zip(found.positions, found.trials, strict=True) if t.measured]
    x = [p for p, _ in drawn]
    y = [t.measured.value for _, t in drawn if t.measured]
    error = [(t.measured.stderr or 0.0) for _, t in drawn if t.measured]
    axis = axes[0]
    axis.errorbar(x, y, yerr=error, fmt="o", markersize=4, capsize=2, label=found.operation)
    axis.axhline(found.base.value, color="0.4", linestyle="--", label="uncut")
    if chance := found.base.detail.get("chance"):
        axis.axhline(chance, color="0.6", linestyle=":", label="guessing")
    metric, _, data = found.metric.partition(":")
    axis.set(
        xlabel="weights pruned (%)" if found.operation == "prune" else "layer",
        ylabel=f"accuracy (n = {found.base.n})" if data else metric,
    )
    if found.lower_is_better and min(y, default=0) > 0 and max(y) > 5 * min(y):
        axis.set_yscale("log")
    what = f"{metric} {Path(data).stem}" if data else metric
    axis.set_title(f"{found.operation}: {what} (bars: one standard error)", fontsize=10)
    axis.legend(fontsize=8)
    save(figure, path, force=force)


def new_figure(rows: int, height: float) -> tuple[Any, list[Any]]:
    """A figure with axes one below the other.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "a plot") from None
    figure = Figure(figsize=(8, height * rows), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)
    for axis in axes[:, 0]:
        axis.grid(visible=True, alpha=0.3)
    return figure, list(axes[:, 0])


def save(figure: Any, path: Path, *, force: bool = False) -> None:
    """Write a figure, whole or not at all.

    Raises:
        OutputError: the file cannot be written, or has appeared meanwhile (without `force`).
    """
    try:
        with atomic_path(path, force=force) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix[1:].lower())
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", file=path) from error
