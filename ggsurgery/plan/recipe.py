"""Recipes: a list of operations as YAML, JSON or Python, applied one after the other.

    name: Qwen3-tiny-v1
    operations:
      - delete: {layer: "10"}
      - swap: {layers: "11,12"}      # numbers after the previous step

The same document, as JSON, is in the header of every file made here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import FormatError, PlanError, did_you_mean, json_text
from . import ops
from .edits import Drop, Lora, Mask
from .text import mapping, parse_layers, parse_pair, parse_stack, whole
from .types import Plan

#: Keys of a recipe document that belong to the pipeline (`ggsurgery run`), not to surgery.
PIPELINE_KEYS: tuple[str, ...] = (
    "source",
    "laco",
    "prune-width",
    "heal",
    "distil",
    "header",
    "template",
    "imatrix",
    "quantize",
    "evaluate",
    "release",
    "description",
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of step: how its arguments are read and what it does to a plan.

    `arguments` maps an argument's name to the function that reads it from a recipe;
    those in `required` must be there. The reader raises PlanError or ValueError.
    """

    apply: Callable[..., Plan]
    arguments: Mapping[str, Callable[[Any], Any]]
    required: tuple[str, ...] = ()


def _same(value: Any) -> Any:
    return value


#: The operations that compute nothing; `recipe_arguments` has the others.
_PLAIN: dict[str, Operation] = {
    "delete": Operation(ops.delete, {"layer": parse_layers}, ("layer",)),
    "swap": Operation(
        lambda plan, layers: ops.swap(plan, *layers), {"layers": parse_pair}, ("layers",)
    ),
    "move": Operation(ops.move, {"layer": parse_layers, "to": whole}, ("layer", "to")),
    "keep": Operation(ops.keep, {"layers": parse_stack}, ("layers",)),
    "drop_mtp": Operation(ops.drop_tail, {}),
    "set": Operation(ops.set_metadata, {"key": str, "value": _same, "type": str}, ("key", "value")),
    "unset": Operation(ops.unset_metadata, {"key": str}, ("key",)),
    "drop_tensor": Operation(ops.drop_tensor, {"tensor": str}, ("tensor",)),
    "trim_vocab": Operation(ops.trim_vocab, {"map": str, "ids": mapping}, ("map", "ids")),
}


@cache
def operations() -> dict[str, Operation]:
    """Every operation that a recipe may name."""
    from .recipe_arguments import STEPS  # what a plain cut does not need

    return _PLAIN | {name: Operation(*parts) for name, parts in STEPS.items()}


def _operation(name: str) -> Operation | None:
    return _PLAIN.get(name) or operations().get(name)


#: Steps that change the header only: the model keeps its name.
HEADER_STEPS = ("set", "unset")

#: Steps that leave every layer and value as it is, so that they work on any GGUF file.
PLAIN_STEPS = (*HEADER_STEPS, "drop_tensor")

#: Steps that name arrays which are too large for a recipe.
WITH_ARRAYS = ("heal", "distil")

#: Arguments that name a file, by operation.
FILE_ARGUMENTS = {"prune": "imatrix", "lora": "adapter", "trim_vocab": "map"}


@dataclass(frozen=True, slots=True)
class Step:
    """One operation with its arguments as written."""

    operation: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def apply(self, plan: Plan) -> Plan:
        """The plan after this step.

        Raises:
            PlanError: unknown operation or argument, or the operation refuses.
        """
        found = _operation(self.operation)
        if found is None:
            raise PlanError(_unknown("operation", self.operation, operations()))
        given = dict(self.arguments)
        for name in found.required:
            if name not in given:
                raise PlanError(f"{self.operation} needs the argument {name!r}")
        read = {}
        for name, value in given.items():
            if name not in found.arguments:
                raise PlanError(f"{self.operation}: {_unknown('argument', name, found.arguments)}")
            try:
                read[name] = found.arguments[name](value)
            except (ValueError, TypeError) as error:
                raise PlanError(f"{self.operation}: argument {name!r}: {error}") from None
        return found.apply(plan, **read)

    def to_json(self) -> dict[str, Any]:
        """As a recipe lists it: `{"delete": {"layer": "10"}}`."""
        return {self.operation: dict(self.arguments)}

    def describe(self) -> str:
        """Readable form: `delete 10`. Mappings, which are bookkeeping, are omitted."""
        shown = (_short(k, v) for k, v in self.arguments if not isinstance(v, dict))
        return " ".join([self.operation, *shown])


def step(operation: str, **arguments: Any) -> Step:
    """A step from keyword arguments; those that are None are left out.

    Example:
        >>> step("delete", layer="10").describe()
        'delete 10'
    """
    return Step(operation, tuple((k, v) for k, v in arguments.items() if v is not None))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Operations in their order, and the options that change the resulting bytes."""

    steps: tuple[Step, ...]
    name: str | None = None
    options: tuple[tuple[str, Any], ...] = field(default=())

    def apply(self, plan: Plan) -> Plan:
        """The plan after all steps.

        Raises:
            PlanError: from the step that cannot be done, which the message names.
        """
        for number, one in enumerate(self.steps, 1):
            try:
                plan = _behind_no_edit(plan, one.apply(plan))
            except PlanError as error:
                if len(self.steps) == 1:
                    raise
                raise PlanError(f"step {number} ({one.describe()}): {error}") from error
        return plan

    def describe(self) -> str:
        return "; ".join(one.describe() for one in self.steps)

    def without_folders(self) -> Recipe:
        """As it goes into a header: files that it names without the folders of this machine."""
        return self._with_files(lambda name: Path(name).name)

    def with_files_of(self, folders: Sequence[Path]) -> Recipe:
        """The files that it names in the first of the folders that has them."""

        def found(name: str) -> str:
            return next((str(f / name) for f in folders if (f / name).is_file()), name)

        return self._with_files(found)

    def _with_files(self, place: Callable[[str], str]) -> Recipe:
        def changed(one: Step) -> Step:
            named = FILE_ARGUMENTS.get(one.operation)
            return Step(
                one.operation,
                tuple((k, place(str(v)) if k == named else v) for k, v in one.arguments),
            )

        return replace(self, steps=tuple(changed(one) for one in self.steps))

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {}
        if self.name is not None:
            document["name"] = self.name
        document["operations"] = [one.to_json() for one in self.steps]
        if self.options:
            document["options"] = dict(self.options)
        return document

    def dumps(self) -> str:
        """The recipe as a header stores it: one line of JSON."""
        return json_text(self.to_json(), separators=(",", ":"))

    @classmethod
    def from_json(cls, document: Any, where: str | Path = "recipe") -> Recipe:
        """Read a document that `to_json` wrote or a person did.

        Raises:
            FormatError: it is not a recipe; the message names the entry.
        """
        if isinstance(document, list):
            document = {"operations": document}
        if not isinstance(document, dict):
            raise FormatError("not a recipe", file=where, expected="a list of operations")
        known = ("name", "operations", "options", *PIPELINE_KEYS)
        for key in document:
            if key not in known:
                raise FormatError(_unknown("key", str(key), known), file=where)
        listed = document.get("operations") or []
        if not isinstance(listed, list):
            raise FormatError("operations must be a list", file=where, found=type(listed).__name__)
        steps = tuple(_step(entry, n, where) for n, entry in enumerate(listed, 1))
        options = document.get("options") or {}
        if not isinstance(options, dict):
            raise FormatError("options must be a mapping", file=where)
        name = document.get("name")
        return cls(steps, None if name is None else str(name), tuple(options.items()))


#: Edits that name tensors of the finished stack, by what a message calls them.
_OF_THE_FINISHED_STACK = {Mask: "a prune works", Drop: "drop_tensor works", Lora: "lora works"}


def _behind_no_edit(before: Plan, after: Plan) -> Plan:
    """`after`, unless its layers changed behind an edit of the finished stack."""
    for edit in before.edits:
        if type(edit) in _OF_THE_FINISHED_STACK and after.blocks != before.blocks:
            raise PlanError(
                f"{_OF_THE_FINISHED_STACK[type(edit)]} on the finished stack of layers",
                hint="Move it behind the steps that change layers.",
            )
    return after


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file (YAML; JSON is YAML too).

    Raises:
        FormatError: the file is missing, no YAML or no recipe.
    """
    return Recipe.from_json(read_document(path), path)


def read_document(path: str | Path) -> Any:
    """The document in a recipe file, which `Recipe.from_json` reads.

    Raises:
        FormatError: the file is missing, no YAML, names a key twice, or is one for
            `ggsurgery run`.
    """
    from .yamlfile import load  # 30 ms that a plain cut does not need

    document, _ = load(path)
    finders = {"laco": "LaCo", "prune-width": "prune-width"}
    kept = document if isinstance(document, dict) else {}
    found_by = [name for key, name in finders.items() if kept.get(key)]
    if found_by:
        raise FormatError(
            f"the recipe finds its operations by running {found_by[0]} on the model",
            file=path,
            hint=f"Run it with: ggsurgery run {path} --source IN",
        )
    return document


def _step(entry: Any, number: int, where: str | Path) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise FormatError(
            f"operation {number} is not one operation with its arguments",
            file=where,
            expected='such as "delete: {layer: 10}"',
            found=repr(entry)[:80],
        )
    ((operation, arguments),) = entry.items()
    read = _operation(operation) if isinstance(operation, str) else None
    if read is None:
        raise FormatError(
            f"operation {number}: {_unknown('operation', str(operation), operations())}", file=where
        )
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        required = read.required
        if len(required) != 1:
            raise FormatError(
                f"operation {number} ({operation}) needs its arguments by name",
                file=where,
                found=repr(arguments)[:80],
            )
        arguments = {required[0]: arguments}  # `- delete: 10`
    try:
        json.dumps(arguments)  # a header stores it
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"operation {number} ({operation}): an argument is not a plain value",
            file=where,
            expected="numbers, text, lists; put dates into quotes",
            found=str(error),
        ) from None
    known = read.arguments
    return Step(str(operation), tuple((_canonical(str(k), known), v) for k, v in arguments.items()))


def _canonical(name: str, known: Any) -> str:
    """`layer` and `layers` mean the same, as on the command line."""
    other = {"layer": "layers", "layers": "layer"}.get(name, name)
    return other if name not in known and other in known else name


def _unknown(what: str, name: str, known: Any) -> str:
    hint = did_you_mean(name, known) or f"Known: {', '.join(known)}."
    return f"unknown {what} {name!r}. {hint}"


def _short(name: str, value: Any) -> str:
    return str(value) if name in ("layer", "layers") else f"{name}={value}"
