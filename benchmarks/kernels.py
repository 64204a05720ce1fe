"""Kernels against the memory they run on: all figures are ratios within one run.

    .venv/bin/python benchmarks/kernels.py [--runs 9] [--weights 1.5e9] [--dir /tmp] [--json]

1. RDSC of three layers against memcpy of as many bytes with as many threads, and against
   the numpy reference.
2. The exact global threshold over 1.5 billion weights against reading the file through, and
   against the usual way (concatenate all weights, ask for a quantile).
3. A merge on a file with the shapes of Qwen3-8B in F16: peak memory of the whole command.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ggsurgery.ggufio.reader import Source
from ggsurgery.host import n_threads
from ggsurgery.tensors.kernels import BF16, F16, backend
from ggsurgery.tensors.kernels.reference import REFERENCE
from tests._shapes import QWEN3_8B, write_shapes

SEED = 1
THREADS = n_threads()
MB = 1e6
LIMIT_GB = 8


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Times of several functions, run one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(runs + 1):
        for name, function in functions.items():
            spent = seconds(function)
            if number:  # the first round warms caches and pages
                times[name].append(spent)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of time `one` / time `other`."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def merge_kernels(runs: int, megabytes: int = 192) -> list[dict[str, Any]]:
    """RDSC of three layers of F16 and BF16 numbers, in memory."""
    libc = ctypes.CDLL(None)
    libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    rng, rows = np.random.default_rng(SEED), []
    for name, kind in (("f16", F16), ("bf16", BF16)):
        size = megabytes * 1_000_000
        values = [rng.normal(0, 0.02, size // 2 // 16).astype(np.float32) for _ in range(3)]
        raws = [np.tile(backend().encode(kind, v), 16) for v in values]
        out = np.ones_like(raws[0])
        # 3 reads + 1 write of n bytes are 2·n read and 2·n written by memcpy
        big, big_out = np.concatenate(raws[:2]), np.ones(2 * raws[0].size, np.uint8)
        pool = ThreadPoolExecutor(THREADS)

        def parts(total: int) -> list[slice]:
            step = -(-total // THREADS) // 64 * 64 + 64
            return [slice(i, min(total, i + step)) for i in range(0, total, step)]

        def kernel(raws: Any = raws, out: Any = out, kind: int = kind, pool: Any = pool) -> None:
            list(
                pool.map(
                    lambda s: backend().linear(kind, [r[s] for r in raws], (-1, 1, 1), out[s]),
                    parts(out.size),
                )
            )

        def copy(big: Any = big, out: Any = big_out, pool: Any = pool) -> None:
            list(
                pool.map(
                    lambda s: libc.memcpy(out[s].ctypes.data, big[s].ctypes.data, out[s].size),
                    parts(out.size),
                )
            )

        def numpy(raws: Any = raws, kind: int = kind, pool: Any = pool) -> None:
            list(
                pool.map(
                    lambda s: REFERENCE.linear(kind, [r[s] for r in raws], (-1, 1, 1)),
                    parts(raws[0].size),
                )
            )

        times = in_turn({"kernel": kernel, "memcpy": copy}, runs)
        slow = in_turn({"numpy": numpy, "kernel": kernel}, 2)
        moved = 4 * out.size
        rows.append(
            {
                "type": name,
                "kernel GB/s": moved / statistics.median(times["kernel"]) / 1e9,
                "memcpy GB/s": moved / statistics.median(times["memcpy"]) / 1e9,
                "bandwidth / memcpy": 1 / ratio(times, "kernel", "memcpy"),
                "numpy time / kernel": ratio(slow, "numpy", "kernel"),
            }
        )
        pool.shutdown()
    return rows


def make_weights(path: Path, count: int) -> None:
    """An F16 file of `count` normal weights in 28 tensors whose spread differs."""
    rng, width = np.random.default_rng(SEED), 2048
    rows = count // 28 // width
    block = rng.standard_normal((1 << 24) + 12345, np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(28)
    for layer in range(28):
        shape = (rows, width)
        writer.add_tensor_info(
            f"blk.{layer}.ffn_up.weight", shape, np.dtype(np.float16), rows * width * 2
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        file.write(bytes(-file.tell() % 32))
        for layer in range(28):
            scaled = (block * np.float32(0.01 + 0.001 * layer)).astype(np.float16)
            left = rows * width
            while left:
                piece = scaled[: min(left, scaled.size)]
                file.write(piece.data)
                left -= piece.size


def run_child(code: str, *arguments: object) -> tuple[float, float, str, int]:
    """Seconds, peak memory in MB, what was printed, and the exit code of a Python program.

    The program prints its own peak at its end: what the system keeps for a child counts the
    parent's memory too.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + PEAK, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )
    spent = time.perf_counter() - start
    *lines, last = done.stdout.strip().splitlines()
    if not last.startswith("VmHWM"):
        return spent, float("nan"), done.stdout, done.returncode
    return spent, int(last.split()[1]) * 1024 / MB, "\n".join(lines), done.returncode


PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

FIND = """
import sys, time
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.prune import masked
from ggsurgery.surgery import prepare
with prepare(Recipe((step("prune", sparsity=0.5),)), [sys.argv[1]]) as operation:
    start = time.perf_counter()
    operation.settle()
    spent = time.perf_counter() - start
    print(spent, set(masked(operation.layout).values()))
"""

READ = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
path, threads = sys.argv[1], int(sys.argv[2])
size, step = os.path.getsize(path), 2 << 20
file = os.open(path, os.O_RDONLY)
def read(number):
    buffer = bytearray(step)
    for at in range(number * step, size, threads * step):
        os.preadv(file, [buffer], at)
start = time.perf_counter()
with ThreadPoolExecutor(threads) as pool:
    list(pool.map(read, range(threads)))
print(time.perf_counter() - start)
"""

CONCATENATE = """
import resource, sys
import numpy as np
limit = int(float(sys.argv[2]) * 1e9)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from gguf import GGUFReader
tensors = [t.data.astype(np.float32).ravel() for t in GGUFReader(sys.argv[1]).tensors]
print(np.quantile(np.abs(np.concatenate(tensors)), 0.5))
"""


def threshold(folder: Path, runs: int, count: int) -> dict[str, Any]:
    """The exact median of |w| over `count` weights of a file."""
    path = folder / "weights.gguf"
    make_weights(path, count)
    with Source(path) as source:
        total = sum(t.n_elements for t in source.header.tensors)
    times: dict[str, list[float]] = {"threshold": [], "read": []}
    peaks, answer = [], ""
    for number in range(runs + 1):
        _, peak, text, code = run_child(FIND, path)
        assert code == 0, text
        spent, answer = text.split()[0], " ".join(text.split()[1:])
        _, _, read, _ = run_child(READ, path, THREADS)
        if number:
            times["threshold"].append(float(spent))
            times["read"].append(float(read))
            peaks.append(peak)
    _, _, text, code = run_child(CONCATENATE, path, LIMIT_GB)
    path.unlink()
    return {
        "weights": total,
        "answer": answer,
        "threshold s": statistics.median(times["threshold"]),
        "read s": statistics.median(times["read"]),
        "time / reading": ratio(times, "threshold", "read"),
        "peak MB": max(peaks),
        f"concatenate + quantile in {LIMIT_GB} GB": (
            text.strip().splitlines()[-1] if code else text.strip()
        ),
    }


MERGE = """
import sys
from ggsurgery.cli import main
try:
    main(["merge", "--layers", "12-14", sys.argv[1], sys.argv[2]])
except SystemExit as done:
    if done.code:
        raise
"""


def merge_large(folder: Path) -> dict[str, Any]:
    """The command on 16 GB, with numbers in the three layers and holes elsewhere."""
    source, out = folder / "qwen3-8b.gguf", folder / "out.gguf"
    write_shapes(source, QWEN3_8B, kind=gguf.GGMLQuantizationType.F16)
    block = np.random.default_rng(SEED).normal(0, 0.02, 1 << 22).astype(np.float16).tobytes()
    with Source(source) as opened, source.open("r+b") as file:
        for tensor in opened.header.tensors:
            if tensor.layer in (12, 13, 14):
                file.seek(opened.position(tensor))
                for at in range(0, tensor.nbytes, len(block)):
                    file.write(block[: tensor.nbytes - at])
    spent, peak, text, code = run_child(MERGE, source, out)
    assert code == 0, text
    sizes = [source.stat().st_size / 1e9, out.stat().st_size / 1e9]
    source.unlink()
    out.unlink()
    return {"GB": sizes, "seconds": spent, "peak MB": peak, "said": text.strip().splitlines()[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--weights", type=float, default=1.5e9)
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=("kernels", "threshold", "merge"))
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {platform.system()}, {THREADS} threads",
        "kernels": backend().name,
        "seed": SEED,
    }
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        if options.part in (None, "kernels"):
            result["rdsc"] = merge_kernels(options.runs)
        if options.part in (None, "threshold"):
            runs = max(1, options.runs // 2)
            result["threshold"] = threshold(Path(folder), runs, int(options.weights))
        if options.part in (None, "merge"):
            result["merge"] = merge_large(Path(folder))
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    print(f"{result['machine']}, {result['kernels']}, seed {result['seed']}")
    for row in result.get("rdsc", ()):
        print(
            f"RDSC of 3 layers, {row['type']:4}: {row['bandwidth / memcpy']:.2f}x the bandwidth of "
            f"memcpy ({row['kernel GB/s']:.1f} of {row['memcpy GB/s']:.1f} GB/s), "
            f"{row['numpy time / kernel']:.1f}x the numpy reference"
        )
    if found := result.get("threshold"):
        print(
            f"exact threshold over {found['weights']:,} weights: {found['time / reading']:.2f}x "
            f"the time of reading the file ({found['threshold s']:.2f} s, "
            f"{found['read s']:.2f} s), peak {found['peak MB']:.0f} MB"
        )
        key = next(k for k in found if k.startswith("concatenate"))
        print(f"  {key}: {found[key]}")
    if found := result.get("merge"):
        print(
            f"merge on {found['GB'][0]:.1f} GB: {found['seconds']:.1f} s, "
            f"peak {found['peak MB']:.0f} MB"
        )
        print(f"  {found['said']}")


if __name__ == "__main__":
    main()
