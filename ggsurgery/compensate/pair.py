"""What was done to a model, from the pair of files: read in the header, or found by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import PlanError
from ..ggufio.reader import Source
from ..ggufio.types import Header, TensorInfo
from ..plan.recipe import Recipe, step
from ..plan.text import format_layers
from ..plan.types import Plan, Take
from ..surgery.imatrix_lineage import operations
from ..surgery.lineage import plan_of
from ..surgery.metadata import kept_tensors
from ..surgery.provenance import PREFIX, lineage

#: A tensor's type, shape and sha256.
Content = tuple[int, tuple[int, ...], str]


def recipe_of_pair(base: str | Path, cut: str | Path) -> Recipe:
    """The recipe that makes `cut` of `base`.

    Raises:
        PlanError: the file was not made from it; names the first tensor that differs.
    """
    with Source(base) as uncut, Source(cut) as made:
        if PREFIX + "recipe" in made.header.metadata:
            plan = plan_of(cut, uncut.header)
            before, after = lineage(uncut.header), lineage(made.header)
            if after[: len(before)] != before:  # only the base's header was edited since
                before, after = operations(uncut.header), operations(made.header)
            done = after[len(before) :]
            found = Recipe(tuple(s for recipe, _ in done for s in recipe.steps))
        else:
            layers = _layers_of(uncut, made)
            gone = sorted(set(range(uncut.header.n_layers)) - set(layers))
            if layers == sorted(set(layers)):
                found = Recipe((step("delete", layer=format_layers(gone)),))
            else:
                found = Recipe((step("keep", layers=format_layers(layers)),))
            plan = found.apply(Plan.identity(uncut.header.n_layers))
        _check(uncut, made, plan)
    return found


def _layers_of(uncut: Source, made: Source) -> list[int]:
    """The layers of the base that a file's layers are, by their bytes."""
    known = [_contents(uncut, uncut.header.layer_tensors(i)) for i in range(uncut.header.n_layers)]
    found: list[int] = []
    for layer in range(made.header.n_layers):
        ours = _contents(made, made.header.layer_tensors(layer))
        expected = found[-1] + 1 if found else 0
        order = sorted(range(len(known)), key=lambda i: (i < expected, i))
        same = next((i for i in order if known[i] == ours), None)
        if same is None:
            nearest = max(order, key=lambda i: _n_common(known[i], ours))
            raise _differs(uncut, made, f"blk.{layer}.", known[nearest], ours)
        found.append(same)
    return found


def _check(uncut: Source, made: Source, plan: Plan) -> None:
    """Refuse a file whose copied tensors are not the base's."""
    names = [t.name for t in uncut.header.shell]
    kept = kept_tensors(names, plan.edits, uncut.header.path)
    shell = {name: t for name, t in _shell(uncut.header).items() if name in kept}
    pairs = [("", shell, _shell(made.header))]
    for position, block in enumerate(plan.stack):
        if isinstance(block, Take) and block.ref.source == 0:
            theirs = uncut.header.layer_tensors(block.ref.index)
            pairs.append((f"blk.{position}.", theirs, made.header.layer_tensors(position)))
    for prefix, theirs, ours in pairs:
        expected, found = _contents(uncut, theirs), _contents(made, ours)
        if expected != found:
            raise _differs(uncut, made, prefix, expected, found)


def _shell(header: Header) -> dict[str, TensorInfo]:
    return {t.name: t for t in header.shell}


def _contents(source: Source, tensors: dict[str, TensorInfo]) -> dict[str, Content]:
    found = {}
    for suffix, tensor in tensors.items():
        digest = hashlib.sha256(source.data(tensor)).hexdigest()
        source.forget(tensor)
        found[suffix] = (tensor.type, tensor.shape, digest)
    return found


def _n_common(one: dict[str, Content], other: dict[str, Content]) -> int:
    return sum(other.get(suffix) == content for suffix, content in one.items())


def _differs(
    uncut: Source,
    made: Source,
    prefix: str,
    expected: dict[str, Content],
    found: dict[str, Content],
) -> PlanError:
    names = sorted({*expected, *found})
    name = next((n for n in names if expected.get(n) != found.get(n)), "")
    words = [
        "none" if c.get(name) is None else f"sha256 {c[name][2][:16]}…" for c in (expected, found)
    ]
    return PlanError(
        f"not a cut of {uncut.header.path.name}: a tensor differs",
        file=made.header.path,
        tensor=f"{prefix}{name}",
        expected=words[0],
        found=words[1],
        hint="Name the model that the file was cut from, in the same types.",
    )
