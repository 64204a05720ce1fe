"""Trim a vocabulary: megabytes, bits per byte and tokens a second, before and after.

    .venv/bin/python benchmarks/trim_vocab.py [--model F] [--text F] [--scored F] [--keep N …]
                                         [--coverage C …] [--coverage-of-both]

Tokens are counted on one text and bits per byte measured on another one of the same kind. Each
part of it is scored from the same first byte, so models with unlike tokens compare. The files
take turns in the measurement of speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks._inputs import data, smollm2
from ggsurgery.jobs.speed import SpeedRequest
from ggsurgery.jobs.vocab import TrimVocabRequest
from ggsurgery.plan.recipe import Recipe
from ggsurgery.runtime import machine
from ggsurgery.runtime.engine import Engine
from ggsurgery.surgery.prepare import prepare

#: Characters of a part of the scored text.
PART = 1500


def bits_per_byte(path: Path, text: str, parts: int) -> float:
    """Bits that the model needs for a byte of the text, behind a space that is not scored."""
    bits, n_bytes = 0.0, 0
    with Engine.open(path, n_ctx=1024) as engine:
        start = engine.tokenize(" ", add_special=False)
        for n in range(parts):
            part = text[n * PART : (n + 1) * PART].strip()
            if not part:
                break
            ids = [*start, *engine.tokenize(part, add_special=False)][:1024]
            engine.reset()
            logits = engine.decode(ids, logits="all").astype(np.float64)[len(start) - 1 : -1]
            targets = np.array(ids[len(start) :])
            top = logits.max(axis=1)
            total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            bits += float((total - logits[np.arange(len(targets)), targets]).sum() / np.log(2))
            n_bytes += len(part.encode())
    return bits / n_bytes


def trimmed(source: Path, texts: list[Path], out: Path, **size: float) -> dict[str, Any]:
    found = TrimVocabRequest(file=source, text=texts, **size).run()
    name = str(out.with_suffix(".json"))
    recipe = Recipe((found.kept.step(name),))
    with prepare(recipe, [source], given={name: found.kept}) as prepared:
        prepared.write(out)
    return {"vocabulary": found.kept.after, "whole": found.whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M")
    parser.add_argument("--text", type=Path, help="counted; default: wikitext-2's validation part")
    parser.add_argument("--scored", type=Path, help="default: wikitext-2's test part")
    parser.add_argument("--keep", type=int, nargs="+", default=[32000, 16000, 8000])
    parser.add_argument("--coverage", type=float, nargs="+", default=[])
    parser.add_argument(
        "--coverage-of-both",
        action="store_true",
        help="a row with coverage 1 where the scored text is counted too: all of its tokens stay",
    )
    parser.add_argument("--parts", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=5, help="0 measures no speed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = args.model or smollm2()
    text = args.text or data("wikitext2.valid.raw")
    other = args.scored or data("wikitext2.test.raw")
    scored = other.read_text("utf-8")
    sizes: list[tuple[list[Path], dict[str, float]]] = [([text], {"keep": n}) for n in args.keep]
    sizes += [([text], {"coverage": c}) for c in args.coverage]
    if args.coverage_of_both:
        sizes.append(([text, other], {"coverage": 1.0}))
    rows: list[dict[str, Any]] = [{"file": model, "vocabulary": "as it is", "whole": 1.0}]
    with tempfile.TemporaryDirectory(prefix="ggsurgery-bench-") as folder:
        for texts, size in sizes:
            ((name, value),) = size.items()
            out = Path(folder) / f"{name}-{value}-of-{len(texts)}.gguf"
            rows.append({"file": out} | trimmed(model, texts, out, **size))
        for row in rows:
            row["megabytes"] = row["file"].stat().st_size / 1e6
            row["bits_per_byte"] = bits_per_byte(row["file"], scored, args.parts)
        if args.repetitions:
            files = [row["file"] for row in rows]
            speeds = SpeedRequest(files=files, repetitions=args.repetitions).run().speeds
            for row, speed in zip(rows, speeds, strict=True):
                row |= {score.metric: score.value for score in speed.scores}
    for row in rows:
        row["file"] = row["file"].name
    result = {"machine": f"{machine.cpu()[0]}, {platform.platform()}", "rows": rows}
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(result["machine"])
    for row in rows:
        print(
            "  ".join(
                f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            )
        )


if __name__ == "__main__":
    main()
