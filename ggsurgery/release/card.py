"""The model card (README.md): front matter by huggingface_hub, sections by computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import one_line
from ..files.installation import require
from ..ggufio.types import Header
from ..measure.registry import headlines
from ..measure.results.result_files import Results
from ..present.markdown import code, plain
from . import laco_section, sections
from .licence import card_fields
from .modelfile import Chat
from .origin import base_entry, base_models, quantized_by, relation
from .request import ReleaseFile, Request
from .usage import usage


def model_card(
    request: Request,
    files: list[ReleaseFile],
    best: ReleaseFile,
    why: str,
    chat: Chat,
    name: str,
    errors: Sequence[str] = (),
) -> str:
    """The card of a bundle, front matter and text.

    Args:
        errors: what checks of the files found wrong.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "hub", "a model card")
    header = best.header
    bases = base_models(request, header)
    head = [f"# {plain(name)}", "", summary(request, files, name, bases)]
    parts = [
        head,
        sections.files_table(files, best, why),
        usage(best, chat, request),
        sections.made_by(header),
        sections.statistics(header, request.original),
        laco_section.sections(request.laco),
        sections.won_back(request.recovery),
        sections.perplexity(files, request.original),
        sections.divergence(files),
        sections.retention(files, request.original),
        sections.suite(files, request.original),
        sections.controls(files),
        _said(request),
        sections.limitations(request, files, chat, errors),
        sections.recovery(header),
        _about(request, header),
    ]
    text = "\n\n".join("\n".join(part) for part in parts if part)
    data = front_matter(request, best, name)
    card = hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=False)
    return str(card)


def summary(request: Request, files: list[ReleaseFile], name: str, bases: Sequence[str]) -> str:
    """One sentence: what it is, of what, in which types."""
    header = files[0].header
    kinds = ", ".join(f.ftype for f in files)
    made_of = f", made from {plain(' and '.join(bases))}" if bases else ""
    if request.original is not None and request.original.model.layers:
        made_of += f" ({request.original.model.layers} → {header.n_layers} layers)"
    return (
        f"{plain(name)} has {header.n_layers} layers and {header.n_parameters:,} "
        f"parameters{made_of}. GGUF files: {kinds}."
    )


def licence_id(request: Request, header: Header) -> str | None:
    """The licence's identifier: as given, else as the header names it."""
    found = request.license_id or header.get("general.license")
    return one_line(found) or None if isinstance(found, str) else None


def front_matter(request: Request, best: ReleaseFile, name: str) -> Any:
    """A `huggingface_hub.ModelCardData`; what is not known is left out."""
    from huggingface_hub import ModelCardData

    header = best.header
    languages = request.languages or _texts(header.get("general.languages"))
    tags = ["gguf", *(request.tags or _texts(header.get("general.tags")))]
    if "ggsurgery.recipe" in header.metadata:
        tags.append("ggsurgery")
    more = {
        "base_model_relation": relation(request, header),
        "quantized_by": quantized_by(request, header),
    }
    return ModelCardData(
        model_name=one_line(name),
        **card_fields(licence_id(request, header)),
        base_model=base_entry(request, header),
        language=list(languages) or None,
        tags=list(dict.fromkeys(tags)),
        library_name="gguf",
        pipeline_tag="text-generation",
        eval_results=_eval_results(best.results) or None,
        ignore_metadata_errors=False,
        **{key: value for key, value in more.items() if value is not None},
    )


def _texts(value: Any) -> tuple[str, ...]:
    """The texts in a header's list of texts; anything else is nothing."""
    found = value if isinstance(value, list) else []
    return tuple(one_line(t) for t in found if isinstance(t, str) and t.strip())


def _eval_results(results: Results | None) -> list[Any]:
    """The headline figures of the recommended file, for `model-index`."""
    from huggingface_hub import EvalResult

    found = []
    for score in results.all_scores if results else ():
        dataset = score.task or score.provenance.get("text")
        if dataset is None or score.metric not in headlines():
            continue
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=one_line(dataset),
                dataset_name=one_line(dataset),
                metric_type=score.metric,
                metric_name=one_line(score.label),
                metric_value=round(score.value, 6),
            )
        )
    return found


def _said(request: Request) -> list[str]:
    said = request.said
    if not said:
        return []
    answer = plain(said["text"]) or "(nothing)"
    who = f"{code(said['file'])} was asked" if "file" in said else "Asked"
    return [
        "## A sample",
        "",
        f"{who}: {plain(said['question'])}",
        "",
        f"> {answer}",
        "",
        "The likeliest token each time; a single answer is not a measurement.",
    ]


def _about(request: Request, header: Header) -> list[str]:
    licence = licence_id(request, header)
    lines = ["## Licence and origin", ""]
    if licence:
        where = "The header names the licence" if request.license_id is None else "Licence:"
        lines.append(f"{where} {code(licence)}.")
    if request.license:
        lines.append("Its text is in `LICENSE`.")
    lines.append(
        "`SHA256SUMS` and `manifest.json` describe the files and how they were made; "
        "`sha256sum -c SHA256SUMS` checks them. Ollama rewrites a file on import, so its "
        "own digest differs."
    )
    return lines
