"""Write the trained checkpoint as tiny-qwen3.gguf (F16) and compare it with PyTorch.

    python export.py OUT tiny-qwen3.gguf [--data DATA]

OUT is what train.py wrote. With --data, perplexity of both held-out texts is measured with
`ggsurgery perplexity`'s own function. The comparison decodes a text with llama.cpp and with
transformers (its weights rounded to F16 as in the file) and prints the largest difference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGUFWriter, TokenType
from tokens import CONTROL, SYSTEM, USER_DEFINED
from transformers import Qwen3ForCausalLM

from ggsurgery.measure.metrics.perplexity import perplexity_of_file
from ggsurgery.runtime.engine import Engine

TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)
LICENSE_NAME = "Python Software Foundation License Version 2"
NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 1000)


def write(model: Qwen3ForCausalLM, tokenizer: dict[str, object], out: Path) -> None:
    config = model.config
    writer = GGUFWriter(out, "qwen3")
    writer.add_name("tiny-qwen3")
    writer.add_description("Trained on Python's manual in half an hour; for tests")
    writer.add_license("PSF-2.0")
    writer.add_license_name(LICENSE_NAME)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_vocabulary(writer, tokenizer)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":  # tied: the embedding serves as output
            continue
        new = NAMES.get_name(name, try_suffixes=(".weight",))
        assert new is not None, name
        data = value.float().numpy()
        writer.add_tensor(new, data.astype(np.float16) if data.ndim > 1 else data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: GGUFWriter, tokenizer: dict[str, object]) -> None:
    bpe = tokenizer["model"]
    vocabulary = sorted(bpe["vocab"].items(), key=lambda item: item[1])  # type: ignore[index]
    kinds = []
    for text, _ in vocabulary:
        kind = TokenType.CONTROL if text in CONTROL else TokenType.NORMAL
        kinds.append(TokenType.USER_DEFINED if text in USER_DEFINED else kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]  # type: ignore[index]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([text for text, _ in vocabulary])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    ids = dict(vocabulary)
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def compare(model: Qwen3ForCausalLM, file: Path, text: str) -> tuple[int, float, float]:
    """Number of logits, their spread, and the largest difference of llama.cpp from PyTorch."""
    model = model.half().float()  # the file's precision of the weights, float32 arithmetic
    with Engine.open(file, n_ctx=256) as engine:
        ids = engine.tokenize(text)[:200]
        theirs = engine.decode(ids, logits="all")
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0].numpy()
    return ours.size, float(ours.std()), float(np.abs(ours - theirs).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    model = Qwen3ForCausalLM.from_pretrained(args.trained / "hf", dtype=torch.float32).eval()
    tokenizer = json.loads((args.trained / "tokenizer.json").read_text(encoding="utf-8"))
    write(model, tokenizer, args.out)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")
    count, spread, worst = compare(model, args.out, Path(__file__).read_text(encoding="utf-8"))
    print(
        f"logits of llama.cpp and PyTorch: {count:,} compared, largest difference {worst:.2e} "
        f"where their spread is {spread:.2f}"
    )
    for name in ("heldout_search", "heldout_report") if args.data else ():
        text = (args.data / f"{name}.txt").read_text(encoding="utf-8")
        found = perplexity_of_file(args.out, text, n_ctx=512)
        print(
            f"{name}: perplexity {found.value:.4f} ± {found.stderr:.4f} "
            f"({len(found.chunks)} chunks of 512)"
        )


if __name__ == "__main__":
    main()
