"""Surgery, quantization and evaluation of GGUF language models on a CPU.

    from ggsurgery import PerplexityRequest, SurgeryRequest

    cut = [{"delete": {"layer": "10"}}]
    SurgeryRequest(files=["in.gguf"], out="out.gguf", operations=cut).run()
    for model in ("in.gguf", "out.gguf"):
        print(PerplexityRequest(file=model, text="test.txt", windows=20).run().value)

A request holds the options of a long task and checks them on construction: a path may be a string,
but a string in place of a list is refused. `check()` returns warnings, `run(progress)` does the
work in a child process and calls `progress(done, total)`; both raise a `GGSurgeryError`.

Each name below is imported when it is first used, so that `import ggsurgery` is fast and llama.cpp
is loaded only when a model runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a type checker sees; `_HOMES` is what Python imports
    from .compensate.distil.run import Distilled as Distilled
    from .errors import GGSurgeryError as GGSurgeryError
    from .errors import RequestError as RequestError
    from .find.influence import influence as influence
    from .ggufio.header import read_header as read_header
    from .ggufio.reader import Source as Source
    from .ggufio.types import Header as Header
    from .inspect.summary import summarize as summarize
    from .jobs.bench import BenchRequest as BenchRequest
    from .jobs.bench import BenchResult as BenchResult
    from .jobs.choices import ChoicesRequest as ChoicesRequest
    from .jobs.choices import ChoicesResult as ChoicesResult
    from .jobs.distil import DistilRequest as DistilRequest
    from .jobs.evaluate import EvaluateRequest as EvaluateRequest
    from .jobs.evaluate import EvaluateResult as EvaluateResult
    from .jobs.heal import HealRequest as HealRequest
    from .jobs.heal import HealResult as HealResult
    from .jobs.imatrix import ImatrixRequest as ImatrixRequest
    from .jobs.imatrix import ImatrixResult as ImatrixResult
    from .jobs.influence import InfluenceRequest as InfluenceRequest
    from .jobs.influence import InfluenceResult as InfluenceResult
    from .jobs.kl import KlBaseRequest as KlBaseRequest
    from .jobs.kl import KlOfBaseRequest as KlOfBaseRequest
    from .jobs.kl import KlRequest as KlRequest
    from .jobs.laco import LacoRequest as LacoRequest
    from .jobs.laco import LacoResult as LacoResult
    from .jobs.measured import Measured as Measured
    from .jobs.perplexity import PerplexityRequest as PerplexityRequest
    from .jobs.perplexity import PerplexityResult as PerplexityResult
    from .jobs.prune_depth import PruneDepthRequest as PruneDepthRequest
    from .jobs.prune_depth import PruneDepthResult as PruneDepthResult
    from .jobs.quantize import Quantized as Quantized
    from .jobs.quantize import QuantizeRequest as QuantizeRequest
    from .jobs.release import ReleaseRequest as ReleaseRequest
    from .jobs.release import ReleaseResult as ReleaseResult
    from .jobs.repair import RepairRequest as RepairRequest
    from .jobs.replay import ReplayRequest as ReplayRequest
    from .jobs.replay import ReplayResult as ReplayResult
    from .jobs.scan import ScanRequest as ScanRequest
    from .jobs.scan import ScanResult as ScanResult
    from .jobs.search import SearchRequest as SearchRequest
    from .jobs.search import SearchResult as SearchResult
    from .jobs.surgery import SurgeryRequest as SurgeryRequest
    from .jobs.surgery import SurgeryResult as SurgeryResult
    from .measure.metrics.kl import kl_divergence as kl_divergence
    from .measure.metrics.perplexity import perplexity as perplexity
    from .measure.results.comparison import compare as compare
    from .measure.results.score import Score as Score
    from .pipeline.run import Pipeline as Pipeline
    from .plan.recipe import Recipe as Recipe
    from .plan.recipe import load_recipe as load_recipe
    from .plan.recipe import step as step
    from .plan.text import parse_layers as parse_layers
    from .plan.types import Plan as Plan
    from .release.bundle import build_bundle as build_bundle
    from .runtime.engine import Engine as Engine
    from .surgery.prepare import prepare as prepare
    from .surgery.prepare import prepare_replay as prepare_replay

__version__ = "0.1.0"

#: Public name → the module below ggsurgery that defines it.
_HOMES: dict[str, str] = {
    "BenchRequest": "jobs.bench",
    "BenchResult": "jobs.bench",
    "ChoicesRequest": "jobs.choices",
    "ChoicesResult": "jobs.choices",
    "DistilRequest": "jobs.distil",
    "Distilled": "compensate.distil.run",
    "Engine": "runtime.engine",
    "EvaluateRequest": "jobs.evaluate",
    "EvaluateResult": "jobs.evaluate",
    "GGSurgeryError": "errors",
    "Header": "ggufio.types",
    "HealRequest": "jobs.heal",
    "HealResult": "jobs.heal",
    "ImatrixRequest": "jobs.imatrix",
    "ImatrixResult": "jobs.imatrix",
    "InfluenceRequest": "jobs.influence",
    "InfluenceResult": "jobs.influence",
    "KlBaseRequest": "jobs.kl",
    "KlOfBaseRequest": "jobs.kl",
    "KlRequest": "jobs.kl",
    "LacoRequest": "jobs.laco",
    "LacoResult": "jobs.laco",
    "Measured": "jobs.measured",
    "PerplexityRequest": "jobs.perplexity",
    "PerplexityResult": "jobs.perplexity",
    "Pipeline": "pipeline.run",
    "Plan": "plan.types",
    "PruneDepthRequest": "jobs.prune_depth",
    "PruneDepthResult": "jobs.prune_depth",
    "QuantizeRequest": "jobs.quantize",
    "Quantized": "jobs.quantize",
    "Recipe": "plan.recipe",
    "ReleaseRequest": "jobs.release",
    "ReleaseResult": "jobs.release",
    "RepairRequest": "jobs.repair",
    "ReplayRequest": "jobs.replay",
    "ReplayResult": "jobs.replay",
    "RequestError": "errors",
    "ScanRequest": "jobs.scan",
    "ScanResult": "jobs.scan",
    "Score": "measure.results.score",
    "SearchRequest": "jobs.search",
    "SearchResult": "jobs.search",
    "Source": "ggufio.reader",
    "SurgeryRequest": "jobs.surgery",
    "SurgeryResult": "jobs.surgery",
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

if not TYPE_CHECKING:  # type checkers see only the names above

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'ggsurgery' has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
