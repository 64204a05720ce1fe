"""Scratch files of candidates: in memory where the system has a folder for that.

A candidate's file needs no vocabulary, since the text is already tokens: without it a load
takes milliseconds instead of the time to read and hash a hundred thousand strings.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...arch import ArchRules
from ...errors import GGSurgeryError
from ...files import temporary
from ...ggufio.constants import GGUFValueType
from ...ggufio.reader import Source
from ...ggufio.types import Header, Value
from ...plan.types import Plan
from ...surgery.layout import FileLayout, lay_out, pieces_of
from ...surgery.write import execute
from ...tensors.expr import Expr, Read, Slice

#: Rows of the embedding that a model without a head keeps.
HEADLESS = 32


class Scratch(ExitStack):
    """A folder for one candidate at a time; removed with everything in it on `close`."""

    def __init__(self, need: int) -> None:
        super().__init__()
        self.in_memory = _roomy(temporary.MEMORY, need)
        place = temporary.MEMORY if self.in_memory else None
        self.folder = self.enter_context(temporary.Folder("candidate", place=place))

    @property
    def file(self) -> Path:
        return self.folder / "candidate.gguf"

    def write(
        self, layout: FileLayout, sources: Sequence[Source], given: Mapping[str, Any] | None
    ) -> Path:
        """Write a candidate; the one before leaves first, so that memory holds only one."""
        self.file.unlink(missing_ok=True)
        execute(layout, sources, self.file, given=given)
        for source in sources:
            for tensor in source.header.tensors:
                source.forget(tensor)
        return self.file


def _roomy(folder: Path, need: int) -> bool:
    try:
        return folder.is_dir() and shutil.disk_usage(folder).free > need + (64 << 20)
    except OSError:
        return False


def candidate_layout(
    plan: Plan,
    sources: Sequence[Source],
    rules: ArchRules,
    *,
    vocabulary: bool,
    head: bool = True,
    out_type: int | None = None,
) -> FileLayout:
    """The file of a plan with the metadata that decoding needs, and no more.

    Args:
        vocabulary: with the texts of the tokens.
        head: False keeps HEADLESS rows of the embedding and the output: enough for a model that
            is fed hidden states and watched for them.
        out_type: ggml type of the tensors that the plan computes.

    Raises:
        ArchitectureError: layers would lose their meaning.
        GGSurgeryError: the plan cannot be carried out.
    """
    headers = [source.header for source in sources]
    change = rules.rewrite(headers, plan)
    metadata = headers[plan.shell].metadata | change.set
    if not vocabulary:
        metadata = without_vocabulary(headers[plan.shell], metadata)
    if not head:
        change = replace(
            change, tensors=change.tensors | _few_rows(headers[plan.shell], plan.shell)
        )
        size = Value.of(HEADLESS, GGUFValueType.UINT32, order=headers[plan.shell].order)
        metadata[f"{headers[plan.shell].architecture}.vocab_size"] = size
    pieces = pieces_of(plan, headers, change, out_type=out_type)
    return lay_out(pieces, metadata, headers, plan.shell)


def _few_rows(header: Header, source: int) -> dict[str, Expr]:
    """The tensors with one row a token, cut to HEADLESS rows."""
    found: dict[str, Expr] = {}
    for name in ("token_embd.weight", "output.weight", "output.bias"):
        if (tensor := header.by_name.get(name)) is not None:
            axis = len(tensor.shape) - 1
            found[name] = Slice(Read(source, tensor), axis, ((0, HEADLESS),))
    return found


def without_vocabulary(header: Header, metadata: Mapping[str, Value]) -> dict[str, Value]:
    """Metadata of a model that takes token ids and has no text vocabulary.

    Raises:
        GGSurgeryError: the number of tokens cannot be determined from the embedding's shape.
    """
    embedding = header.by_name.get("token_embd.weight")
    if embedding is None:
        raise GGSurgeryError(
            "no token embedding",
            file=header.path,
            tensor="token_embd.weight",
            hint="Candidates can be measured only of language models.",
        )
    kept = {k: v for k, v in metadata.items() if not k.startswith("tokenizer.")}
    size = Value.of(embedding.shape[1], GGUFValueType.UINT32, order=header.order)
    model = Value.of("no_vocab", GGUFValueType.STRING, order=header.order)
    return kept | {f"{header.architecture}.vocab_size": size, "tokenizer.ggml.model": model}
