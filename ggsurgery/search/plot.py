"""A study as a picture; matplotlib comes with the extra `plot`."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingExtraError
from .run import Outcome


def render_outcome(found: Outcome, path: Path, objective: str, second: str | None) -> None:
    """All configurations in their order, or both objectives with the Pareto front.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "a plot") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.grid(visible=True, alpha=0.3)
    rows = found.ranked
    if second is None:
        axis.plot([r.number for r in rows], [r.values[0] for r in rows], "o", markersize=4)
        axis.set(xlabel="trial", ylabel=objective, title=f"{found.tried} configurations")
    else:
        axis.plot([r.values[1] for r in rows], [r.values[0] for r in rows], "o", color="0.6",
                  markersize=4, label="configurations")  # fmt: skip
        front = sorted(found.front, key=lambda r: r.values[1])
        axis.plot([r.values[1] for r in front], [r.values[0] for r in front], "o-",
                  color="tab:red", markersize=5, label="Pareto front")  # fmt: skip
        axis.set(xlabel="bytes" if second == "size" else "tokens/s", ylabel=objective)
        axis.legend()
    figure.savefig(path, dpi=150)
