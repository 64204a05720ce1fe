"""Build the folder that people download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..runtime import worker
from ..runtime.memory import peak_memory
from .request import FilePaths, Settings, Texts, option

#: `release.origin.RELATIONS`.
Relation = Literal["quantized", "finetune", "merge", "adapter"]


class ReleaseSettings(Settings, frozen=True, kw_only=True):
    """A recipe's section `release`."""

    family: Annotated[str | None, option("Chat family; default: recognised.", metavar="NAME")] = (
        None
    )
    base_model: Annotated[
        str | None, option("What the model was made from.", metavar="ORG/NAME")
    ] = None
    license: Annotated[
        str | None,
        option(
            "A file with the licence's text, or its SPDX or hub identifier (apache-2.0, gemma).",
            metavar="FILE|ID",
        ),
    ] = None
    recommended: Annotated[
        str | None, option("The file to recommend; default: by results.", metavar="TYPE")
    ] = None
    system: Annotated[str | None, option("A system prompt for the Modelfile.", metavar="TEXT")] = (
        None
    )
    languages: Annotated[Texts, option("For the card.", metavar="CODE", flag="language")] = ()
    tags: Annotated[Texts, option("For the card.", flag="tag")] = ()
    results: Annotated[FilePaths, option("Result files (ggsurgery's or lm-eval's).")] = ()
    parameters: Annotated[
        dict[str, Any],
        option("Ollama PARAMETERs, instead of the header's or the family's.", flag="parameter"),
    ] = msgspec.field(default_factory=dict)
    memory: Annotated[bool, option("Measure the RAM of each file by loading it.")] = True
    repo: Annotated[
        str | None, option("Where it will be, for commands on the card.", metavar="ORG/NAME")
    ] = None
    relation: Annotated[
        Relation | None, option("To the base model; default: by the operations in the header.")
    ] = None
    quantized_by: Annotated[
        str | None, option("For the card; default: the header's.", metavar="NAME")
    ] = None
    check_tokenizer: Annotated[
        bool, option("Run `tokenizer check` on the recommended file; an error gives exit code 1.")
    ] = True


def memory_of(files: Iterable[Path]) -> dict[str, dict[str, int]]:
    """The peak memory of loading each file, in a child process each."""
    return {file.name: worker.run(peak_memory, file) for file in files}
