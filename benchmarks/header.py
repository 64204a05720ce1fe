"""Reading a header with a large vocabulary, against gguf-py's reader.

    .venv/bin/python benchmarks/header.py [--runs 3] [--json]

A vocabulary of 151,936 tokens with scores, types and as many merges, as Qwen3 has it. Both
readers take turns in one process; printed are medians and their ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import gguf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ggsurgery.ggufio.header import read_header

N_TOKENS = 151_936


def write_vocabulary(path: Path) -> Path:
    """A GGUF with 36 layers of tiny tensors and a vocabulary of `N_TOKENS`."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(36)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{i:x}" for i in range(N_TOKENS)])
    writer.add_token_types([1] * N_TOKENS)
    writer.add_token_merges([f"t{i:x} m{i:x}" for i in range(N_TOKENS)])
    import numpy as np

    for layer in range(36):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def measure(path: Path, runs: int) -> dict[str, float]:
    readers = {"ggsurgery": read_header, "gguf-py": gguf.GGUFReader}
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(runs):
        for name, read in readers.items():
            start = time.process_time()
            read(path)
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians | {"ratio": medians["ggsurgery"] / medians["gguf-py"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(write_vocabulary(Path(folder) / "vocabulary.gguf"), options.runs)
    if options.json:
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        print(json.dumps(found | machine | {"runs": options.runs, "tokens": N_TOKENS}))
        return
    print(f"header with {N_TOKENS:,} tokens, median CPU time of {options.runs} alternating runs")
    print(f"  ggsurgery {found['ggsurgery'] * 1000:8.1f} ms")
    print(f"  gguf-py   {found['gguf-py'] * 1000:8.1f} ms")
    print(f"  ratio     {found['ratio']:8.4f}")


if __name__ == "__main__":
    main()
