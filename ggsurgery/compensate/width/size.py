"""How many feed-forward channels stay: a share or a number, rounded to what types need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...arch.channels import DOWN, channels
from ...errors import ArchitectureError, PlanError
from ...ggufio.types import Header, block_size, type_name
from ...plan.text import format_layers

#: Blocks of the types that are not K or I types.
SMALL = 32
#: Blocks of K and I types.
LARGE = 256


@dataclass(frozen=True, slots=True)
class Size:
    """Channels of each layer before and after.

    Args:
        multiple: what `after` is a multiple of.
        why: in words.
        layers: those that have such channels.
    """

    before: int
    after: int
    multiple: int
    why: str
    layers: tuple[int, ...]

    @property
    def share(self) -> float:
        """The share of the channels that leave."""
        return 1 - self.after / self.before


def size_of(
    header: Header, share: float | None, count: int | None, multiple: int | None = None
) -> Size:
    """How many channels stay.

    Args:
        share: of the channels that leave; or
        count: of those that stay.
        multiple: what the number becomes a multiple of; None takes the block of `ffn_down`.

    Raises:
        ArchitectureError: a model that cannot lose channels, or whose layers differ in width.
        PlanError: more channels than there are, or rounding leaves all of them.
    """
    found = channels(header)
    sizes = sorted(set(found.counts.values()))
    if len(sizes) > 1:
        raise ArchitectureError(
            "the layers have unlike numbers of feed-forward channels",
            file=header.path,
            expected="one number for all layers",
            found=", ".join(map(str, sizes)),
            hint="Name the channels of each layer in a recipe: `keep_channels`.",
        )
    before, layers = sizes[0], tuple(found.counts)
    step, why = _multiple(header, layers, multiple)
    wanted = before * (1 - share) if share is not None else float(count or 0)
    if not 0 < wanted <= before:
        raise PlanError(
            "impossible number of channels to keep",
            file=header.path,
            expected=f"1 to {before}",
            found=f"{wanted:g}",
        )
    if wanted == before:
        return Size(before, before, step, why, layers)
    after = max(step, int(wanted / step + 0.5) * step)
    if after >= before:
        raise PlanError(
            f"rounded to a multiple of {step}, all {before} channels stay",
            file=header.path,
            expected=f"{before - step} channels or fewer" if before > step else "`multiple` 1",
            found=f"{wanted:g}",
            hint="Remove more, or choose a smaller `multiple`.",
        )
    return Size(before, after, step, why, layers)


def _multiple(header: Header, layers: Sequence[int], asked: int | None) -> tuple[int, str]:
    if asked is not None:
        return asked, f"a multiple of {asked}, as asked"
    kinds = {header.layer_tensors(n)[DOWN].type for n in layers}
    large = [k for k in kinds if (block_size(k) or (0, 0))[0] == LARGE]
    if large:
        return LARGE, f"a multiple of {LARGE}, the blocks of {type_name(large[0])}"
    return SMALL, f"a multiple of {SMALL}, the blocks of Q8_0 and Q4_0"


def falls_back(header: Header, size: Size) -> bool:
    """Whether rows of `ffn_down` fitted the blocks of K types, and no longer do."""
    return size.before % LARGE == 0 and size.after % LARGE != 0


def describe(size: Size) -> str:
    """What stays and why, for people."""
    return (
        f"{size.after} of {size.before} feed-forward channels stay in layers "
        f"{format_layers(size.layers)} ({size.share:.1%} leave): {size.why}"
    )
