"""Rebuild a SentencePiece model from a GGUF header.

A GGUF keeps the pieces, their scores and types, and a few switches of the normalizer; from
them the original `.model` file follows, a protocol buffer (sentencepiece_model.proto):

    ModelProto      1 pieces*  2 trainer_spec  3 normalizer_spec
    SentencePiece   1 piece    2 score (float) 3 type
    TrainerSpec     3 model_type (1 unigram, 2 BPE)  35 byte_fallback  40…43 unk bos eos pad
    NormalizerSpec  1 name  2 precompiled_charsmap  3 add_dummy_prefix
                    4 remove_extra_whitespaces  5 escape_whitespaces

The package sentencepiece needs no protobuf to load it, and a few fields need none to write.

llama.cpp's converter writes the spaces of a user-defined piece as plain spaces, because
llama.cpp finds such pieces in the raw text; SentencePiece has U+2581 for them.
"""

from __future__ import annotations

import struct
from typing import Any

from ..chat.vocabulary import Vocabulary
from ..errors import FormatError
from ..ggufio.constants import Keys, TokenType

#: SentencePiece's character for a space.
SPACE = "\u2581"

#: `tokenizer.ggml.model` → SentencePiece's model type.
MODELS = {"llama": 2, "t5": 1}


def is_sentencepiece(vocabulary: Vocabulary) -> bool:
    """Whether a vocabulary came from SentencePiece (`llama`: BPE, `t5`: unigram)."""
    return vocabulary.model in MODELS


def model_bytes(vocabulary: Vocabulary) -> bytes:
    """The `.model` file equivalent to a header's vocabulary.

    Raises:
        FormatError: no SentencePiece vocabulary, or the scores are missing.
    """
    header = vocabulary.header
    if not is_sentencepiece(vocabulary):
        raise FormatError(
            "no SentencePiece vocabulary",
            file=header.path,
            tensor=Keys.Tokenizer.MODEL,
            expected=" or ".join(MODELS),
            found=vocabulary.model,
        )
    scores = header.get(Keys.Tokenizer.SCORES)
    if not isinstance(scores, list) or len(scores) != len(vocabulary.tokens):
        raise FormatError(
            "a SentencePiece vocabulary needs a score for every piece",
            file=header.path,
            tensor=Keys.Tokenizer.SCORES,
            expected=len(vocabulary.tokens),
            found="none" if scores is None else len(scores),
        )
    pieces = (
        _field(1, _field(1, _bytes(_piece(text, kind))) + _float(2, score) + _number(3, kind))
        for text, score, kind in zip(vocabulary.tokens, scores, _types(vocabulary), strict=True)
    )
    return b"".join((*pieces, _field(2, _trainer(vocabulary)), _field(3, _normalizer(vocabulary))))


def processor(vocabulary: Vocabulary) -> Any:
    """A `sentencepiece.SentencePieceProcessor` of a header's vocabulary.

    Raises:
        FormatError: sentencepiece does not take it.
    """
    import sentencepiece

    found = sentencepiece.SentencePieceProcessor()
    try:
        found.LoadFromSerializedProto(model_bytes(vocabulary))
    except RuntimeError as error:
        raise FormatError(
            f"sentencepiece refuses this vocabulary: {error}",
            file=vocabulary.header.path,
            tensor=Keys.Tokenizer.LIST,
        ) from None
    return found


def _piece(text: str, kind: int) -> str:
    """The piece as SentencePiece spells it."""
    return text.replace(" ", SPACE) if kind == TokenType.USER_DEFINED else text


def _types(vocabulary: Vocabulary) -> list[int]:
    """The pieces' types with exactly one unknown piece, as sentencepiece demands it.

    Converters mark padding rows as unknown too; those are unused pieces.
    """
    unknown = vocabulary.header.get(Keys.Tokenizer.UNK_ID)
    types = [int(t) for t in vocabulary.types]
    if not isinstance(unknown, int) or not 0 <= unknown < len(types):
        unknown = types.index(TokenType.UNKNOWN) if TokenType.UNKNOWN in types else 0
    types = [int(TokenType.UNUSED) if t == TokenType.UNKNOWN else t for t in types]
    types[unknown] = int(TokenType.UNKNOWN)
    return types


def _trainer(vocabulary: Vocabulary) -> bytes:
    header = vocabulary.header
    has_bytes = TokenType.BYTE in vocabulary.types
    ids = (
        (40, Keys.Tokenizer.UNK_ID),
        (41, Keys.Tokenizer.BOS_ID),
        (42, Keys.Tokenizer.EOS_ID),
        (43, Keys.Tokenizer.PAD_ID),
    )
    parts = [_number(3, MODELS[vocabulary.model]), _number(35, int(has_bytes))]
    for number, key in ids:
        found = header.get(key)
        # -1: the model has no such piece; written as proto's 64-bit two's complement
        parts.append(_number(number, found if isinstance(found, int) else -1))
    return b"".join(parts)


def _normalizer(vocabulary: Vocabulary) -> bytes:
    header = vocabulary.header
    charsmap = header.get(Keys.Tokenizer.PRECOMPILED_CHARSMAP)
    name = b"identity" if not charsmap else b"user_defined"
    parts = [_field(1, name)]
    if charsmap:
        parts.append(_field(2, bytes(b & 0xFF for b in charsmap)))
    parts.append(_number(3, int(bool(header.get(Keys.Tokenizer.ADD_PREFIX, True)))))
    parts.append(_number(4, int(bool(header.get(Keys.Tokenizer.REMOVE_EXTRA_WS, False)))))
    parts.append(_number(5, 1))
    return b"".join(parts)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data
