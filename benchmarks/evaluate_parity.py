"""KL and HellaSwag of ggsurgery beside llama-perplexity's, on one pair of models.

    python benchmarks/evaluate_parity.py [--base smollm2-f16.gguf --file smollm2-q4_1.gguf]

Text and questions come from ../shared/data; the tools are llama.cpp's own, built from the
source distribution of the installed llama-cpp-python. Prints both figures and their ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._inputs import data, smollm2, smollm2_f16
from ggsurgery import host
from ggsurgery.measure.questions import load_questions, prompts
from ggsurgery.measure.runs import choices_of_file, kl_of_files
from ggsurgery.runtime import worker
from tests._llama_tools import llama_tool

THREADS = str(host.n_threads())

PATTERNS = {
    "kl_mean": r"Mean +KLD: +([\d.-]+)",
    "kl_median": r"Median +KLD: +([\d.-]+)",
    "kl_p99": r"99\.0% +KLD: +([\d.-]+)",
    "top1_agreement": r"Same top p: +([\d.]+)",
}


def tool(*arguments: str) -> str:
    """What llama-perplexity prints; `--no-repack` as some virtual machines need it."""
    done = subprocess.run(
        [llama_tool("llama-perplexity"), *arguments, "--no-repack", "-t", THREADS],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def kl_rows(base: Path, file: Path, text: Path, chunks: int) -> list[tuple[str, float, float]]:
    """(metric, llama-perplexity's figure, ours)."""
    with tempfile.TemporaryDirectory() as folder:
        logits = f"{folder}/base.logits"
        short = Path(folder, "text")
        short.write_text(text.read_text(encoding="utf-8")[: chunks * 512 * 8], encoding="utf-8")
        common = ("-c", "512", "--chunks", str(chunks))
        tool("-m", str(base), "-f", str(short), *common, "--save-all-logits", logits)
        told = tool("-m", str(file), *common, "--kl-divergence-base", logits, "--kl-divergence")
        ours = worker.run(
            kl_of_files, base, file, short.read_text(encoding="utf-8"), n_ctx=512, n_windows=chunks
        )
    found = {s.metric: s.value for s in ours}
    rows = []
    for metric, pattern in PATTERNS.items():
        match = re.search(pattern, told)
        assert match is not None, told[-2000:]
        theirs = float(match[1]) / (100 if metric == "top1_agreement" else 1)
        rows.append((metric, theirs, found[metric]))
    return rows


def hellaswag_rows(file: Path, data: Path, n: int) -> list[tuple[str, float, float]]:
    """llama-perplexity's HellaSwag accuracy (per token) and ours by every length."""
    questions = load_questions(data, limit=n)
    lines = []
    for q in questions:
        lines += [q.query, str(q.answer), *q.choices]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as prompt:
        prompt.write("\n".join(" ".join(line.split()) for line in lines))
        prompt.flush()
        start = time.perf_counter()
        told = tool(
            "-m",
            str(file),
            "-f",
            prompt.name,
            "--hellaswag",
            "--hellaswag-tasks",
            str(n),
            "-c",
            "2048",
        )
        theirs_s = time.perf_counter() - start
    last = re.findall(r"^\d+\t([\d.]+)%", told, re.M)[-1]
    start = time.perf_counter()
    ours = worker.run(choices_of_file, file, prompts(questions, "plain"))
    ours_s = time.perf_counter() - start
    rows = [(f"hellaswag {s.metric}", float(last) / 100, s.value) for s in ours]
    return [*rows, ("hellaswag seconds", theirs_s, ours_s)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="SmolLM2 in F16 if none is named")
    parser.add_argument("--file", type=Path, help="SmolLM2 as shipped if none is named")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--skip-kl", action="store_true")
    options = parser.parse_args()
    base, file = options.base or smollm2_f16(), options.file or smollm2()
    rows = []
    if not options.skip_kl:
        rows += kl_rows(base, file, data("wikitext2.test.raw"), options.chunks)
    if options.questions:
        rows += hellaswag_rows(base, data("hellaswag.jsonl"), options.questions)
    print(f"{'':22} {'llama-perplexity':>18} {'ggsurgery':>12} {'ratio':>8}")
    for name, theirs, ours in rows:
        print(f"{name:22} {theirs:18.6f} {ours:12.6f} {ours / theirs:8.4f}")
    print(
        json.dumps(
            {
                "machine": platform.processor() or platform.machine(),
                "chunks": options.chunks,
                "questions": options.questions,
            }
        )
    )


if __name__ == "__main__":
    main()
