"""The source layers of a file, from the provenance in its header."""

from __future__ import annotations

from pathlib import Path

from ..arch import rules_for
from ..errors import PlanError
from ..ggufio.header import read_header
from ..ggufio.types import Header
from ..plan.types import Plan
from .imatrix_lineage import apply_recipe, in_words, operations
from .provenance import read_provenance


def plan_of(made: str | Path, uncut: Header) -> Plan:
    """The plan that made a file from `uncut`: its first source, or an ancestor of that.

    Raises:
        FormatError: the file has no ggsurgery provenance.
        PlanError: the recipes do not lead from `uncut` to it, or give another number of layers.
    """
    header = read_header(made)
    read_provenance(header)
    all_of, before = operations(header), operations(uncut)
    after = all_of[len(before) :]
    shown = in_words(after)
    if all_of[: len(before)] != before or (all_of and not after):
        raise PlanError(
            f"{Path(made).name} was not made from {uncut.path.name}, which was operated on itself",
            expected=in_words(all_of[:-1]),
            found=in_words(before),
            hint="Give the file that it was made from.",
        )
    if len(after) > 1 and any(n > 1 for _, n in after):
        raise PlanError(
            f"{Path(made).name} was made from several models in more than one step ({shown})",
            hint="Take one step after the other, each with its own sources.",
        )
    plan = Plan.identity(uncut.n_layers, rules_for(uncut, allow_unknown=True).n_tail(uncut))
    for recipe, _ in after:
        plan = apply_recipe(recipe, plan)
    if plan.n_layers != header.n_layers:
        raise PlanError(
            f"{Path(made).name} was not made from {uncut.path.name}: its recipe "
            f"({shown}) would give {plan.n_layers} layers, it has {header.n_layers}"
        )
    return plan
