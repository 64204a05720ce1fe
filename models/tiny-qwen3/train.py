"""Train tiny-qwen3: ten Qwen3 layers on Python's manual in half an hour of one CPU core.

    python train.py DATA OUT [--minutes 28] [--wall 60]

DATA is what corpus.py wrote. Writes OUT/tokenizer.json, OUT/hf (a transformers checkpoint)
and OUT/training.log. The learning rate follows the processor's clock, not a step count, so
a slow machine gives a less trained model, not a broken one. One thread: matrices of this
size gain nothing from a second one. MALLOC_TOP_PAD_=200000000 and
MALLOC_TRIM_THRESHOLD_=4000000000 in the environment save a quarter of the time.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from muon import Muon
from tokens import VOCABULARY, stream, train_tokenizer
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM

SEED = 7
CONTEXT, TOKENS = 512, 3072
#: Peak rates of Muon (matrices) and of AdamW (embeddings and norms).
PEAK_MUON, PEAK_ADAM, WARM_UP, FLOOR = 0.02, 4e-3, 0.02, 0.03


def build() -> Qwen3ForCausalLM:
    """Every row length is a multiple of 256, so that all K- and I-quants apply."""
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
    )
    return Qwen3ForCausalLM(config)


def windows(text: str, tokenizer: object) -> torch.Tensor:
    ids = tokenizer.encode(text).ids  # type: ignore[attr-defined]
    n = len(ids) // CONTEXT
    return torch.tensor(ids[: n * CONTEXT]).view(n, CONTEXT)


@torch.no_grad()
def heldout_loss(model: Qwen3ForCausalLM, rows: torch.Tensor) -> float:
    total = 0.0
    for row in rows.split(4):
        logits = model(row).logits[:, :-1]
        total += cross_entropy(
            logits.reshape(-1, VOCABULARY), row[:, 1:].reshape(-1), reduction="sum"
        ).item()
    return total / (rows.shape[0] * (CONTEXT - 1))


def schedule(spent: float) -> float:
    """Factor on the peak rates: warm-up, then linearly down, over the share of time spent."""
    if spent < WARM_UP:
        return spent / WARM_UP
    return max(FLOOR, 1 - (spent - WARM_UP) / (1 - WARM_UP))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=28, help="of processor time")
    parser.add_argument("--wall", type=float, default=60, help="minutes at most in all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer((args.data / "train.txt").read_text(encoding="utf-8"))
    tokenizer.save(str(args.out / "tokenizer.json"))
    ids = stream(tokenizer, args.data, SEED)
    rows = windows((args.data / "heldout_search.txt").read_text(encoding="utf-8"), tokenizer)[:16]
    model = build()
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if p.dim() == 1 or ".layers." not in n]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    n_parameters = sum(p.numel() for p in model.parameters())
    log = (args.out / "training.log").open("w", encoding="utf-8")

    def say(line: str) -> None:
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    say(f"parameters {n_parameters:,}, training tokens {len(ids):,}, torch {torch.__version__}")
    rng = np.random.default_rng(SEED)
    began, used, step, smooth = time.monotonic(), time.process_time(), 0, 0.0

    def spent() -> float:
        return max(
            (time.process_time() - used) / (args.minutes * 60),
            (time.monotonic() - began) / (args.wall * 60),
        )

    while (share := spent()) < 1:
        size = CONTEXT if step % 4 == 3 else CONTEXT // 2  # short windows are cheaper
        at = rng.integers(0, len(ids) - size - 1, TOKENS // size)
        batch = torch.from_numpy(np.stack([ids[a : a + size + 1] for a in at])).long()
        for optimizer, peak in ((muon, PEAK_MUON), (adam, PEAK_ADAM)):
            optimizer.param_groups[0]["lr"] = peak * schedule(share)
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        smooth = loss.item() if not step else 0.95 * smooth + 0.05 * loss.item()
        step += 1
        if step % 25 == 0:
            held = f" held-out {heldout_loss(model, rows):.4f}" if step % 100 == 0 else ""
            say(
                f"step {step} tokens {step * TOKENS:,} loss {smooth:.4f}{held} "
                f"rate {schedule(share):.3f} processor seconds {time.process_time() - used:.0f}"
            )
    final = heldout_loss(model, rows)
    say(
        f"end: step {step}, {step * TOKENS:,} tokens, held-out loss {final:.4f} "
        f"(perplexity {math.exp(final):.3f} a token over windows of {CONTEXT})"
    )
    model.save_pretrained(args.out / "hf")


if __name__ == "__main__":
    main()
