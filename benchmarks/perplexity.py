"""Tokens a second of `ggsurgery perplexity` against llama-perplexity, in turn on one machine.

    .venv/bin/python benchmarks/perplexity.py [--model M.gguf] [--text T] [--runs 5] [--json]

Whole commands are timed, each with few and with many chunks; the difference is free of
start-up, loading and tokenizing. Runs alternate, so load on the machine cancels in the ratios. CPU
seconds are given beside wall seconds: on a busy machine they vary less. Both must
print the same perplexity.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks._inputs import data, smollm2
from ggsurgery import host
from ggsurgery.runtime import machine
from tests._llama_tools import llama_tool

NAMES = ("ggsurgery", "llama-perplexity")


def timed(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds (children included) and everything that was printed."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - start, os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return wall, cpu, done.stdout + done.stderr


def commands(model: Path, text: Path, n_ctx: int, chunks: int, threads: int) -> list[list[str]]:
    common = ["--chunks", str(chunks), "--threads", str(threads)]
    ours = [sys.executable, "-m", "ggsurgery", "perplexity", str(model), "--text", str(text)]
    theirs = [llama_tool("llama-perplexity"), "-m", str(model), "-f", str(text)]
    return [[*ours, "--ctx", str(n_ctx), *common], [*theirs, "-c", str(n_ctx), *common]]


def printed(output: str) -> str:
    match = re.search(r"PPL = ([\d.]+)", output) or re.search(r"\s([\d.]+)  ± ", output)
    assert match, output[-500:]
    return match[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--few", type=int, default=4, help="chunks of the short runs")
    parser.add_argument("--many", type=int, default=24, help="chunks of the long runs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=host.n_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = args.model or smollm2()
    text = args.text or data("wikitext2.test.raw")
    tokens = (args.many - args.few) * args.ctx
    wall: dict[str, list[float]] = {n: [] for n in NAMES}
    cpu: dict[str, list[float]] = {n: [] for n in NAMES}
    found: dict[str, str] = {}
    for run in range(args.runs):
        order = range(2) if run % 2 == 0 else range(1, -1, -1)
        for which in order:
            few, many = (
                timed(commands(model, text, args.ctx, n, args.threads)[which])
                for n in (args.few, args.many)
            )
            wall[NAMES[which]].append(many[0] - few[0])
            cpu[NAMES[which]].append(many[1] - few[1])
            found[NAMES[which]] = printed(many[2])
    result = {
        "machine": f"{machine.cpu()[0]}, {args.threads} threads, {platform.platform()}",
        "model": model.name,
        "tokens": tokens,
        "perplexity": found,
        "tokens_per_second": {n: tokens / statistics.median(wall[n]) for n in NAMES},
        "cpu_seconds": {n: statistics.median(cpu[n]) for n in NAMES},
        "speed_ratio": ratio(wall),
        "speed_ratio_by_cpu_time": ratio(cpu),
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for key, value in result.items():
        print(f"{key:24} {value}")


def ratio(seconds: dict[str, list[float]]) -> float:
    """Median over the runs of theirs / ours: above 1 means that ours is faster."""
    ours, theirs = (seconds[n] for n in NAMES)
    return round(statistics.median(t / o for o, t in zip(ours, theirs, strict=True)), 3)


if __name__ == "__main__":
    main()
