"""A study as a picture; matplotlib comes with the extra `plot`."""

from __future__ import annotations

from pathlib import Path

from ..plot import new_figure, save
from .run import Outcome, Row


def render_outcome(
    found: Outcome, path: Path, objective: str, second: str | None, *, force: bool = False
) -> None:
    """All configurations in their order, or both objectives with the Pareto front.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    figure, (axis,) = new_figure(1, 4.5)
    rows = found.ranked
    if not rows:
        axis.set_title(f"{found.tried} configurations, none of which could be measured")
    elif second is None:
        axis.plot([r.number for r in rows], [r.values[0] for r in rows], "o", markersize=4)
        axis.set(xlabel="trial", ylabel=objective, title=f"{found.tried} configurations")
    else:
        unit = 1 << 20 if second == "size" else 1

        def across(row: Row) -> tuple[float, float]:
            return row.values[1] / unit, row.values[0]

        front = sorted(found.front, key=across)
        for chosen, style, colour, label in (
            (rows, "o", "0.6", "configurations"),
            (front, "o-", "tab:red", "Pareto front"),
        ):
            axis.plot(*zip(*map(across, chosen), strict=True), style, color=colour,
                      markersize=5, label=label)  # fmt: skip
        for row in front:  # the last one's name goes to the left, into the picture
            side = -1 if row is front[-1] else 1
            axis.annotate(row.recipe.describe() or "uncut", across(row), xytext=(5 * side, -10),
                          textcoords="offset points", fontsize=7,
                          ha="left" if side > 0 else "right")  # fmt: skip
        axis.set(xlabel="file size (MiB)" if second == "size" else "tokens/s", ylabel=objective,
                 title=f"{found.tried} configurations")  # fmt: skip
        axis.legend()
    if found.lower_is_better and rows:
        figures = [r.values[0] for r in rows]
        if 0 < 5 * min(figures) < max(figures):
            axis.set_yscale("log")
    save(figure, path, force=force)
