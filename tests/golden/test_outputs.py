"""What every writing command writes is, byte for byte, what it wrote before.

A change of structure must not change a byte. A change that is meant to is recorded with

    GGSURGERY_UPDATE_GOLDEN=1 pytest tests/golden

and named in the CHANGELOG. Results that depend on the processor's own instructions (fits,
llama.cpp's quantizer) are compared elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests._command import call
from tests._needs import needs_smollm2
from tests._small_models import write_small_model
from tests._tiny import MODEL as TINY
from tests.fixtures import base, make

pytestmark = pytest.mark.slow

RECORDED = Path(__file__).with_name("outputs.json")
UPDATE = "GGSURGERY_UPDATE_GOLDEN"

RECIPE = """\
name: golden
operations:
  - delete: {layer: 3}
  - swap: {layers: "1,2"}
  - interpolate: {layers: "0,1", weight: 0.25}
  - duplicate: {layer: "2", scale: 0.5}
"""

#: Name → arguments; IN, B and OUT stand for the model, a second one of its shape, the output.
COMMANDS: dict[str, str] = {
    "delete": "delete --layer 2 IN OUT",
    "delete several": "delete --layer 1,3-4 --name cut IN OUT",
    "swap": "swap --layers 1,2 IN OUT",
    "move": "move --layer 1-2 --to 4 IN OUT",
    "duplicate": "duplicate --layer 2-3 IN OUT",
    "duplicate damped": "duplicate --layer 2 --scale 0.5 IN OUT",
    "keep": "keep --layers 0-3,2-5 IN OUT",
    "merge rdsc": "merge --layers 1-3 IN OUT",
    "merge damped": "merge --layers 1-3 --method damped --factor 0.5 IN OUT",
    "merge mean": "merge --layers 1-3 --method mean IN OUT",
    "merge reference": "merge --layers 1-3 --method reference IN OUT",
    "interpolate": "interpolate --layers 2,3 IN OUT",
    "interpolate slerp": "interpolate --layers 1,2 --weight 0.25 --method slerp --at 2 IN OUT",
    "bridge": "bridge --layer 1 --at 4 --scale 0.5 IN OUT",
    "blend linear": "blend --weights 0.7,0.3 IN B OUT",
    "blend slerp": "blend --method slerp --weights 0.4 IN B OUT",
    "prune": "prune --sparsity 0.3 IN OUT",
    "prune rows": "prune --sparsity 0.5 --scope row IN OUT",
    "prune pattern": "prune --pattern 2:4 IN OUT",
    "apply": "apply recipe.yaml IN OUT",
    "out type": "merge --layers 1-2 --out-type F32 IN OUT",
    "meta set": "meta set general.license mit IN OUT",
    "meta unset": "meta unset general.name IN OUT",
}


def _gemma3(path: Path) -> Path:
    """Layers 0 to 4 have windows, so that they may be blended."""
    keys = base.base("gemma3", 8) | {"attention.sliding_window_pattern": 6}
    outline = make.outline("gemma3", keys)
    bare = make.write(path.with_name("bare.gguf"), "gemma3", outline.keys, make.weights(outline))
    call("meta", "set", "general.name", "gemma3", bare, path)
    return path


MODELS: dict[str, Callable[[Path], Path]] = {
    "smollm2": lambda path: Path(shutil.copy(needs_smollm2(), path)),
    "tiny-qwen3": lambda path: Path(shutil.copy(TINY, path)),
    "moe": lambda path: write_small_model(path, n_experts=4),
    "gemma3": _gemma3,
}


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("golden") / request.param
    place.mkdir()
    MODELS[request.param](place / "in.gguf")
    (place / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    call("swap", "--layers", "1,2", place / "in.gguf", place / "b.gguf")
    return place


def _outcome(folder: Path, command: str) -> str:
    """The checksum of the output."""
    out = folder / "out.gguf"
    out.unlink(missing_ok=True)
    places = {"IN": folder / "in.gguf", "B": folder / "b.gguf", "OUT": out}
    words = [str(places.get(w, folder / w if w.endswith(".yaml") else w)) for w in command.split()]
    call(*words)
    with out.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_command_writes_what_it_wrote_before(folder: Path, name: str) -> None:
    key = f"{folder.name}: {name}"
    outcome = _outcome(folder, COMMANDS[name])
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    if os.environ.get(UPDATE) == "1":
        recorded[key] = outcome
        text = json.dumps(dict(sorted(recorded.items())), indent=1)
        RECORDED.write_text(text + "\n", encoding="utf-8")
    assert recorded.get(key) == outcome, f"see {UPDATE} above if the change is meant"
