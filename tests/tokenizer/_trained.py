"""A SentencePiece model like Gemma's, trained here, and the GGUF that llama.cpp would make of it.

Gemma's vocabulary has user-defined pieces for runs of spaces and line breaks, puts no space
in front of a text, and splits digits. The trained model itself is the oracle of the ids.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
from gguf.constants import TokenType

_TEXT = """the quick brown fox jumps over a lazy dog while two hundred naïve café owners count
съешь ещё этих мягких французских булок да выпей чаю def return lambda import self x y"""

#: Pieces as Gemma defines them: runs of spaces and of line breaks, tabs, tags with a space.
USER_DEFINED = (
    *("\u2581" * n for n in range(2, 9)),
    *("\n" * n for n in range(1, 6)),
    "\t",
    "<b>",
    "New\u2581York",
)


def trained(**options: Any) -> bytes:
    """A SentencePiece BPE model as the bytes of its `.model` file."""
    draw = random.Random(7)
    lines = [" ".join(draw.choices(_TEXT.split(), k=12)) for _ in range(400)]
    model = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 460,
        "character_coverage": 1.0,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": list(USER_DEFINED),
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **settings | options
    )
    return model.getvalue()


def converted(model: bytes, path: Path, *, more: Sequence[tuple[str, TokenType]] = ()) -> Path:
    """The model's vocabulary as convert_hf_to_gguf writes it: spaces of user-defined pieces plain.

    Args:
        more: further tokens and their types, behind the model's own.
    """
    made = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens, scores, types = [], [], []
    for i in range(made.vocab_size()):
        text, kind = made.id_to_piece(i), TokenType.NORMAL
        if made.is_unknown(i):
            kind = TokenType.UNKNOWN
        elif made.is_control(i):
            kind = TokenType.CONTROL
        elif made.is_byte(i):
            kind = TokenType.BYTE
        elif text in USER_DEFINED:
            kind, text = TokenType.USER_DEFINED, text.replace("\u2581", " ")
        tokens.append(text)
        scores.append(made.get_score(i))
        types.append(kind)
    for text, kind in more:
        tokens.append(text)
        scores.append(-1000.0)
        types.append(kind)
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_name("Small Gemma")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types([int(t) for t in types])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
