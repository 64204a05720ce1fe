"""What healing leaves of cuts of several depths, beside the whole model in fewer bits.

    python benchmarks/healing.py --folder build/healing [--layers 3,5,8,10] [--distil 32768]

Layers are chosen by `prune-depth --by healed` and healed on the calibration text; the control is
the uncut model, quantized to the bytes of the cut one in Q8_0. Perplexity and accuracies are of the
reporting text and of the questions. Every command is printed as it runs, and what is in the
folder already is not made again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._bench import Bench
from benchmarks._inputs import data, smollm2_f16


def main() -> None:
    """Make the cuts, measure them, print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="SmolLM2 in F16 if none is named")
    for name in ("calibrate", "report"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--questions", type=Path, action="append")
    parser.add_argument("--folder", type=Path, default=Path("build/healing"))
    parser.add_argument("--layers", default="3,5,8,10")
    parser.add_argument("--tokens", type=int, default=32_768, help="to heal on")
    parser.add_argument("--windows", type=int, default=16, help="to choose on")
    parser.add_argument("--distil", type=int, help="tokens; without it nothing is distilled")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    sets = [data("hellaswag.jsonl"), data("arc_easy_test.jsonl")]
    bench = Bench(
        (options.model or smollm2_f16()).resolve(),
        (options.calibrate or data("wikitext2.valid.raw")).resolve(),
        (options.report or data("wikitext2.test.raw")).resolve(),
        tuple(options.questions or sets),
        options.folder.resolve(),
        options.chunks,
        options.limit,
        options.threads,
    )
    bench.folder.mkdir(parents=True, exist_ok=True)
    names = [path.stem for path in bench.questions]
    print(f"| | layers | MB | perplexity | {' | '.join(names)} |")
    print("|---|---|---|---|" + "---|" * len(names))
    _row(bench, "uncut", "–", bench.model)
    for count in map(int, options.layers.split(",")):
        _depth(bench, count, options)


def _depth(bench: Bench, count: int, options: argparse.Namespace) -> None:
    """The rows of one depth."""
    choice = ("--layers", count, "--by", "healed", "--ctx", 512, "--windows", options.windows)
    bare = bench.make(f"bare-{count}", "prune-depth", *choice)
    gone = ",".join(map(str, bench.facts(f"bare-{count}")["choice"]["layers"]))
    _row(bench, f"{count} layers deleted", gone, bare)
    fit = ("--tokens", options.tokens, "--ctx", 512)
    healed = bench.make(f"healed-{count}", "heal", "--layer", gone, *fit)
    _row(bench, "healed", gone, healed)
    best = healed
    if options.distil:
        fit = ("--tokens", options.distil, "--ctx", 512)
        sources = (bench.model, healed)
        best = bench.make(f"distilled-{count}", "distil", *fit, sources=sources)
        _row(bench, "healed, then distilled", gone, best)
    eight = ("--type", "Q8_0")
    small = bench.make(f"q8-{count}", "quantize", *eight, text=False, sources=(best,))
    _row(bench, "the last one in Q8_0", gone, small)
    size = ("--target-size", f"{small.stat().st_size}B")
    control = bench.make(f"control-{count}", "quantize", *size, text=False)
    _row(bench, "uncut, quantized to these bytes", "–", control)


def _row(bench: Bench, how: str, what: str, path: Path) -> None:
    size = f"{path.stat().st_size / 1e6:.0f}"
    print(f"| {how} | {what} | {size} | " + " | ".join(bench.measure(path)) + " |", flush=True)


if __name__ == "__main__":
    main()
