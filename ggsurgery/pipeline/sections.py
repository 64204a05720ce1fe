"""The sections of a recipe, as types: a section is a request without its models and outputs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ..jobs.bench import BenchSettings
from ..jobs.choices import ChoicesSettings
from ..jobs.distil import DistilSettings
from ..jobs.evaluate import SuiteSettings
from ..jobs.fields import TextSettings
from ..jobs.heal import HealSettings
from ..jobs.imatrix import ImatrixSettings
from ..jobs.laco import LacoSettings
from ..jobs.perplexity import PerplexitySettings
from ..jobs.prune_width import PruneWidthSettings
from ..jobs.quantize import QuantizeSettings
from ..jobs.release import ReleaseSettings
from ..jobs.request import FilePath, Settings, option
from ..jobs.say import SaySettings
from ..jobs.surgery import RecipeOptions


class Source(Settings, frozen=True, kw_only=True):
    """The model to start from."""

    file: Annotated[str | None, option("A GGUF file, or one within the package.")] = None
    package: Annotated[str | None, option("An installed Python package, name==version.")] = None
    sha256: Annotated[str | None, option("The file's checksum, hex.")] = None
    note: Annotated[str | None, option("Where to get the file, for people.")] = None


class Template(Settings, frozen=True, kw_only=True):
    """The chat template to set: one of both."""

    family: Annotated[str | None, option("A chat family's template.")] = None
    file: Annotated[FilePath | None, option("A Jinja template.")] = None


class Evaluate(Settings, frozen=True, kw_only=True):
    """Measurements of the source, the cut and every quantized file."""

    perplexity: PerplexitySettings | None = None
    kl: Annotated[TextSettings | None, option("KL divergence from the source.")] = None
    choices: tuple[ChoicesSettings, ...] = ()
    bench: BenchSettings | None = None
    suite: Annotated[
        SuiteSettings | None, option("The surgery suite; controls of the recommended file.")
    ] = None
    say: Annotated[SaySettings | None, option("A question that the recommended file answers.")] = (
        None
    )


class PruneWidthSection(PruneWidthSettings, frozen=True, kw_only=True):
    """Which feed-forward channels leave, and how the rest is refitted, as `prune-width` does it."""

    sidecar: Annotated[bool, option("Keep the fitted arrays as NAME.cut.npz, for `replay`.")] = True


class HealSection(HealSettings, frozen=True, kw_only=True):
    """How the cut is healed, as `heal` does it."""

    sidecar: Annotated[bool, option("Keep the fitted arrays as NAME.heal.npz, for `replay`.")] = (
        True
    )


class DistilSection(DistilSettings, frozen=True, kw_only=True):
    """How the cut is trained, as `distil` does it."""

    sidecar: Annotated[
        bool,
        option(
            "Keep what training changed as NAME.distil.npz, for `replay`: 4 bytes for each "
            "trained number."
        ),
    ] = False


class RecipeFile(Settings, frozen=True, kw_only=True):
    """A recipe of `ggsurgery run`; paths count from its folder."""

    name: Annotated[str | None, option("The new model's name; default: the file's.")] = None
    description: Annotated[str | None, option("For people.")] = None
    source: Source | None = None
    operations: Annotated[Any, option("Steps, as `ggsurgery apply` reads them.")] = None
    options: Annotated[RecipeOptions | None, option("Options of all steps.")] = None
    laco: Annotated[LacoSettings | None, option("Let LaCo find the operations.")] = None
    prune_width: Annotated[
        PruneWidthSection | None, option("Remove feed-forward channels before the operations.")
    ] = msgspec.field(default=None, name="prune-width")
    heal: Annotated[HealSection | None, option("Refit the cut model by least squares.")] = None
    distil: Annotated[
        DistilSection | None, option("Train the cut (or healed) model towards the source.")
    ] = None
    header: Annotated[Any, option("Entries to set; null takes one away.")] = None
    template: Template | None = None
    imatrix: ImatrixSettings | None = None
    quantize: QuantizeSettings | None = None
    evaluate: Evaluate = Evaluate()
    release: ReleaseSettings | None = None
