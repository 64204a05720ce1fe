"""The step `distil` of a recipe: train the cut model towards the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..compensate.distil.checkpoint import checkpoint_path
from ..compensate.distil.settings import is_trained
from ..files.digest import sha256_of_file
from ..files.progress import Progress
from ..jobs.distil import DistilRequest
from ..plan.distil import key_of as array_key
from ..surgery.layout import FileLayout
from ..surgery.prepare import prepare
from .document import Document
from .paths import Places
from .state import key_of

#: Bytes of a header that hold how a model was trained, besides the checksums of the arrays.
FACTS = 4096


def training(document: Document, source: Path, places: Places) -> DistilRequest:
    """The request of the section `distil`.

    Raises:
        FormatError: the text is missing.
        PlanError: impossible settings.
    """
    section = document.file.distil
    assert section is not None
    document.check_files(section)
    section.numbers.check()
    return section.extend(
        DistilRequest, base=source, cut=places.untrained, checkpoint=checkpoint_path(places.cut)
    )


def train(
    document: Document, source: Path, places: Places, on: Sequence[str]
) -> tuple[str, str, Any]:
    """What the step is called, its key, and the function that does it."""
    request = training(document, source, places)

    def make(progress: Progress) -> Any:
        warnings = request.check()
        found = request.run(progress)
        recipe = replace(found.recipe, name=document.recipe.name)
        with prepare(recipe, [places.untrained], given=found.sidecar) as prepared:
            prepared.write(places.cut, force=True)
        checkpoint_path(places.cut).unlink(missing_ok=True)
        trained = found.trained
        return {
            "held_out": [trained.before, trained.after],
            "best_step": trained.best,
            "steps": list(trained.steps),
            "warnings": warnings,
        }

    text = Path(request.text)
    settings = {**document.section("distil"), "text": sha256_of_file(text)}
    return f"on {text.name}", key_of("distil", settings, on), make


def most_bytes(document: Document, layout: FileLayout) -> int:
    """The size of the trained model at most: its header names every array with a checksum."""
    section = document.file.distil
    assert section is not None
    names = (
        info.name
        for info in layout.tensor_infos()
        if is_trained(info.name, len(info.shape), section.numbers.kind)
    )
    sums = sum(len(array_key(name)) + 80 for name in names)
    return layout.n_bytes + FACTS + sums + 2 * len(document.recipe.dumps())
