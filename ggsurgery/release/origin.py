"""The origin of a model for the Hub's model tree: base, relation, makers, imatrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import FormatError, GGSurgeryError, one_line
from ..ggufio.constants import Keys
from ..ggufio.types import Header
from ..plan.recipe import PLAIN_STEPS
from ..present.markdown import code
from ..surgery.provenance import PREFIX, lineage
from .request import ReleaseFile, Request

_HUB = "https://huggingface.co/"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
#: The relations that the Hub accepts (docs/hub/model-cards, "Specifying a base model").
RELATIONS = ("quantized", "finetune", "merge", "adapter")
#: More base models than any merge has.
_MAX_BASES = 64


def check_origin(base_model: str | None, repo: str | None, relation: str | None) -> None:
    """Refuse names that no model or repository on the Hub can have.

    Raises:
        FormatError: one of them is not what it should be.
    """
    if base_model is not None and not _ID.fullmatch(base_model):
        raise FormatError(
            "base model", found=repr(base_model), expected="a model on the Hub, OWNER/NAME"
        )
    if repo is not None and not (_ID.fullmatch(repo) and "/" in repo):
        raise FormatError("repository", found=repr(repo), expected="OWNER/NAME")
    if relation is not None and relation not in RELATIONS:
        raise FormatError(
            "relation to the base model",
            found=repr(relation),
            expected=f"one of {', '.join(RELATIONS)}",
        )


def base_models(request: Request, header: Header) -> tuple[str, ...]:
    """`owner/name` of the models this one was made from: as given, else by the header's links."""
    if request.base_model:
        return (request.base_model,)
    count = header.get(Keys.General.BASE_MODEL_COUNT, 1)
    found = []
    for n in range(min(count, _MAX_BASES) if isinstance(count, int) else 1):
        url = str(header.get(Keys.General.BASE_MODEL_REPO_URL.format(id=n)) or "")
        name = url.removeprefix(_HUB).removesuffix("/")
        if url.startswith(_HUB) and _ID.fullmatch(name):
            found.append(name)
    return tuple(dict.fromkeys(found))


def base_entry(request: Request, header: Header) -> str | list[str] | None:
    """The base models as a card and a manifest list them: one by its name, several as a list."""
    found = base_models(request, header)
    return found[0] if len(found) == 1 else list(found) or None


def relation(request: Request, header: Header) -> str | None:
    """How the model relates to its base: `quantized`, `finetune` or `merge`.

    The base in a header belongs to the model that was operated on. A base that is
    given is the model itself before the operations, so these decide.
    """
    if request.relation is not None:
        return request.relation
    bases = base_models(request, header)
    if not bases:
        return None
    if not request.base_model:
        return "merge" if len(bases) > 1 else "finetune"
    if f"{PREFIX}recipe" not in header.metadata:
        return "quantized"
    try:
        made = lineage(header)
    except GGSurgeryError:  # damaged history: what was done is not known
        return None
    if any(n_sources > 1 for _, n_sources in made):
        return "merge"
    steps = [s for recipe, _ in made for s in recipe.steps if s.operation not in PLAIN_STEPS]
    return "finetune" if steps else "quantized"


def quantized_by(request: Request, header: Header) -> str | None:
    """The makers of the files: as given, else from the header."""
    named: Any = request.quantized_by or header.get(Keys.General.QUANTIZED_BY)
    return one_line(named) or None if isinstance(named, str) else None


def imatrix_lines(files: Sequence[ReleaseFile]) -> list[str]:
    """One sentence for each importance matrix that files were quantized with."""
    groups: dict[str, list[str]] = {}
    for file in files:
        name, text, chunks = (
            file.header.get(f"quantize.imatrix.{key}")
            for key in ("file", "dataset", "chunks_count")
        )
        if name is None:
            continue
        facts = [f"text {code(text)}"] if text else []
        facts += [f"{chunks:,} chunks"] if isinstance(chunks, int) else []
        words = code(name) + (f" ({', '.join(facts)})" if facts else "")
        groups.setdefault(words, []).append(file.ftype)
    return [
        f"Quantized with the importance matrix {words}: {', '.join(types)}."
        for words, types in groups.items()
    ]
