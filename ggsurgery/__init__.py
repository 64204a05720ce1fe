"""Surgery, quantization and evaluation of GGUF language models on a CPU.

    from ggsurgery import Recipe, prepare, step

    with prepare(Recipe((step("delete", layer="10"),)), ["in.gguf"]) as operation:
        operation.write("out.gguf")

The names below are the library; each is imported when it is first used, so that
`import ggsurgery` costs next to nothing and llama.cpp is loaded only by what runs a model.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name → the module below ggsurgery that defines it.
_HOMES: dict[str, str] = {
    "Engine": "runtime.engine",
    "GGSurgeryError": "errors",
    "Header": "ggufio.types",
    "Pipeline": "pipeline.run",
    "Plan": "plan.types",
    "Recipe": "plan.recipe",
    "Score": "measure.results.score",
    "Source": "ggufio.reader",
    "build_bundle": "release.bundle",
    "compare": "measure.results.comparison",
    "influence": "find.influence",
    "kl_divergence": "measure.metrics.kl",
    "load_recipe": "plan.recipe",
    "parse_layers": "plan.text",
    "perplexity": "measure.metrics.perplexity",
    "prepare": "surgery.prepare",
    "prepare_replay": "surgery.prepare",
    "read_header": "ggufio.header",
    "step": "plan.recipe",
    "summarize": "inspect.summary",
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604 – the keys are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ggsurgery' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
