"""The steps `heal` and `distil` of a recipe: what a cut lost is won back, from the source.

NAME-bare.gguf ─ heal ─▶ NAME-healed.gguf ─ distil ─▶ NAME.gguf        (the last is always NAME)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from ..arch import rules_for
from ..compensate.checks import check_uncut
from ..compensate.distil.checkpoint import checkpoint_path
from ..compensate.distil.settings import is_trained
from ..compensate.fit import check_wins, plan_to_heal
from ..compensate.settings import LONGEST_SWEEP
from ..compensate.sidecar import Sidecar
from ..files.digest import sha256_of_file
from ..files.progress import Progress
from ..ggufio.header import read_header
from ..ggufio.types import Header, TensorInfo, tensor_nbytes
from ..jobs.distil import DistilRequest
from ..jobs.heal import HealRequest
from ..jobs.request import Settings
from ..plan.distil import key_of as array_key
from ..plan.heal import ATTENTION, PROJECTION
from ..plan.recipe import Recipe
from ..plan.types import Plan
from ..runtime.binding import installed_version
from ..surgery.layout import FileLayout
from ..surgery.prepare import prepare
from .document import Document
from .paths import Places, Stage, stages_of_file
from .state import key_of
from .width import request_of

R = TypeVar("R", bound=Settings)
#: Bytes of a header that hold how a stage was done, besides the checksums of its arrays.
FACTS = 4096
#: Bytes of an array's name and checksum in a header.
SUM = 160


@dataclass(frozen=True, slots=True)
class Step:
    """A stage's name, its key, its files (the model first), and the work."""

    what: str
    key: str
    files: tuple[Path, ...]
    make: Callable[[Progress], Any]


def check_stages(document: Document, source: Path) -> None:
    """Refuse what cannot be healed or trained, as far as it is known before the cut.

    Raises:
        FormatError: a text is missing.
        PlanError: the plan cannot be healed, or has no seam.
    """
    heal, distil = document.file.heal, document.file.distil
    if document.file.prune_width is not None:
        request_of(document, source).check()
    for section in (heal, distil):
        if section is not None:
            document.check_files(section)
    if heal is None:
        return
    header = read_header(source)
    if not heal.cut_again:
        check_uncut(header)
    if document.file.laco is None and document.file.prune_width is None:
        plan_to_heal(_identity(header), (), document.recipe, document.path)


def _identity(header: Header) -> Plan:
    return Plan.identity(header.n_layers, rules_for(header, allow_unknown=True).n_tail(header))


def heal_step(document: Document, source: Path, places: Places, on: Sequence[str]) -> Step:
    """Refit the cut model."""
    section = document.file.heal
    assert section is not None
    options = dict(document.recipe.options)
    known = bool(options.get("allow_unknown_arch"))
    request = _request(
        section, HealRequest, file=source, cut=places.before("heal"), allow_unknown_arch=known
    )
    if section.out_type is not None:
        options["out_type"] = section.out_type
    arrays = places.sidecar("heal") if section.sidecar and section.method != "scale" else None

    def make(progress: Progress) -> Any:
        found = request.run(progress)
        healed = found.healed
        if not section.any_cut:
            check_wins(healed.losses)
        recipe = Recipe(healed.recipe.steps, document.recipe.name, tuple(options.items()))
        out = places.made("heal")
        warnings = _write(recipe, source, out, healed.sidecar, arrays)
        facts = healed.to_json()
        kept = {k: facts[k] for k in ("method", "windows", "held_out_nll", "cuts", "scales")}
        return kept | {"warnings": [*found.warnings, *warnings]}

    text = Path(section.text)
    settings = {**document.section("heal"), "text": sha256_of_file(text)}
    key = key_of("heal", settings, on, llama_cpp=installed_version())
    return Step(f"on {text.name}", key, _files(places, "heal", arrays), make)


def distil_step(document: Document, source: Path, places: Places, on: Sequence[str]) -> Step:
    """Train the cut or healed model."""
    section = document.file.distil
    assert section is not None
    cut, out = places.before("distil"), places.made("distil")
    state = checkpoint_path(out)
    request = _request(section, DistilRequest, base=source, cut=cut, checkpoint=state)
    arrays = places.sidecar("distil") if section.sidecar else None

    def make(progress: Progress) -> Any:
        warnings = request.check()
        found = request.run(progress)
        recipe = replace(found.recipe, name=document.recipe.name)
        warnings += _write(recipe, cut, out, found.sidecar, arrays)
        state.unlink(missing_ok=True)
        trained = found.trained
        return {
            "held_out": [trained.before, trained.after],
            "best_step": trained.best,
            "steps": list(trained.steps),
            "warnings": warnings,
        }

    text = Path(request.text)
    settings = {**document.section("distil"), "text": sha256_of_file(text)}
    key = key_of("distil", settings, on)
    return Step(f"on {text.name}", key, _files(places, "distil", arrays), make)


def _request(section: Settings, kind: Callable[..., R], **more: Any) -> R:
    """A section as the request of its command; the sidecar is the run's own affair."""
    values = section.values() | more
    values.pop("sidecar")
    return kind(**values)


def _write(
    recipe: Recipe, source: Path, out: Path, sidecar: Sidecar, arrays: Path | None
) -> list[str]:
    if arrays is not None:
        sidecar.save(arrays, force=True)
    with prepare(recipe, [source], given=sidecar) as prepared:
        return list(prepared.write(out, force=True).warnings)


def _files(places: Places, stage: Stage, arrays: Path | None) -> tuple[Path, ...]:
    return (places.made(stage), *([] if arrays is None else [arrays]))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that the stages write at most, sidecars included, and by which a header grows."""

    steps: dict[str, int]
    header: int


def most_bytes(document: Document, layout: FileLayout, uncut: Header) -> Sizes:
    """The sizes of healed and trained models.

    Args:
        layout: of the cut.
    """
    found: dict[str, int] = {}
    infos = {info.name: info for info in layout.tensor_infos()}
    size, header = layout.n_bytes, 0
    for stage in stages_of_file(document.file)[1:]:
        section = document.file.heal if stage == "heal" else document.file.distil
        assert section is not None
        if stage == "heal":
            changed = [infos[n] for n in _refitted(document, uncut) if n in infos]
            size += _growth(changed, document)
        else:
            kind = document.file.distil.numbers.kind if document.file.distil else ""
            changed = [t for n, t in infos.items() if is_trained(n, len(t.shape), kind)]
        sums = sum(len(array_key(t.name)) + SUM for t in changed)
        header += FACTS + sums + 2 * len(document.recipe.dumps())
        arrays = sum(4 * prod(t.shape) + 2 * len(t.name) + SUM for t in changed)
        found[stage] = size + header + (arrays if section.sidecar else 0)
    return Sizes(found, header)


def _refitted(document: Document, uncut: Header) -> Iterable[str]:
    """The names of all tensors that healing may change."""
    section = document.file.heal
    assert section is not None
    positions = list(range(uncut.n_layers))
    if document.file.laco is None and document.file.prune_width is None:
        _, _, runs = plan_to_heal(_identity(uncut), (), document.recipe, document.path)
        sweep = section.numbers.sweep
        longest = 1 + (LONGEST_SWEEP if sweep is None else sweep)
        positions = [place.position for run in runs for place in run[:longest]]
    tensors = (PROJECTION, ATTENTION) if section.also == "attention" else (PROJECTION,)
    return [f"blk.{position}.{tensor}" for position in positions for tensor in tensors]


def _growth(changed: Iterable[TensorInfo], document: Document) -> int:
    """The number of bytes by which tensors of another type are larger."""
    section = document.file.heal
    kind = None if section is None else section.type_of_refitted
    if kind is None:
        return 0
    sizes = ((tensor_nbytes(t.shape, kind) or 0) - t.nbytes for t in changed)
    return sum(max(0, size) for size in sizes)
