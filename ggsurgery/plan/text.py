"""Layer lists as people write them: `3`, `3-5`, `0-9,11,13,12,14-27`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import PlanError

_RANGE = re.compile(r" *([0-9]{1,9}) *(?:- *([0-9]{1,9}) *)?")

LONGEST = 10_000


def parse_layers(text: str | int | Sequence[int], *, longest: int = LONGEST) -> tuple[int, ...]:
    """The layer numbers of a list, in its order, repeats kept.

    Args:
        longest: numbers at most.

    Raises:
        PlanError: the text is not a list of layers.

    Example:
        >>> parse_layers("0-2,5,4")
        (0, 1, 2, 5, 4)
    """
    if isinstance(text, bool) or not isinstance(text, int | str | Sequence):
        raise _wrong(text)
    if isinstance(text, int):
        text = str(text)
    if not isinstance(text, str):
        text = ",".join(str(item) for item in text)
    layers: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise _wrong(text)
        first, last = int(match[1]), int(match[2] or match[1])
        if abs(last - first) >= longest:
            raise PlanError(f"the range {part.strip()} is longer than any model")
        if last < first:
            backwards = ",".join(str(n) for n in range(first, last - 1, -1))
            raise PlanError(
                f"the range {part.strip()} runs backwards",
                hint=f"If that is meant, write {backwards}",
            )
        layers.extend(range(first, last + 1))
        if len(layers) > longest:
            raise PlanError("the list of layers is longer than any model")
    return tuple(layers)


def parse_stack(text: str | int | Sequence[Any]) -> tuple[int, ...] | tuple[tuple[int, int], ...]:
    """A list of layers, or one over several models: `a:0-15, b:8-23`.

    A letter names the input, a the first; it holds until the next letter.

    Returns:
        Layer numbers, or pairs (input, layer) where the list names inputs.

    Raises:
        PlanError: no such list, or one that begins without a letter.

    Example:
        >>> parse_stack("a:0-1,b:1")
        ((0, 0), (0, 1), (1, 1))
    """
    if not isinstance(text, int | str) and isinstance(text, Sequence):
        text = ",".join(str(item) for item in text)
    if not isinstance(text, str) or ":" not in text:
        return parse_layers(text)
    found: list[tuple[int, int]] = []
    source: int | None = None
    for part in text.split(","):
        letter, colon, layers = part.rpartition(":")
        if colon:
            if not re.fullmatch(r"[a-z]", letter.strip()):
                raise _wrong_stack(text)
            source = ord(letter.strip()) - ord("a")
        if source is None:
            raise _wrong_stack(text)
        found += [(source, layer) for layer in parse_layers(layers)]
    return tuple(found)


def _wrong_stack(text: str) -> PlanError:
    return PlanError(
        "not a list of layers over several models",
        expected="such as a:0-15,b:8-23",
        found=repr(text),
        hint="a is the first input, b the second.",
    )


def _wrong(text: object) -> PlanError:
    return PlanError(
        "not a list of layers", expected="such as 3, 3-5 or 0-9,11,13,12,14-27", found=repr(text)
    )


def parse_pair(text: str | Sequence[int]) -> tuple[int, int]:
    """Exactly two layers, as `swap` and `interpolate` take them: `11,12`.

    Raises:
        PlanError: not two layers.
    """
    layers = parse_layers(text)
    if len(layers) != 2:
        raise PlanError("two layers are needed", expected="such as 11,12", found=repr(text))
    return layers[0], layers[1]


def format_layers(layers: Sequence[int]) -> str:
    """The shortest list that `parse_layers` reads back.

    Example:
        >>> format_layers([0, 1, 2, 5, 4])
        '0-2,5,4'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def whole(value: Any) -> int:
    """A whole number, also written as text.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected a whole number, found {value!r}")
    return int(value)


def mapping(value: Any) -> dict[str, Any]:
    """Values by name.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, found {value!r}")
    return value
