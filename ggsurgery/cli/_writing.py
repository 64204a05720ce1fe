"""Write what a method proposed: the surgery commands' last step, with the method's figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files.atomic import check_output
from ..pipeline import cautions
from ..plan.recipe import Recipe
from ..present.numbers import human_bytes, human_count
from ..surgery.prepare import prepare
from ._output import note, print_json, warn
from ._surgery import Options, show, summary, write_with_bar


def check_early(source: Path, out: Path, options: Options, *others: Path | None) -> None:
    """Refuse outputs before the work for them; `others` are files written beside `out`."""
    if options.dry_run:
        return
    seen: set[Path] = set()
    for path in (out, *(p for p in others if p is not None)):
        check_output(path, (source,), force=options.force)
        if path.absolute() in seen:
            raise OutputError("two outputs have the same name", file=path,
                              hint="Name another file.")  # fmt: skip
        seen.add(path.absolute())


def write_recipe(
    recipe: Recipe,
    source: Path,
    out: Path,
    options: Options,
    *,
    figures: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> None:
    """Write (or, as a dry run, show) a recipe; `figures` join the JSON.

    Args:
        given: arrays that the recipe names.
    """
    whole = options.recipe(recipe.steps)
    with prepare(whole, (source,), given=given) as operation:
        warn(*cautions.of_operation(operation, out))
        if options.dry_run and not options.as_json:
            show(operation, out, force=options.force, as_json=False)
            return
        if not options.dry_run:
            out = write_with_bar(operation, out, **options.writing)
        facts = summary(operation)
    if options.as_json:
        print_json({**facts, **figures, "out": None if options.dry_run else str(out)})
        return
    note(
        f"{out}: layers {facts['layers'][0]} → {facts['layers'][1]}, parameters "
        f"{human_count(facts['parameters'][0])} → {human_count(facts['parameters'][1])}, "
        f"{human_bytes(facts['bytes'][1])}"
    )
