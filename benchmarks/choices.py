"""Multiple choice with shared prefixes against scoring every choice whole.

    python benchmarks/choices.py --file smollm2-f16.gguf --limit 40

Both ways score the same questions in turn, question by question, so the machine's speed falls
out of the ratio. The whole way decodes context and choice together, one choice after the
other, as scoring without a shared cache does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._inputs import data, smollm2_f16
from ggsurgery.measure.metrics.choices import Answered, encode_pair, score_question
from ggsurgery.measure.questions import Prompted, guess_style, load_questions, prompts
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.scoring import log_softmax_at


def score_whole(engine: Engine, prompted: Prompted) -> Answered:
    """Every choice decoded with its whole context."""
    sums, counts = [], []
    for context, continuation in zip(prompted.contexts, prompted.continuations, strict=True):
        before, after = encode_pair(engine, context, continuation)
        engine.reset()
        wanted = slice(len(before) - 1, len(before) + len(after) - 1)
        logits = engine.decode([*before, *after], logits=wanted, copy=False)
        sums.append(float(log_softmax_at(logits, np.array(after)).sum()))
        counts.append(len(after))
    return Answered(prompted, tuple(sums), tuple(counts))


def measure(engine: Engine, asked: list[Prompted]) -> dict[str, float]:
    """Seconds of both ways, alternating, and how far their log-probabilities are apart."""
    seconds = {"shared": 0.0, "whole": 0.0}
    apart, same = 0.0, 0
    for item in asked:
        start = time.perf_counter()
        shared = score_question(engine, item)
        middle = time.perf_counter()
        whole = score_whole(engine, item)
        seconds["whole"] += time.perf_counter() - middle
        seconds["shared"] += middle - start
        apart = max(
            apart, *(abs(a - b) for a, b in zip(shared.logprobs, whole.logprobs, strict=True))
        )
        same += shared.picks()["acc"] == whole.picks()["acc"]
    return {
        **seconds,
        "ratio": seconds["whole"] / seconds["shared"],
        "largest difference": apart,
        "same answer": same / len(asked),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="SmolLM2 in F16 if none is named")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--data", nargs="*", default=["hellaswag", "arc_easy_test", "piqa_valid"])
    options = parser.parse_args()
    options.file = options.file or smollm2_f16()
    print(f"{'':16} {'n':>4} {'whole s':>8} {'shared s':>9} {'ratio':>6} {'max |Δ|':>8}  same")
    with Engine.open(options.file, n_ctx=2048) as engine:
        for name in options.data:
            questions = load_questions(data(f"{name}.jsonl"), limit=options.limit)
            found = measure(engine, prompts(questions, guess_style(questions)))
            print(
                f"{name:16} {len(questions):4} {found['whole']:8.2f} {found['shared']:9.2f} "
                f"{found['ratio']:6.2f} {found['largest difference']:8.4f}  "
                f"{found['same answer']:.3f}"
            )
    print(json.dumps({"file": options.file.name, "threads": engine.n_threads}))


if __name__ == "__main__":
    main()
