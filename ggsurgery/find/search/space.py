"""The candidates of a search: recipes of up to `max_ops` operations, as points of a grid.

Every slot has three coordinates that are always there, so that any sampler can work on them:

    kind   which operation; `none` in every slot but the first
    at     the layer it starts at, as numbered after the slots before it
    other  how far its partner is (swap, interpolate, merge), or the place of a bridge

Equivalent points share a digest, so each plan is measured once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ...arch import ArchRules
from ...errors import ArchitectureError, GGSurgeryError, PlanError
from ...ggufio.types import Header
from ...plan.recipe import Recipe, Step, step
from ...plan.types import Plan

KINDS = ("delete", "swap", "duplicate", "interpolate", "bridge", "merge")
NONE = "none"
#: Partners of swap, interpolate and merge are at most so many layers away.
REACH = 3


@dataclass(frozen=True)
class Space:
    """What a search may do.

    Args:
        kinds: allowed operations, of KINDS.
        n_layers: trunk layers of the model.
        max_ops: operations of one candidate at most.
    """

    kinds: tuple[str, ...]
    n_layers: int
    max_ops: int = 1

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise PlanError(
                    "unknown operation in --space", expected=", ".join(KINDS), found=kind
                )
        if not self.kinds or self.max_ops < 1:
            raise PlanError("an empty space", expected="one operation or more")

    def axes(self) -> dict[str, list[Any]]:
        """All values of every coordinate, by its name."""
        found: dict[str, list[Any]] = {}
        for slot in range(self.max_ops):
            found[f"kind_{slot}"] = [*self.kinds, *([NONE] if slot else [])]
            found[f"at_{slot}"] = list(range(self.n_layers))
            found[f"other_{slot}"] = list(range(self.n_layers))
        return found

    def recipe(self, point: dict[str, Any]) -> Recipe:
        """The recipe of a point; layers are taken modulo what the stack has.

        Raises:
            PlanError: the stack has become too short for an operation.
        """
        steps: list[Step] = []
        plan = Plan.identity(self.n_layers)
        for slot in range(self.max_ops):
            kind = point[f"kind_{slot}"]
            if kind == NONE:
                continue
            one = _step(kind, point[f"at_{slot}"], point[f"other_{slot}"], len(plan.blocks))
            plan = one.apply(plan)
            steps.append(one)
        return Recipe(tuple(steps))

    def singles(self) -> Iterator[dict[str, Any]]:
        """One point for every different single operation, the near partners first.

        Among these the last layers come first: they cost least to measure, and what they
        teach (to halving, to a sampler) is there early.
        """
        seen: set[str] = set()
        identity = Plan.identity(self.n_layers)
        seen.add(identity.digest)
        for other in range(self.n_layers):
            for kind in self.kinds:
                for at in reversed(range(self.n_layers)):
                    point = self.single(kind, at, other)
                    try:
                        digest = self.recipe(point).apply(identity).digest
                    except PlanError:
                        continue
                    if digest not in seen:
                        seen.add(digest)
                        yield point

    def moves(self, plan: Plan) -> Iterator[tuple[tuple[str, int, int], Plan]]:
        """Coordinates of every operation on a stack, with the stack that it makes."""
        for kind, at, other in product(self.kinds, range(self.n_layers), range(self.n_layers)):
            try:
                yield (kind, at, other), _step(kind, at, other, len(plan.blocks)).apply(plan)
            except PlanError:
                continue

    def single(self, kind: str, at: int, other: int) -> dict[str, Any]:
        """The point of one operation, all other slots empty."""
        point = {"kind_0": kind, "at_0": at, "other_0": other}
        for slot in range(1, self.max_ops):
            point |= {f"kind_{slot}": NONE, f"at_{slot}": 0, f"other_{slot}": 0}
        return point

    def check(self, header: Header, rules: ArchRules) -> int:
        """How many single operations the architecture allows.

        Raises:
            ArchitectureError: none; the message comes from the rule that refused the first.
            PlanError: the model has too few layers.
        """
        identity = Plan.identity(header.n_layers, rules.n_tail(header))
        refused: GGSurgeryError | None = None
        allowed = 0
        for point in self.singles():
            try:
                rules.rewrite([header], self.recipe(point).apply(identity))
                allowed += 1
            except GGSurgeryError as error:
                refused = refused or error
        if not allowed:
            if refused is None:  # there is not even a plan
                self.recipe(self.single(self.kinds[0], 0, 0))
            raise ArchitectureError(
                f"the architecture allows no operation of this space ({', '.join(self.kinds)}); "
                f"the first was refused because: {refused}",
                file=header.path,
                hint="Choose other operations with --space.",
            )
        return allowed

    def to_json(self) -> dict[str, Any]:
        return {"kinds": list(self.kinds), "n_layers": self.n_layers, "max_ops": self.max_ops}


def _step(kind: str, at: int, other: int, n: int) -> Step:
    if n < 2:
        raise PlanError("too few layers are left", expected="2 or more", found=n)
    first = at % n
    distance = 1 + other % REACH
    match kind:
        case "delete":
            return step("delete", layer=str(first))
        case "duplicate":
            return step("duplicate", layer=str(first))
        case "bridge":
            return step("bridge", layer=first, at=other % (n + 1))
    distance = min(distance, n - 1)
    first = min(first, n - 1 - distance)
    match kind:
        case "swap":
            return step("swap", layers=f"{first},{first + distance}")
        case "interpolate":
            return step("interpolate", layers=f"{first},{first + distance}", weight=0.5)
        case "merge":
            return step("merge", layers=f"{first}-{first + distance}", method="rdsc")
    raise PlanError("unknown operation", expected=", ".join(KINDS), found=kind)


def alike(recipe: Recipe, n_layers: int, count: int, seed: int) -> list[Recipe]:
    """Random recipes of the same operations, in the same order, at other places.

    Fewer than `count` where there are not so many.
    """
    rng = random.Random(seed)
    kinds = [s.operation for s in recipe.steps]
    identity = Plan.identity(n_layers)
    seen = {recipe.apply(identity).digest, identity.digest}
    found: list[Recipe] = []
    for _ in range(50 * count):
        if len(found) == count or not all(kind in KINDS for kind in kinds):
            break
        plan, steps = identity, []
        for kind in kinds:
            one = _step(kind, rng.randrange(n_layers), rng.randrange(n_layers), len(plan.blocks))
            plan = one.apply(plan)
            steps.append(one)
        if plan.digest not in seen:
            seen.add(plan.digest)
            found.append(Recipe(tuple(steps)))
    return found


def parse_kinds(text: str | Sequence[str]) -> tuple[str, ...]:
    """`delete,swap` as a tuple, each once, in the given order."""
    parts = text.split(",") if isinstance(text, str) else list(text)
    return tuple(dict.fromkeys(p.strip() for p in parts if p.strip()))
