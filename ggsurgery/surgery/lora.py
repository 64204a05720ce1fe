"""LoRA adapters and the models that they fit: what is wrong, and the tensors that change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import FormatError, PlanError
from ..ggufio.header import read_header
from ..ggufio.lora import Adapter, Pair, read_adapter
from ..ggufio.reader import Source
from ..ggufio.types import BLOCK_NAME, Header
from ..plan.edits import Lora, params
from ..plan.recipe import Step, step
from ..plan.text import format_layers
from ..plan.types import Blend, Block, Edited, references
from ..tensors.expr import Combine, Expr, Given
from ..tensors.lora import key_of
from ..tensors.scales import effective
from ..tensors.shape import shape_of
from .imatrix_lineage import operations, plan_between
from .lineage import plan_of


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor of an adapter that the model has not, or has in another shape."""

    tensor: str
    problem: str


@dataclass(frozen=True, slots=True)
class Fit:
    """How an adapter fits a model.

    Attributes:
        layers: for each layer of the model the adapter's; None: the same numbers.
        gone: layers of the adapter that the model lacks; their updates are skipped.
    """

    adapter: Adapter
    misfits: tuple[Misfit, ...]
    layers: tuple[int, ...] | None = None
    gone: tuple[int, ...] = ()

    def to_step(self, path: str | Path, scale: float) -> Step:
        """The recipe's step that merges it.

        Raises:
            PlanError: it does not fit.
        """
        if self.misfits:
            first = self.misfits[0]
            more = len(self.misfits) - 1
            raise PlanError(
                first.problem + (f" (and {more} more tensors do not fit)" if more else ""),
                file=self.adapter.path,
                tensor=first.tensor,
                hint="`ggsurgery lora check` lists all of them.",
            )
        layers = None if self.layers is None else format_layers(self.layers)
        return step(
            "lora",
            adapter=str(path),
            checksum=checksum_of(path),
            scale=None if scale == 1 else scale,
            layers=layers,
        )


def checksum_of(path: str | Path) -> str:
    """The checksum of an adapter's file."""
    with Source(path) as source:
        return source.checksum()


def fit_of(path: str | Path, model: Header, uncut: str | Path | None = None) -> Fit:
    """How an adapter fits a model.

    Args:
        uncut: the model that the adapter was made for, if layers of it were cut or moved since.

    Raises:
        FormatError: it is not an adapter, or the model does not record how it was made from
        `uncut`.
        PlanError: the model was not made from `uncut`, a layer of it is made of several, or the
            adapter is for removed layers.
    """
    adapter = read_adapter(path)
    if (wanted := model.architecture) != (found := adapter.header.architecture):
        misfit = Misfit("general.architecture", f"the model is of {wanted}, the adapter of {found}")
        return Fit(adapter, (misfit,))
    layers, gone = _layers(adapter, model, uncut)
    return Fit(adapter, tuple(_misfits(adapter, model, layers)), layers, gone)


def _layers(
    adapter: Adapter, model: Header, uncut: str | Path | None
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    concerned = {n for name in adapter.pairs if (n := _layer(name)) is not None}
    if uncut is not None:
        before = read_header(uncut)
        stack = plan_of(model.path, before).stack
        layers = tuple(_one_parent(block, place, model) for place, block in enumerate(stack))
        return layers, tuple(sorted(concerned & set(range(before.n_layers)) - set(layers)))
    if concerned and max(concerned) >= model.n_layers:
        done = operations(model)
        plan = plan_between(done, max(concerned) + 1, model) if done else None
        used = {r.index for b in plan.stack for r in references(b)} if plan else set()
        gone = sorted(concerned - used)
        lost = f"; layers {format_layers(gone)} are gone" if plan and gone else ""
        raise PlanError(
            f"the adapter changes layer {max(concerned)}, the model has {model.n_layers} "
            f"layers{lost}",
            file=adapter.path,
            hint="An adapter of the uncut model follows the layers with `uncut`.",
        )
    return None, ()


def _one_parent(block: Block, place: int, model: Header) -> int:
    inner = block
    while isinstance(inner, Edited):
        inner = inner.block
    if isinstance(inner, Blend):
        names = format_layers([r.index for r in references(block)])
        raise PlanError(
            f"layer {place} is made of layers {names} of the uncut model, so an adapter of that "
            "model does not fit it",
            file=model.path,
        )
    return references(block)[0].index


def _layer(name: str) -> int | None:
    match = BLOCK_NAME.fullmatch(name)
    return int(match[1]) if match else None


def _targets(adapter: Adapter, layers: Sequence[int] | None) -> list[tuple[str, Pair]]:
    """The model's tensors that change, each with its update."""
    if layers is None:
        return list(adapter.pairs.items())
    found = [(n, p) for n, p in adapter.pairs.items() if _layer(n) is None]
    for place, layer in enumerate(layers):
        prefix = f"blk.{layer}."
        found += [
            (f"blk.{place}.{name.removeprefix(prefix)}", pair)
            for name, pair in adapter.pairs.items()
            if name.startswith(prefix)
        ]
    return found


def _misfits(adapter: Adapter, model: Header, layers: Sequence[int] | None) -> list[Misfit]:
    found = []
    for name, pair in _targets(adapter, layers):
        tensor, shape = model.by_name.get(name), pair.shape
        if shape is None:
            a, b = list(pair.a.shape), list(pair.b.shape)
            problem = f"the adapter's matrices {a} and {b} do not fit each other"
        elif tensor is None:
            problem = "the model has no such tensor"
        elif tensor.shape != shape:
            problem = f"the model's tensor is {list(tensor.shape)}, the update {list(shape)}"
        else:
            continue
        found.append(Misfit(name, problem))
    return found


def adapted(edit: Lora, tensors: Mapping[str, Expr]) -> dict[str, Expr]:
    """The tensors that an adapter changes.

    Args:
        tensors: the model's by their names; a weight with a separate scale takes it up.

    Raises:
        FormatError: the file is not the one that the recipe names.
        PlanError: the adapter does not fit.
    """
    if (found := checksum_of(edit.adapter)) != edit.checksum:
        raise FormatError(
            "not the adapter that the recipe names",
            file=edit.adapter,
            expected=edit.checksum,
            found=found,
        )
    adapter = _kept(edit.adapter, edit.checksum)
    changed: dict[str, Expr] = {}
    for name, pair in _targets(adapter, edit.layers):
        whole = effective(tensors.get, name)
        if whole is None or shape_of(whole) != pair.shape:
            raise PlanError(
                "the adapter does not fit the model",
                file=edit.adapter,
                tensor=name,
                expected="none" if whole is None else list(shape_of(whole)),
                found="none" if pair.shape is None else list(pair.shape),
                hint="`ggsurgery lora check` lists what does not fit.",
            )
        key = key_of(edit.adapter, edit.checksum, pair.name, adapter.factor(pair, edit.scale))
        update = Given(key, shape_of(whole))
        changed[name] = Combine((whole, update), "linear", params(weights=(1.0, 1.0)))
    if not changed:
        raise PlanError("the adapter changes no tensor of the model", file=edit.adapter)
    return changed


@lru_cache(maxsize=4)
def _kept(path: str, checksum: str) -> Adapter:
    return read_adapter(path)
