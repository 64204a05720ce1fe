"""The rule files: the fields of each section, read strictly from TOML.

One file describes one family: which of a layer's properties llama.cpp derives from the
layer's *position*, and how a header can state them explicitly. Keys are written without
the `{arch}.` prefix. Every file names the llama.cpp version and the source file that its rules come
from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from importlib import resources
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import ArchitectureError


@dataclass(frozen=True, slots=True)
class WindowRule:
    """Which layers attend over a sliding window, and how wide it is.

    `active`: `size` = only when the size key is there and above 0, `unless_zero` = also
    without the key, `always`. `pattern`: `array_or_period` = an array under
    `pattern_key` wins over a period; `array` = only the array; `all`; `not_recurrent`.
    Of each `period` layers one is full: the last, or with `first = "full"` the first.
    """

    pattern: Literal["array_or_period", "array", "all", "not_recurrent"]
    size: str = "attention.sliding_window"
    default: int = 0
    fixed: int = 0
    active: Literal["size", "unless_zero", "always"] = "size"
    only_layers: int = 0
    kind: Literal["window", "chunked", "symmetric"] = "window"
    pattern_key: str = "attention.sliding_window_pattern"
    period: int = 0
    first: Literal["window", "full"] = "window"
    tail: Literal["full", "window"] = "full"


@dataclass(frozen=True, slots=True)
class RecurrentRule:
    """Which layers are recurrent (state space, linear attention, short convolution).

    `array_or_interval`: an array under `key` wins; else every `interval`-th layer of the
    trunk is full. `no_kv_heads`: where `attention.head_count_kv` is 0.
    """

    pattern: Literal["array_or_interval", "no_kv_heads", "no_kv_heads_no_ffn", "all"]
    key: str = "attention.recurrent_layers"
    interval: int = 0
    interval_key: str = "full_attention_interval"
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class ExpertRule:
    """Which layers are mixtures of experts: all from `leading` on, every `step`-th.

    `lead_default` is the loader's count without the key.
    """

    leading: str = ""
    step: str = ""
    lead_default: int = 0
    tail: Literal["moe", "dense", "tensors"] = "tensors"


@dataclass(frozen=True, slots=True)
class RopeRule:
    """Which layers rotate positions.

    `step`: not where `(layer + offset) % step == 0`. `without_window` is the loader's behaviour
    when no window is active: `step`, `all` layers rotate, or the step is the number of `layers`.
    `equal_is_all`: a stack of exactly `step` layers rotates everywhere. `window_only`: windowed
    layers rotate, the others do not, except leading dense ones with `dense_too`. `array`: an array
    under `pattern_key`.
    """

    pattern: Literal["step", "window_only", "array"]
    step: int = 0
    offset: int = 1
    without_window: Literal["step", "all", "layers"] = "step"
    equal_is_all: bool = False
    dense_too: bool = False
    pattern_key: str = "attention.rope_pattern"


@dataclass(frozen=True, slots=True)
class PrefixRule:
    """The first layers have a property: `count` of them, or the number under `key`.

    `numbered`: each of them has its own role (the third takes the third input), so they must stay
    in place.
    """

    name: str
    key: str = ""
    count: int = 0
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class SharedKvRule:
    """Last layers that attend over the keys and values of earlier ones.

    Either `key` counts them from the end, or they start at the fixed layer `first`. A
    full layer reads from the last layer before them, a windowed one from the last but one.
    """

    key: str = ""
    first: int = 0


@dataclass(frozen=True, slots=True)
class SlabRule:
    """A tensor outside the layers with one slab per layer along `axis` (0 = along a row)."""

    tensor: str
    axis: int


@dataclass(frozen=True, slots=True)
class SwitchRule:
    """A behaviour that llama.cpp selects by the number of layers.

    `counts` are the trunk sizes with one behaviour. `refuse`: an edit that leaves or enters the
    set (or only `on = "enter"`) is refused. `attention_scale`: attention is scaled by
    1/√(embedding/heads) for `counts` and by 1/√(key length) otherwise; the ratio is folded
    into the tensors `fold` of each layer; the first of these must exist.
    """

    action: Literal["refuse", "attention_scale"]
    counts: tuple[int, ...]
    reason: str
    on: Literal["both", "enter"] = "both"
    fold: tuple[str, ...] = ()
    vocab: int = 0


@dataclass(frozen=True, slots=True)
class ImpliedRule:
    """A scalar that the loader derives from the layer count when its key is missing.

    It is written out before the count changes. `formula` is a key of `layer_count.FORMULAS`.
    """

    key: str
    formula: str


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The content of one TOML file.

    `per_layer` lists keys that this loader reads with one value per layer, so that a scalar may
    become an array. `refuse` gives the reason why layers of this family cannot be moved at all.
    `depth_ratio` names something that llama.cpp derives from layer / (layers − 1) in recurrent
    layers, so those layers must keep that ratio. `depth_fixed` gives the reason why the number of
    layers must stay.
    """

    architectures: tuple[str, ...]
    version: str
    source: tuple[str, ...]
    note: str = ""
    per_layer: tuple[str, ...] = ()
    window: WindowRule | None = None
    recurrent: RecurrentRule | None = None
    experts: ExpertRule | None = None
    rope: RopeRule | None = None
    shared_kv: SharedKvRule | None = None
    prefix: tuple[PrefixRule, ...] = ()
    slab: tuple[SlabRule, ...] = ()
    switch: tuple[SwitchRule, ...] = ()
    implied: tuple[ImpliedRule, ...] = ()
    depth_ratio: str = ""
    depth_fixed: str = ""
    refuse: str = ""
    file: str = field(default="", compare=False)


def parse(text: str, file: str) -> RuleFile:
    """Read one rule file.

    Raises:
        ArchitectureError: it is not TOML, or has a field that no rule has.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ArchitectureError(f"invalid TOML: {error}", file=file) from error
    if "file" in table:
        raise ArchitectureError("unknown key 'file'", file=file)
    rules: RuleFile = _build(RuleFile, table, file, "")
    return replace(rules, file=file)


def _texts() -> Iterator[tuple[str, str]]:
    """Name and text of every rule file, sorted by name."""
    folder = resources.files(__package__) / "data"
    for item in sorted(folder.iterdir(), key=lambda i: i.name):
        if item.name.endswith(".toml") and not item.name.startswith("_"):
            yield item.name, item.read_text(encoding="utf-8")


@cache
def rules_of(architecture: str) -> RuleFile | None:
    """The rule file of one architecture, or None; only files that mention it are parsed.

    Raises:
        ArchitectureError: the file is wrong.
    """
    for file, text in _texts():
        if f'"{architecture}"' in text:
            rules = parse(text, file)
            if architecture in rules.architectures:
                return rules
    return None


@cache
def all_rules() -> dict[str, RuleFile]:
    """Architecture → rule file, of every TOML shipped in `arch/data`.

    Raises:
        ArchitectureError: a file is wrong, or two describe the same architecture.
    """
    rules_by_name: dict[str, RuleFile] = {}
    for file, text in _texts():
        rules = parse(text, file)
        for name in rules.architectures:
            if name in rules_by_name:
                raise ArchitectureError(
                    f"architecture {name} has two rule files",
                    file=file,
                    found=rules_by_name[name].file,
                )
            rules_by_name[name] = rules
    return rules_by_name


@cache
def keys() -> dict[str, tuple[str, ...]]:
    """The lists of `_keys.toml`: metadata keys grouped by their relation to layers."""
    text = (resources.files(__package__) / "data" / "_keys.toml").read_text(encoding="utf-8")
    return {name: tuple(values) for name, values in tomllib.loads(text).items()}


def _build(kind: Any, table: Any, file: str, where: str) -> Any:
    """A rule dataclass from a TOML table; unknown, missing and mistyped keys are errors."""
    if not isinstance(table, dict):
        raise ArchitectureError("expected a table", file=file, tensor=where, found=repr(table))
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(table) - set(known)):
        raise ArchitectureError(
            f"unknown key {unknown[0]!r}",
            file=file,
            tensor=where or None,
            expected=f"one of {', '.join(known)}",
        )
    for name, item in known.items():
        required = item.default is MISSING and item.default_factory is MISSING
        if required and name not in table:
            raise ArchitectureError(f"key {name!r} is missing", file=file, tensor=where or None)
    values = {n: _convert(hints[n], v, file, f"{where}{n}") for n, v in table.items()}
    return kind(**values)


def _convert(hint: Any, value: Any, file: str, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # optional section
        return _convert(arguments[0], value, file, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ArchitectureError("expected a list", file=file, tensor=where, found=repr(value))
        return tuple(_convert(arguments[0], v, file, where) for v in value)
    if origin is Literal:
        if value not in arguments:
            raise ArchitectureError(
                "unknown choice",
                file=file,
                tensor=where,
                expected=f"one of {', '.join(map(str, arguments))}",
                found=repr(value),
            )
        return value
    if hint in (str, int, bool):
        if type(value) is not hint:
            raise ArchitectureError(
                "wrong type", file=file, tensor=where, expected=hint.__name__, found=repr(value)
            )
        return value
    return _build(hint, value, file, f"{where}.")
