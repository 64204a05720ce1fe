"""A quarter of a model's layers removed in every way the tool knows, side by side.

    python benchmarks/depth.py [--model M.gguf --calibrate valid.raw --report test.raw
                                --questions arc_easy.jsonl --folder out]

Layers are chosen, merged and healed on the calibration text alone; perplexity and accuracy
are of the reporting text and the questions. Every command is printed as it runs, and what
is in the folder already is not made again. The tables go into the README.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._bench import Bench
from benchmarks._inputs import data, smollm2_f16

#: Thresholds tried for LaCo, highest first: the first that gets down to --layers counts.
THRESHOLDS = (
    "0.85",
    "0.8",
    "0.75",
    "0.7",
    "0.65",
    "0.6",
    "0.55",
    "0.5",
    "0.4",
    "0.3",
    "0.2",
    "0.1",
    "0",
    "-1",
)


def main() -> None:
    """Make the cuts, measure them, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, help="SmolLM2 in F16 if none is named")
    for name in ("calibrate", "report", "questions"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/depth"))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--limit", type=int, default=200)
    given = parser.parse_args()
    model = given.model or smollm2_f16()
    bench = Bench(
        model,
        given.calibrate or data("wikitext2.valid.raw"),
        given.report or data("wikitext2.test.raw"),
        (given.questions or data("arc_easy_test.jsonl"),),
        given.folder,
        given.chunks,
        given.limit,
    )
    given.folder.mkdir(parents=True, exist_ok=True)
    print("| removed by | what went | perplexity | accuracy, % |\n|---|---|---|---|")
    _row(bench, "nothing", "–", model)
    best = _deletions(bench, given.layers)
    for method in ("tw", "refit"):
        healed = bench.make(f"healed-{method}", "heal", "--layer", best, "--method", method)
        _row(bench, f"the best of these, healed (`{method}`)", best, healed)
    for variant in ("reference", "damped", "paper"):
        _laco(bench, variant, given.layers)


def _deletions(bench: Bench, layers: int) -> str:
    """Rows of plain deletion; the list of layers whose choice did best on the calibration text."""
    ways = {
        "influence": ("--windows", 16),
        "angular": ("--windows", 16),
        "scan": ("--ctx", 256, "--windows", 4),
        "greedy": ("--ctx", 256, "--windows", 4),
    }
    found = []
    for by, more in ways.items():
        journal = ("--journal", bench.folder / "journal.jsonl") if by in ("scan", "greedy") else ()
        made = bench.make(by, "prune-depth", "--layers", layers, "--by", by, *more, *journal)
        choice = bench.facts(by)["choice"]
        gone = ",".join(map(str, choice["layers"]))
        found.append((choice["after"] / choice["before"], gone))
        _row(bench, f"`prune-depth --by {by}`", gone, made)
    return min(found)[1]


def _laco(bench: Bench, variant: str, layers: int) -> None:
    for threshold in THRESHOLDS:
        name = f"laco-{variant}-{threshold}"
        made = bench.make(name, "laco", "--variant", variant, "--threshold", threshold, "--ctx", 64)
        log = bench.facts(name)["laco"]
        if log["removed"] >= layers:
            merges = [
                f"{a['base']}←{a['merged'][0]}–{a['merged'][-1]}"
                for a in log["attempts"]
                if a["accepted"]
            ]
            _row(
                bench,
                f"`laco --variant {variant} --threshold {threshold}`",
                ", ".join(merges),
                made,
            )
            return


def _row(bench: Bench, how: str, what: str, path: Path) -> None:
    print(f"| {how} | {what} | " + " | ".join(bench.measure(path)) + " |", flush=True)


if __name__ == "__main__":
    main()
