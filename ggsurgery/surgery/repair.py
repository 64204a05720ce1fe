"""Mend a file whose layers others removed: metadata as the removal should have left it.

with prepare_repair("pruned.gguf", removed=[3, 4]) as prepared:
    print(prepared.changes)
    prepared.write("mended.gguf")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arch import rules_for
from ..arch.unprune import unpruned
from ..errors import PlanError, printable
from ..ggufio.changes import changes
from ..ggufio.constants import GGUFValueType
from ..ggufio.reader import Source
from ..ggufio.types import Value
from ..plan.recipe import Recipe
from ..plan.text import format_layers
from ..plan.types import Plan
from .layout import lay_out, pieces_of
from .prepared import PreparedSurgery

KEY = "ggsurgery.repaired"


def prepare_repair(
    path: str | Path, removed: Sequence[int], *, allow_unknown: bool = False
) -> PreparedSurgery:
    """Find out what the removal of `removed` should have changed.

    Args:
        removed: the removed layers, numbered as in the whole model.
        allow_unknown: also mend architectures without a rule file.

    Raises:
        PlanError: nothing is to be mended, or a number cannot have been a layer.
        ArchitectureError: without the layers no file of this architecture can be right.
        FormatError: the file is damaged otherwise.
    """
    source = Source(path)
    try:
        header = source.header
        whole, plan = unpruned(header, removed)
        rules = rules_for(header, allow_unknown=allow_unknown)
        change = rules.rewrite([whole], plan)
        mended = whole.metadata | change.set
        if not changes(header.metadata, mended) and not change.tensors:
            raise PlanError(
                "nothing to mend: the metadata already fits a removal of layers "
                f"{format_layers(sorted(removed))}",
                file=path,
            )
        mended[KEY] = Value.of(
            f"removed layers: {format_layers(sorted(removed))}",
            GGUFValueType.STRING,
            order=header.order,
        )
        layout = lay_out(pieces_of(plan, [whole], change), mended, [whole])
        before = Plan.identity(whole.n_layers, rules.n_tail(whole))
        names = (printable(header.path.name),)
        return PreparedSurgery(Recipe(()), (source,), names, rules, before, plan, layout)
    except BaseException:
        source.close()
        raise
