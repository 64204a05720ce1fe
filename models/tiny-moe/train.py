"""Train tiny-moe: five Qwen3-MoE layers on six domains, on a CPU.

    python train.py DATA OUT [--tokens 4600000]

DATA is what corpus.py wrote. Writes OUT/tokenizer.json, OUT/weights.pt and OUT/training.log.
A checkpoint is written every 100 steps; the same command continues from it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from corpus import DOMAINS
from muon import Muon
from network import Network
from tokens import CONTEXT, train_tokenizer, training_windows, windows
from torch import Tensor
from torch.nn.functional import cross_entropy

SEED = 7
#: Windows a step.
BATCH = 8
#: Peak rates of Muon (matrices of the layers) and of AdamW (embeddings, routers, norms).
PEAK_MUON, PEAK_ADAM, WARM_UP, FLOOR = 0.02, 4e-3, 0.02, 0.03
#: Share of the balancing loss: enough that no expert dies, little enough that they specialise.
BALANCE = 0.003


def schedule(share: float) -> float:
    """Factor on the peak rates: warm-up, then linearly down, over the share of tokens seen."""
    return max(0.01, share / WARM_UP) if share < WARM_UP else max(FLOOR, 1 - share)


@torch.no_grad()
def heldout_loss(model: Network, rows: Tensor) -> tuple[float, Tensor]:
    """Mean nll a token, and the tokens that each expert received."""
    total, loads = 0.0, torch.zeros(1)
    for part in rows.split(8):
        logits, _, load = model(part[:, :-1])
        total += cross_entropy(
            logits.float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
        ).item()
        loads = loads + load
    return total / rows[:, 1:].numel(), loads


def training_loss(model: Network, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Mean nll a token of a batch, and the balancing loss; matrices multiply in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, balance, _ = model(batch[:, :-1])
    return cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()), balance


def optimizers_of(model: Network) -> tuple[tuple[torch.optim.Optimizer, float], ...]:
    """Muon for the matrices of the layers, AdamW for all else, each with its peak rate."""
    named = dict(model.named_parameters())
    matrices = [
        p for n, p in named.items() if p.dim() > 1 and n.startswith("blk") and "gate_inp" not in n
    ]
    others = [p for p in named.values() if all(p is not m for m in matrices)]
    adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    return (Muon(matrices), PEAK_MUON), (adam, PEAK_ADAM)


def train(
    model: Network, rows: Tensor, steps: int, out: Path, report: Callable[[str], None]
) -> None:
    """Train, from the checkpoint in `out` if there is one."""
    optimizers = optimizers_of(model)
    used, step, checkpoint = time.process_time(), 0, out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for (optimizer, _), state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, used = saved["step"], used - saved["seconds"]
        report(f"continued at step {step}")
    while step < steps:
        at = torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)
        rate = schedule(step / steps)
        loss, balance = training_loss(model, rows[at].long())
        (loss + BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in optimizers:
            optimizer.param_groups[0]["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 25 == 0:
            report(
                f"step {step} tokens {step * BATCH * CONTEXT:,} loss {loss.item():.4f} balance "
                f"{balance.item():.3f} rate {rate:.3f} processor seconds "
                f"{time.process_time() - used:.0f}"
            )
        if step % 100 == 0:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
                "step": step,
                "seconds": time.process_time() - used,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=4_600_000, help="seen in training")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer(args.data)
    tokenizer.save(str(args.out / "tokenizer.json"))
    rows = torch.from_numpy(training_windows(tokenizer, args.data, SEED).astype("int32"))
    model = Network()
    log = (args.out / "training.log").open("a", encoding="utf-8")

    def report(line: str) -> None:
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    report(
        f"parameters {sum(p.numel() for p in model.parameters()):,}, training windows "
        f"{len(rows):,} of {CONTEXT} tokens, torch {torch.__version__}"
    )
    steps = -(-args.tokens // (BATCH * CONTEXT))
    train(model, rows, steps, args.out, report)
    torch.save(model.state_dict(), args.out / "weights.pt")
    report(f"end: step {steps}, {steps * BATCH * CONTEXT:,} tokens")
    for domain in DOMAINS:
        text = (args.data / f"{domain}.heldout.txt").read_text(encoding="utf-8")
        part = torch.from_numpy(windows(tokenizer, text, 150_000)[:24].astype("int64"))
        loss, loads = heldout_loss(model, part)
        report(f"{domain}: held-out perplexity {math.exp(loss):.3f} a token")
        for number, load in enumerate(loads / loads.sum(-1, keepdim=True)):
            report(f"  layer {number}: " + " ".join(f"{v:.2f}" for v in load.tolist()))


if __name__ == "__main__":
    main()
