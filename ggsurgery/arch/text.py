"""Layer numbers as people write them."""

from __future__ import annotations

from collections.abc import Sequence


def layer_list(layers: Sequence[int]) -> str:
    """Runs written with a dash.

    Example:
        >>> layer_list([0, 1, 2, 5, 4, 7, 8])
        '0-2,5,4,7-8'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
