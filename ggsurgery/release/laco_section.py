"""The card's sections on LaCo: settings, statistics, similarity, as the published card has them.

They come from the document that `laco --out` and `run` write (`find.laco.Result.to_json`),
which has to be about the files of the release: their headers list its merges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import FormatError, GGSurgeryError
from ..find.laco.types import FORMAT
from ..ggufio.types import Header
from ..plan.recipe import PLAIN_STEPS, Recipe
from ..present.markdown import code
from ..present.table import Table
from ..surgery.provenance import PREFIX, read_provenance

_SETTINGS = (
    ("merge_layers", "C", "layers that become one"),
    ("lowest", "L", "no merge below this layer"),
    ("highest", "H", "merging starts at H − C"),
    ("interval", "I", "layers down after a merge"),
    ("threshold", "T", "similarity to keep a merge"),
    ("max_compression", "", "layers to lose at most"),
)
_VARIANTS = {
    "paper": "Eq. 1 of the paper: the differences of all merged layers are added to the first",
    "reference": "as LaCo's published code computes it: projections of the last merged layer, "
    "norms of the first",
    "damped": "Eq. 1 with the differences times {factor:g}",
}


def is_laco(document: Any) -> bool:
    """Whether a JSON document holds LaCo's settings and statistics."""
    return isinstance(document, dict) and document.get("ggsurgery") == FORMAT


def check_laco(document: Mapping[str, Any], header: Header) -> None:
    """Refuse statistics of another model: the merges must be those in the file's header.

    Raises:
        FormatError: they are not, or the document is damaged.
    """
    try:
        merges = Recipe.from_json(document["recipe"]).steps
        sections(document)
    except (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        GGSurgeryError,
    ) as error:
        raise FormatError(
            f"damaged statistics of LaCo: {type(error).__name__} at {error}",
            hint="Write them again with: ggsurgery laco … --out laco.json",
        ) from None
    steps = read_provenance(header).recipe.steps if f"{PREFIX}recipe" in header.metadata else ()
    found = tuple(s for s in steps if s.operation not in PLAIN_STEPS)
    if found != merges:
        raise FormatError(
            "the statistics of LaCo are of another model",
            file=header.path,
            expected="; ".join(s.describe() for s in merges) or "no merge",
            found="; ".join(s.describe() for s in found) or "no operation in the header",
        )


def sections(document: Mapping[str, Any] | None) -> list[str]:
    """The sections as Markdown lines, none without a document."""
    if not document:
        return []
    return [*_settings(document["settings"]), "", *_statistics(document), *_similarity(document)]


def _settings(settings: Mapping[str, Any]) -> list[str]:
    variant = str(settings["variant"])
    description = _VARIANTS[variant].format(factor=settings.get("factor", 0.5))
    rows = []
    for key, letter, meaning in _SETTINGS:
        value = settings[key]
        shown = f"{100 * value:g} %" if key == "max_compression" else f"{value:g}"
        rows.append((meaning, letter, shown))
    return [
        "## Pruning settings",
        "",
        "LaCo (layer collapse, Yang et al. 2024): layers are merged into an earlier one as "
        "long as the last hidden state stays similar to the original's.",
        "",
        Table(("setting", "", "value"), rows).markdown(),
        "",
        f"Variant {code(variant)}: {description}.",
    ]


def _statistics(document: Mapping[str, Any]) -> list[str]:
    before, after = document["layers"]
    removed = f"{document['removed']} ({100 * document['removed_share']:.1f} %)"
    rows = [
        ("Merges kept", document["merges"]),
        ("Merges rejected", document["rejected"]),
        ("Iterations", document["iterations"]),
        ("Layers", f"{before} → {after}"),
        ("Layers removed", removed),
    ]
    steps = [
        (
            a["iteration"],
            a["base"],
            ", ".join(map(str, a["merged"])),
            "–" if a["similarity"] is None else f"{a['similarity']:.4f}",
            a["note"] or ("kept" if a["accepted"] else "rejected"),
        )
        for a in document["attempts"]
    ]
    head = ("iteration", "base layer", "merged into it", "similarity", "")
    return [
        "## Pruning statistics",
        "",
        Table(("", ""), rows).markdown(),
        "",
        Table(head, steps).markdown(),
        "",
        "Layers are numbered as in the stack before the step.",
    ]


def _similarity(document: Mapping[str, Any]) -> list[str]:
    found = document.get("similarity")
    if not found:
        return []
    head = ("mean", "min", "max", "texts")
    table = Table(head, [(*(f"{found[name]:.4f}" for name in head[:3]), found["texts"])])
    return [
        "",
        "## Similarity",
        "",
        "Cosine of the last hidden state with the original's, after the last merge, over the "
        "calibration texts:",
        "",
        table.markdown(),
    ]
