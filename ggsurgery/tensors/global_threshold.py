"""One threshold over many tensors: masks called `mask_all` become plain masks.

    before   mask_all(x, edit=0, sparsity=0.3)      in every tensor that the edit chose
    after    mask(x, threshold=0.0667, cut=None)    cut: how far weights equal to it fall

A threshold over all weights cannot be computed before they have been read once; the
second pass, which writes, then goes tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..plan.edits import params
from .expr import Apply, Combine, Expr, rebuild, walk
from .shape import shape_of
from .two_pass import Resolver

MASK_ALL = "mask_all"


def pending(exprs: Sequence[Expr]) -> list[int]:
    """The numbers of the edits that still need their threshold, in the order of the edits."""
    return sorted({int(dict(m.params)["edit"]) for e in exprs for m in _marks(e)})


def settle(exprs: Sequence[Expr], resolver: Resolver) -> list[Expr]:
    """The expressions with every threshold found that belongs to all of them together.

    Args:
        exprs: in the order of the output; of weights equal to a threshold the first fall.

    Raises:
        FormatError: a tensor cannot be decoded, or a file ends early.
        PlanError: fewer weights are numbers than have to become zero.
    """
    settled = list(exprs)
    for edit in pending(settled):  # a later mask sees what an earlier one left
        marks = {
            number: mark
            for number, expr in enumerate(settled)
            for mark in _marks(expr)
            if dict(mark.params)["edit"] == edit
        }
        options = dict(next(iter(marks.values())).params)
        scores = [resolver.resolve(_score(mark)) for mark in marks.values()]
        total = sum(prod(shape_of(score)) for score in scores)
        largest = bool(options.get("largest"))
        count = round(float(options["sparsity"]) * total)
        threshold, cuts = resolver.cuts(scores, count, largest)
        for (number, mark), cut in zip(marks.items(), cuts, strict=True):
            plain = params(threshold=threshold, largest=largest or None, cut=cut)
            found = replace(mark, method="mask", params=plain)
            settled[number] = _exchanged(settled[number], mark, found)
    return settled


def _exchanged(expr: Expr, old: Expr, new: Expr) -> Expr:
    return rebuild(expr, lambda node: new if node == old else node)


def _marks(expr: Expr) -> list[Apply | Combine]:
    return [e for e in walk(expr) if isinstance(e, Apply | Combine) and e.method == MASK_ALL]


def _score(mark: Apply | Combine) -> Expr:
    """The quantity compared with the threshold: the values, or their score."""
    return mark.input if isinstance(mark, Apply) else mark.inputs[1]
