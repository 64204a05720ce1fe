"""Leave-one-out scan and halving against the plain loop: write each file, run llama-perplexity.

    python benchmarks/search.py                           # SmolLM2 in F16 on wikitext-2 valid
    python benchmarks/search.py --every 5 --windows 4     # a sample of the layers

The plain loop and the scan take turns, layer by layer, with as many threads each, so that the
machine's speed falls out of the ratio. Printed are wall time and processor time: on a machine
with other load, only the second is meaningful. With --every K the times
of the plain loop and of the scan over all layers are the sampled layers' mean times their
number (and the scan's own pass over the uncut model once).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._inputs import data, smollm2_f16
from ggsurgery.find.search.optimize import Budget, Work, run_worker
from ggsurgery.find.search.run import outcome
from ggsurgery.host import n_threads
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.variants.measure import Measurer
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare
from tests._llama_tools import llama_tool


class Clock:
    """Wall and processor seconds, of this process and its finished children."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def time(self, function: Callable[[], Any]) -> Any:
        def used() -> float:
            ours, theirs = (
                resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            )
            return ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime

        wall, cpu = time.perf_counter(), used()
        try:
            return function()
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += used() - cpu


def deletion(layer: int) -> Recipe:
    return Recipe((step("delete", layer=str(layer)),))


def plain(setup: Setup, layer: int, folder: Path, tool: str) -> float:
    """Write the file without a layer, and let llama.cpp's own tool measure it."""
    out = folder / "plain.gguf"
    with prepare(deletion(layer), [setup.path]) as operation:
        operation.write(out, force=True)
    done = subprocess.run(
        [
            tool,
            "-m",
            out,
            "-f",
            str(setup.text),
            "-c",
            str(setup.n_ctx),
            "--chunks",
            str(setup.n_windows),
            "-t",
            str(setup.n_threads),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    out.unlink()
    found = re.search(r"PPL = ([0-9.]+)", done.stdout + done.stderr)
    assert found is not None, done.stderr[-500:]
    return float(found[1])


def resident(field: str) -> int:
    """A memory figure of this process in bytes (proc(5), status)."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


def peak_of_scan(setup: Setup, layers: list[int], results: Any) -> None:
    """In a process of its own: a scan, and the largest memory it held (mapped files count)."""
    import llama_cpp  # noqa: F401 - the libraries are no part of an evaluation

    start = resident("VmRSS")
    with Measurer(setup) as measurer:
        for layer in layers:
            measurer.measure(deletion(layer).apply(measurer.session.identity))
        assert measurer.session.states is not None
        states = measurer.session.states.nbytes
    results.put((start, resident("VmHWM"), states))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="SmolLM2 in F16 if none is named")
    parser.add_argument("--text", type=Path, help="wikitext-2 valid if none is named")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--every", type=int, default=1, help="sample every K-th layer")
    parser.add_argument("--threads", type=int, default=n_threads(), help="of both sides")
    args = parser.parse_args()
    args.file = args.file or smollm2_f16()
    args.text = args.text or data("wikitext2.valid.raw")
    warnings.simplefilter("ignore")
    setup = Setup(
        args.file, text=args.text, n_ctx=args.ctx, n_windows=args.windows, n_threads=args.threads
    )
    tool = llama_tool("llama-perplexity")
    clocks = {name: Clock() for name in ("plain", "base", "scan", "halving")}
    apart, figures = 0.0, {}
    with tempfile.TemporaryDirectory(prefix="ggsurgery-bench-") as name:
        folder = Path(name)
        measurer = clocks["base"].time(lambda: Measurer(setup))
        n_layers = len(measurer.session.identity.blocks)
        layers = list(range(0, n_layers, args.every))
        for layer in layers:
            theirs = clocks["plain"].time(lambda at=layer: plain(setup, at, folder, tool))
            plan = deletion(layer).apply(measurer.session.identity)
            ours = clocks["scan"].time(lambda p=plan: measurer.measure(p)).value
            figures[layer] = ours
            apart = max(apart, abs(ours / theirs - 1))
            print(f"layer {layer}: plain {theirs:.4f}, scan {ours:.4f}", flush=True)
        measurer.close()
        whole = n_layers / len(layers)
        ratio = {
            kind: (getattr(clocks["base"], kind) + whole * getattr(clocks["scan"], kind))
            / (whole * getattr(clocks["plain"], kind))
            for kind in ("wall", "cpu")
        }
        print(f"scan to plain: {ratio}", flush=True)
        # until here no other child was as large
        theirs_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        queue: Any = multiprocessing.get_context("spawn").Queue()
        child = multiprocessing.get_context("spawn").Process(
            target=peak_of_scan, args=(setup, layers[:3], queue)
        )
        child.start()
        start, peak, states = queue.get()
        child.join()
        print(
            f"memory: peak {peak:,}, of it states {states:,}, interpreter {start:,}; "
            f"llama-perplexity {theirs_peak:,}",
            flush=True,
        )
        work = Work(
            "bench",
            setup,
            str(folder / "s.db"),
            folder / "s.jsonl",
            ("delete",),
            1,
            Budget(count=10_000),
            halving=True,
        )
        clocks["halving"].time(lambda: run_worker(work, "bench"))
        best = outcome(work).ranked[0].recipe.describe()
    size = args.file.stat().st_size
    result = {
        "machine": platform.processor() or platform.machine(),
        "model": args.file.name,
        "windows": f"{args.windows} of {args.ctx}",
        "layers_sampled": f"{len(layers)} of {n_layers}",
        "largest_relative_difference_of_perplexity": apart,
        "scan_to_plain": ratio,
        "halving_to_plain": {
            "wall": clocks["halving"].wall / (whole * clocks["plain"].wall),
            "cpu": clocks["halving"].cpu / (whole * clocks["plain"].cpu),
            "plain_extrapolated": args.every > 1,
        },
        "best_by_halving": best,
        "best_by_scan_of_sampled": f"delete {min(figures, key=lambda k: figures[k])}",
        "memory": {
            "peak": peak,
            "states": states,
            "interpreter_and_libraries": start,
            "evaluation_to_model": (peak - start - states) / size,
            "whole_process_less_states_to_model": (peak - states) / size,
            "llama_perplexity_to_model": theirs_peak / size,
        },
        "seconds": {
            k: {"wall": round(c.wall, 1), "cpu": round(c.cpu, 1)} for k, c in clocks.items()
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
