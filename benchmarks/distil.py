"""What healing and distillation win back of a cut: perplexity on a text that neither has seen.

    python benchmarks/distil.py                      tiny-qwen3 without layers 7-9 (minutes)
    python benchmarks/distil.py --smollm2            SmolLM2 in F16 without 13-17 (an hour or more)
    python benchmarks/distil.py --smollm2 --parts all --tokens 128000 --threads 2

The cut is healed and trained on the calibration text, and the perplexities are of the other.
Every command is printed as it runs; the table has its minutes and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._inputs import data, smollm2_f16
from tests._tiny import MODEL, REPORT_TEXT, SEARCH_TEXT


def command(*arguments: object) -> tuple[str, float, float]:
    """Run `ggsurgery …`; what it prints, its minutes, and the peak memory of all so far in GiB."""
    words = [str(a) for a in arguments]
    print("$ ggsurgery", *words, flush=True, file=sys.stderr)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ggsurgery", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return done.stdout, (time.monotonic() - began) / 60, peak / (1 << 20)


def rows(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the table."""
    small = not options.smollm2
    model = MODEL if small else smollm2_f16()
    train = SEARCH_TEXT if small else data("wikitext2.valid.raw")
    report = REPORT_TEXT if small else data("wikitext2.test.raw")
    layers, ctx = ("7-9", 128) if small else ("13-17", 512)
    tokens = options.tokens or (12_288 if small else 128_000)
    threads = ("--threads", options.threads) if options.threads else ()
    windows = 24 if small else 16

    def row(name: str, path: Path, minutes: float = 0.0, peak: float = 0.0) -> str:
        text = command(
            "perplexity",
            path,
            "--text",
            report,
            "--ctx",
            ctx,
            "--chunks",
            windows,
            "--json",
            *threads,
        )[0]
        found = json.loads(text)
        value = f"{found['perplexity']:.3f} ± {found['stderr']:.3f}"
        return f"| {name} | {value} | {minutes:.1f} | {peak:.2f} |"

    yield "| | perplexity | minutes | peak GiB |\n|---|---|---|---|"
    yield row("uncut", model)
    bare, healed, kept = (folder / f"{name}.gguf" for name in ("bare", "healed", "distilled"))
    command("delete", "--layer", layers, model, bare)
    yield row(f"layers {layers} deleted", bare)
    fit = ("--text", train, "--tokens", tokens, "--ctx", ctx, *threads)
    _, *cost = command("heal", "--layer", layers, *fit, model, healed)
    yield row("healed", healed, *cost)
    for part in options.parts.split(","):
        _, *cost = command(
            "distil",
            "--trainable",
            part,
            *fit,
            "--epochs",
            options.epochs,
            "--force",
            model,
            healed,
            kept,
        )
        yield row(f"healed, then distilled ({part})", kept, *cost)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smollm2", action="store_true")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--parts", default="all,norms,down,lora:8")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in rows(options, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
