"""The model card (README.md): front matter by huggingface_hub, sections by computation."""

from __future__ import annotations

from typing import Any

from ..errors import MissingExtraError
from ..evaluate.results import Results
from ..ggufio.types import Header
from . import collapse, sections
from .licence import card_fields
from .modelfile import Chat
from .request import ReleaseFile, Request

#: What `model-index` lists; the rest is in the manifest.
HEADLINES = ("perplexity", "kl_mean", "top1_agreement", *sections.ACCURACIES)


def model_card(
    request: Request, files: list[ReleaseFile], best: ReleaseFile, why: str, chat: Chat, name: str
) -> str:
    """The card of a bundle, front matter and text.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import ModelCard
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", "a model card") from None
    header = best.header
    base = base_model(request, header)
    head = [f"# {name}", "", summary(request, files, name, base)]
    parts = [
        head,
        sections.files_table(files, best, why),
        sections.usage(best, chat, request),
        sections.made_by(header),
        sections.statistics(header, request.original),
        collapse.sections(request.laco),
        sections.perplexity(files, request.original),
        sections.divergence(files),
        sections.retention(files, request.original),
        sections.suite(files, request.original),
        sections.controls(files),
        _said(request),
        sections.limitations(request, files, chat),
        sections.recovery(header),
        _about(request, header),
    ]
    text = "\n\n".join("\n".join(part) for part in parts if part)
    data = front_matter(request, files, best, name, base)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=False)
    return str(card)


def summary(request: Request, files: list[ReleaseFile], name: str, base: str | None) -> str:
    """One sentence: what it is, of what, in which types."""
    header = files[0].header
    kinds = ", ".join(f.ftype for f in files)
    made_of = f", made from {base}" if base else ""
    if request.original is not None and request.original.model.layers:
        made_of += f" ({request.original.model.layers} → {header.n_layers} layers)"
    return (
        f"{name} has {header.n_layers} layers and {header.n_parameters:,} parameters{made_of}. "
        f"GGUF files: {kinds}."
    )


def base_model(request: Request, header: Header) -> str | None:
    """`org/name` of the original: as given, else what the header tells."""
    if request.base_model:
        return request.base_model
    url = header.get("general.base_model.0.repo_url")
    prefix = "https://huggingface.co/"
    return str(url).removeprefix(prefix) if str(url or "").startswith(prefix) else None


def licence_id(request: Request, header: Header) -> str | None:
    """The licence's identifier: as given, else as the header names it."""
    found = request.license_id or header.get("general.license")
    return str(found) if found else None


def front_matter(
    request: Request,
    files: list[ReleaseFile],
    best: ReleaseFile,
    name: str,
    base: str | None,
) -> Any:
    """A `huggingface_hub.ModelCardData`; what is not known is left out."""
    from huggingface_hub import ModelCardData

    header = best.header
    languages = request.languages or tuple(header.get("general.languages") or ())
    tags = ["gguf", *(request.tags or tuple(header.get("general.tags") or ()))]
    if "ggsurgery.recipe" in header.metadata:
        tags.append("ggsurgery")
    return ModelCardData(
        model_name=name,
        **card_fields(licence_id(request, header)),
        base_model=base,
        language=list(languages) or None,
        tags=list(dict.fromkeys(tags)),
        library_name="gguf",
        pipeline_tag="text-generation",
        eval_results=_eval_results(best.results) or None,
        ignore_metadata_errors=False,
    )


def _eval_results(results: Results | None) -> list[Any]:
    """What was measured of the recommended file, for `model-index`."""
    from huggingface_hub import EvalResult

    found = []
    for score in results.all_scores if results else ():
        dataset = score.task or score.provenance.get("text")
        if dataset is None or score.metric not in HEADLINES:
            continue
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=str(dataset),
                dataset_name=str(dataset),
                metric_type=score.metric,
                metric_name=score.label,
                metric_value=round(score.value, 6),
            )
        )
    return found


def _said(request: Request) -> list[str]:
    said = request.said
    if not said:
        return []
    answer = " ".join(str(said["text"]).split()) or "(nothing)"
    who = f"`{said['file']}` was asked" if "file" in said else "Asked"
    return ["## A sample", "", f"{who}: {said['question']}", "", f"> {answer}", "",
            "The likeliest token each time; one answer is no measurement."]  # fmt: skip


def _about(request: Request, header: Header) -> list[str]:
    licence = licence_id(request, header)
    lines = ["## Licence and origin", ""]
    if licence:
        where = "The header names the licence" if request.license_id is None else "Licence:"
        lines.append(f"{where} `{licence}`.")
    if request.license:
        lines.append("Its text is in `LICENSE`.")
    lines.append("`SHA256SUMS` and `manifest.json` say what the files are and how they were made; "
                 "`sha256sum -c SHA256SUMS` checks them. Ollama rewrites a file on import, so its "
                 "own digest differs.")  # fmt: skip
    return lines
