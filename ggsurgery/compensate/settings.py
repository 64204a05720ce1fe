"""How a cut is healed: what is asked for, and what a fit chose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..errors import PlanError

Method = Literal["refit", "tw", "scale"]
METHODS: tuple[str, ...] = get_args(Method)

#: Ridges that are compared on the held-out windows.
RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
#: The ridge of a fit whose text has no window to choose on.
RIDGE = 1e-2
#: Kept layers behind a cut that are refitted at most.
LONGEST_SWEEP = 8
#: Layers that may be refitted without a gain on the held-out windows before the sweep ends.
PATIENCE = 2
#: Windows held out of the fit for the choice of ridge and sweep.
CHOICE_WINDOWS = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for.

    Attributes:
        method: `refit` solves for the projections, `tw` for a map folded into `ffn_down`,
            `scale` for one factor a cut.
        tokens: how many of the text's tokens to fit on at most.
        ctx: tokens of a window.
        ridge: λ relative to the mean diagonal of the Gram matrix; None chooses it for each fit
            on held-out windows.
        first: how many times the first position of a window counts.
        parse_special: read special tokens in the text as the tokens they name.
        sweep: how many kept layers behind each cut are refitted too; None chooses on held-out
            windows.
        attention: refit `attn_output` of these layers too.
    """

    method: Method = "refit"
    tokens: int = 32768
    ctx: int = 512
    ridge: float | None = None
    first: float = 30.0
    parse_special: bool = False
    sweep: int | None = None
    attention: bool = False

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            PlanError: naming the option.
        """
        if self.tokens < self.ctx:
            raise PlanError(
                "fewer tokens than one window",
                expected=f"`ctx` ({self.ctx}) or more `tokens`",
                found=self.tokens,
            )
        for name, value in (("ridge", self.ridge), ("first", self.first)):
            if value is not None and not 0 < value < math.inf:
                raise PlanError(
                    f"impossible `{name}`", expected="more than 0, and finite", found=value
                )
        if self.method != "refit" and self.attention:
            raise PlanError("`also` attention needs `method` refit", found=self.method)


DEFAULT = Settings()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a fit chose, so that the same fit can be made again without choosing.

    Attributes:
        sweeps: refitted layers behind each seam, in the order of the seams.
        ridges: by the key of the array.
        windows: how many windows of the text the fit used; None: all that `tokens` allows.
    """

    sweeps: tuple[int, ...]
    ridges: Mapping[str, float] = field(default_factory=dict)
    windows: int | None = None

    def to_json(self) -> dict[str, Any]:
        found = {"sweeps": list(self.sweeps), "ridges": dict(self.ridges)}
        return found if self.windows is None else {**found, "windows": self.windows}
