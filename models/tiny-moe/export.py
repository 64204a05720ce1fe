"""Write the trained weights as tiny-moe.gguf (F16) and compare it with PyTorch.

    python export.py TRAINED tiny-moe.gguf --data DATA [--characters 60000]

TRAINED is what train.py wrote. Prints the largest difference of llama.cpp's logits from
network.py's (weights rounded to F16 as in the file), and writes the first CHARACTERS of every
domain's held-out text beside the model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import network as net
import numpy as np
import torch
from corpus import DOMAINS
from gguf import GGUFWriter, LlamaFileType, TokenType
from tokens import CONTEXT, CONTROL, VOCABULARY

from ggsurgery.runtime.engine import Engine

TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def write(model: net.Network, tokenizer: dict[str, Any], out: Path) -> None:
    writer = GGUFWriter(out, "qwen3moe")
    writer.add_name("tiny-moe")
    writer.add_description("Sixteen experts trained on six domains; for tests")
    writer.add_license("mpl-2.0 AND PSF-2.0 AND PostgreSQL")
    writer.add_block_count(net.LAYERS)
    writer.add_context_length(2 * CONTEXT)
    writer.add_embedding_length(net.WIDTH)
    writer.add_feed_forward_length(net.CHANNELS)
    writer.add_expert_feed_forward_length(net.CHANNELS)
    writer.add_expert_count(net.EXPERTS)
    writer.add_expert_used_count(net.USED)
    writer.add_head_count(net.HEADS)
    writer.add_head_count_kv(net.KV_HEADS)
    writer.add_key_length(net.HEAD)
    writer.add_value_length(net.HEAD)
    writer.add_layer_norm_rms_eps(net.EPSILON)
    writer.add_rope_freq_base(net.THETA)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    add_vocabulary(writer, tokenizer)
    for name, value in model.state_dict().items():
        data = value.float().numpy()
        # Norms and the router stay in F32, as llama.cpp's own converter writes them.
        half = data.ndim > 1 and "ffn_gate_inp" not in name
        writer.add_tensor(f"{name}.weight", data.astype(np.float16) if half else data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: GGUFWriter, tokenizer: dict[str, Any]) -> None:
    bpe = tokenizer["model"]
    ids: dict[str, int] = bpe["vocab"]
    tokens = sorted(ids, key=ids.__getitem__)
    assert len(tokens) == VOCABULARY
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [TokenType.CONTROL if t in CONTROL else TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


@torch.no_grad()
def compare(model: net.Network, file: Path, text: str) -> tuple[int, float, float]:
    """Number of logits, their spread, and the largest difference of llama.cpp from PyTorch."""
    for name, value in model.named_parameters():
        if value.dim() > 1 and "ffn_gate_inp" not in name:
            value.copy_(value.half())
    with Engine.open(file, n_ctx=CONTEXT) as engine:
        ids = engine.tokenize(text)[:400]
        theirs = engine.decode(ids, logits="all")
    ours = model(torch.tensor([ids]))[0][0].numpy()
    return ours.size, float(ours.std()), float(np.abs(ours - theirs).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=60_000)
    args = parser.parse_args()
    model = net.Network()
    model.load_state_dict(torch.load(args.trained / "weights.pt", weights_only=True))
    tokenizer = json.loads((args.trained / "tokenizer.json").read_text(encoding="utf-8"))
    write(model, tokenizer, args.out)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")
    for domain in DOMAINS:
        text = (args.data / f"{domain}.heldout.txt").read_text(encoding="utf-8")
        excerpt = text[: args.characters].rsplit("\n", 1)[0] + "\n"
        args.out.with_name(f"heldout_{domain}.txt").write_text(excerpt, encoding="utf-8")
        count, spread, worst = compare(model, args.out, excerpt)
        print(
            f"{domain}: {count:,} logits of llama.cpp and PyTorch, largest difference {worst:.2e} "
            f"where their spread is {spread:.2f}"
        )


if __name__ == "__main__":
    main()
