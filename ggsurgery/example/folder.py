"""Write the example folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import GGSurgeryError, OutputError
from ..files.atomic import atomic_path, check_output
from ..files.resources import shipped
from ..ggufio.header import read_header
from ..measure.suite.data import DATA
from ..pipeline.document import load_document
from ..pipeline.source import find_source
from ..runtime.quantize import quantize

#: The small trained model, which a checkout has and a wheel has not.
SMALL = Path("tiny-qwen3") / "tiny-qwen3.gguf"
QUESTIONS = Path(__file__).parent / "questions"


@dataclass(frozen=True, slots=True)
class Example:
    """The result: the files, the model's origin, and warnings."""

    folder: Path
    files: tuple[Path, ...]
    model: Path
    warnings: tuple[str, ...] = ()


def find_model(given: Path | None = None) -> tuple[Path, tuple[str, ...]]:
    """The file that becomes `in.gguf`, and warnings.

    The given file, else the demo's model from its package, else the small model.

    Raises:
        GGSurgeryError: none of them is there; the message names the package to install.
    """
    if given is not None:
        return read_header(given).path, ()
    models = shipped("models")
    try:
        return find_source(load_document(models / "demo.yaml")), ()
    except GGSurgeryError as error:
        small = models / SMALL
        if not small.is_file():
            raise
        n_layers = read_header(small).n_layers
        return small, (
            f"the small model of {n_layers} layers replaces the demo's: commands that name "
            f"higher layers will refuse it. {error.hint or error}",
        )


def make_example(
    folder: Path, model: Path | None = None, *, progress: Callable[[str], object] | None = None
) -> Example:
    """Write every file that is missing; nothing is replaced.

    Args:
        folder: created if missing; existing files are kept.
        model: becomes `in.gguf` instead of the demo's model.
        progress: called with the name of each file before it is written.

    Raises:
        GGSurgeryError: no model, or a split one.
        OutputError: the folder is a file, or the disk is full.
    """
    source, warnings = find_model(model)
    if len(read_header(source).paths) > 1:
        raise GGSurgeryError("the example's model must be one file", file=source)
    if folder.exists() and not folder.is_dir():
        raise OutputError("the output is a file", file=folder, expected="a folder")
    models = shipped("models")
    texts = {
        "test.txt": _prose(models),
        "sentences.txt": "\n".join(re.split(r"(?<=[.!?])\s+", _prose(models))) + "\n",
        "mine.yaml": 'operations:\n  - swap: {layers: "3,4"}\n  - delete: {layer: "8"}\n',
        "README.txt": (Path(__file__).parent / "README.txt").read_text(encoding="utf-8"),
    }
    copies = {
        "in.gguf": source,
        "calibration.txt": models / SMALL.parent / "heldout_search.txt",
        "report.txt": models / SMALL.parent / "heldout_report.txt",
    }
    for path in sorted(QUESTIONS.glob("*.jsonl")):
        copies[f"questions/{path.name}"] = path
    for path in sorted(p for p in models.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        copies[f"models/{path.relative_to(models)}"] = path
    made = []
    for name in ("in.gguf", "in-F16.gguf", *texts, *sorted(copies.keys() - {"in.gguf"})):
        out = folder / name
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            continue
        if progress is not None:
            progress(name)
        if name == "in-F16.gguf":
            quantize(folder / "in.gguf", out, "F16", allow_requantize=True)
        elif name in texts:
            with atomic_path(out) as temporary:
                temporary.write_text(texts[name], encoding="utf-8")
        else:
            check_output(out, nbytes=copies[name].stat().st_size)
            with atomic_path(out) as temporary:
                shutil.copyfile(copies[name], temporary)
        made.append(out)
    return Example(folder, tuple(made), source, warnings)


def _prose(models: Path) -> str:
    """Original texts of the package, one behind the other."""
    paths = (models / "demo.txt", DATA / "prose.txt")
    return "\n\n".join(p.read_text(encoding="utf-8").strip() for p in paths) + "\n"
