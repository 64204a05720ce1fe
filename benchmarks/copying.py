"""Delete one layer of a 3 GB F16 file: ours against cp and llama-quantize --prune-layers.

    .venv/bin/python benchmarks/copying.py [--runs 5] [--minutes 5] [--size 3.0] [--dir /tmp]

All commands run in turn on the same file in the page cache, so the machine's speed falls out
of the ratios; what waits for the disk is compared with what waits, too. Rounds end with the
number of runs or the time, whichever comes first. llama-quantize is built from
llama-cpp-python's source distribution.

(The name is not copy.py: that would stand in for Python's own module `copy` in every script
of this folder.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests._llama_tools import llama_tool

WIDTH, FFN, VOCAB, SEED = 2048, 6144, 32000, 1


def make_model(path: Path, gigabytes: float) -> None:
    """A llama-shaped F16 model of random bits, as many layers as the size asks for."""
    rng = np.random.default_rng(SEED)
    per_layer = 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * FFN)
    layers = max(12, round((gigabytes * 1e9 - 2 * 2 * VOCAB * WIDTH) / per_layer))
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(16)
    writer.add_head_count_kv(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 16)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(1)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.random((rows, columns), np.float32) - 0.5).astype(np.float16)

    writer.add_tensor("token_embd.weight", matrix(VOCAB, WIDTH))
    writer.add_tensor("output.weight", matrix(VOCAB, WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (FFN, WIDTH),
        "ffn_up": (FFN, WIDTH),
        "ffn_down": (WIDTH, FFN),
    }
    shared = {name: matrix(*shape) for name, shape in shapes.items()}
    for layer in range(layers):
        for name, values in shared.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", values)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=5, help="no round begins later")
    parser.add_argument("--size", type=float, default=3.0, help="GB")
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quantize = str(llama_tool("llama-quantize"))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        source, out = Path(folder, "in.gguf"), Path(folder, "out.gguf")
        make_model(source, options.size)
        ours = [sys.executable, "-m", "ggsurgery", "delete", "--layer", "10"]
        files = [str(source), str(out)]
        peer = [quantize, "--prune-layers", "10", *files, "COPY"]
        copy = ["cp", "--reflink=auto", *files]
        commands = {  # what to run, and whether its file has to be on the disk at the end
            "ggsurgery": ([*ours, *files], False),
            "cp": (copy, False),
            "llama-quantize": (peer, False),
            "ggsurgery --sync": ([*ours, "--sync", *files], False),  # waits by itself
            "cp + sync": (copy, True),
            "llama-quantize + sync": (peer, True),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(options.runs + 1):
            if number > 1 and time.perf_counter() - began > 60 * options.minutes:
                break
            for name, (command, wait) in commands.items():
                took = timed(command, out, wait)
                if number:  # the first round warms the page cache
                    times[name].append(took)
        size = source.stat().st_size
    report(times, size, options.json)


def timed(command: list[str], out: Path, wait: bool) -> float:
    """Seconds of one run; its file is gone afterwards and the disk owes nothing."""
    subprocess.run(["sync", "-f", str(out.parent)], check=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if wait:
        with out.open("rb") as file:
            os.fsync(file.fileno())
    took = time.perf_counter() - start
    out.unlink()
    return took


def report(times: dict[str, list[float]], size: int, as_json: bool) -> None:
    pairs = {
        "ggsurgery / llama-quantize": ("ggsurgery", "llama-quantize"),
        "ggsurgery / cp": ("ggsurgery", "cp"),
        "ggsurgery --sync / llama-quantize + sync": ("ggsurgery --sync", "llama-quantize + sync"),
        "ggsurgery --sync / cp + sync": ("ggsurgery --sync", "cp + sync"),
    }
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[x], times[y], strict=True))
        for name, (x, y) in pairs.items()
    }
    result = {
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "bytes": size,
        "seed": SEED,
        "seconds": times,
        "median_ratio": ratios,
        "free_disk": shutil.disk_usage(tempfile.gettempdir()).free,
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{size / 1e9:.2f} GB, {len(next(iter(times.values())))} runs in turn, {result['machine']}"
    )
    for name, seconds in times.items():
        print(
            f"  {name:22} median {statistics.median(seconds):6.2f} s   "
            f"(min {min(seconds):.2f}, max {max(seconds):.2f})"
        )
    for name, ratio in ratios.items():
        print(f"  {name:42} {ratio:.2f}x")


if __name__ == "__main__":
    main()
