"""What a distillation is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import PlanError, did_you_mean

#: What may be trained, with the learning rate that it gets when none is given. SmolLM2 without
#: five of its layers, 128,000 tokens: docs/lab-notes.md.
RATES = {"all": 3e-4, "norms": 3e-3, "down": 1e-3, "lora": 1e-3}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is trained.

    Attributes:
        tokens: how many of the text's tokens at most, the held-out ones included.
        ctx: tokens of a window.
        epochs: how often each window is seen.
        trainable: `all` weights of the layers, their `norms`, their `down` projections
            (`ffn_down`), or `lora:R` for low-rank updates of their matrices.
        rate: the highest learning rate; None takes that of `RATES`.
        batch: windows between two updates.
        seed: of the windows' order and of the low-rank updates.
        parse_special: read special tokens in the text as the tokens they name.
    """

    tokens: int = 128_000
    ctx: int = 512
    epochs: int = 1
    trainable: str = "all"
    rate: float | None = None
    batch: int = 5
    seed: int = 0
    parse_special: bool = False

    @property
    def kind(self) -> str:
        """The trainable part without the rank."""
        return self.trainable.partition(":")[0]

    @property
    def rank(self) -> int:
        """The rank of low-rank updates, 0 without them."""
        return int(self.trainable.partition(":")[2] or 0)

    @property
    def learning_rate(self) -> float:
        return RATES[self.kind] if self.rate is None else self.rate

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            PlanError: naming the option.
        """
        kind, colon, rank = self.trainable.partition(":")
        whole = rank.isascii() and rank.isdecimal() and 0 < int(rank) <= 4096
        if kind not in RATES or whole != (kind == "lora") or (colon and not rank):
            raise PlanError(
                "unknown `trainable`",
                expected="all, norms, down or lora:RANK",
                found=self.trainable,
                hint=did_you_mean(self.trainable, RATES),
            )
        if not 0 < self.learning_rate < math.inf:
            raise PlanError("impossible `lr`", expected="more than 0", found=self.rate)
        for option in ("epochs", "batch"):
            if getattr(self, option) < 1:
                raise PlanError(f"impossible `{option}`", expected="1 or more")
        if self.tokens < 2 * self.ctx:
            raise PlanError(
                "too few tokens: one window trains, another one is held out",
                expected=f"`tokens` of {2 * self.ctx} or more (two windows of `ctx` {self.ctx})",
                found=self.tokens,
            )


def held_out(n_windows: int) -> int:
    """How many windows at the end of the text are not trained on: an eighth, eight at most."""
    return min(8, max(1, n_windows // 8))


def is_trained(name: str, n_dims: int, kind: str) -> bool:
    """Whether a part of the model, as `Settings.kind` names it, has a tensor."""
    if not name.startswith("blk."):
        return False
    tensor = name.split(".")[2]
    match kind:
        case "norms":
            return "norm" in tensor
        case "down":
            return tensor in ("ffn_down", "ffn_down_exps") and name.endswith(".weight")
        case "lora":
            return n_dims == 2 and tensor != "ffn_gate_inp"
    return True
