"""Remove tokens from a model: rows of its tensors, and every entry that counts or names tokens.

Source: what llama.cpp's loader reads by token id (src/llama-vocab.cpp, src/llama-arch.cpp,
0c1e570). Rows are copied as bytes, whatever the type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..errors import ArchitectureError, PlanError, printable
from ..ggufio.constants import GGUFValueType, Keys
from ..ggufio.types import Header, Value, block_size, tensor_nbytes
from ..tensors.expr import Slice
from ..tensors.parts import counts_tokens
from .layout import Compute, Copy, Piece, Pieces, lay_out
from .vocab_map import VocabMap

#: Tokenizers (`tokenizer.ggml.model`) that can be trimmed, and what the others are.
TRIMMED = ("gpt2", "gemma4", "llama", "t5")
_OTHERS = {
    "bert": "WordPiece matches the longest known piece, so other words would change",
    "rwkv": "RWKV matches the longest known token, so other words would change",
    "plamo2": "its tables are built over the whole vocabulary",
    "hybriddna": "its k-mers are found by their place in the vocabulary",
    "whitespace": "words that it lacks have no pieces",
    "no_vocab": "the file has no vocabulary",
    "none": "the file has no vocabulary",
}
#: Ids that llama.cpp takes where the entry is missing (llama_vocab::impl::load).
DEFAULTS: dict[str, dict[str, int]] = {
    "gpt2": {Keys.Tokenizer.BOS_ID: 11, Keys.Tokenizer.EOS_ID: 11},
    "gemma4": {},
    "llama": {Keys.Tokenizer.BOS_ID: 1, Keys.Tokenizer.EOS_ID: 2, Keys.Tokenizer.UNK_ID: 0},
    "t5": {Keys.Tokenizer.EOS_ID: 1, Keys.Tokenizer.UNK_ID: 2, Keys.Tokenizer.PAD_ID: 0},
}
SUPPRESSED = "tokenizer.ggml.suppress_tokens"
_ID = re.compile(r"(?:.*[._])?token_ids?(_[a-z]+)?", re.DOTALL)
#: Arrays of one entry a token.
_LISTS = (Keys.Tokenizer.LIST, Keys.Tokenizer.SCORES, Keys.Tokenizer.TOKEN_TYPE)
#: Arrays that may have as many entries as tokens by chance.
_OTHER_LISTS = (Keys.Tokenizer.MERGES, Keys.Tokenizer.PRECOMPILED_CHARSMAP, SUPPRESSED)
#: Copies of the vocabulary in another form, which llama.cpp does not read.
_COPIES = (Keys.Tokenizer.HF_JSON, Keys.Tokenizer.RWKV)
#: Architectures whose tokens belong to another model.
_DRAFTS = ("dflash", "eagle3")


def check_trimmable(header: Header) -> int:
    """The number of tokens of a model whose vocabulary can be trimmed.

    Raises:
        ArchitectureError: its tokenizer, its architecture, or a list or tensor of it
            cannot follow.
    """
    model = str(header.get(Keys.Tokenizer.MODEL, "none"))
    if model not in TRIMMED:
        reason = _OTHERS.get(model, "it is unknown here")
        raise ArchitectureError(
            f"the tokenizer {model} cannot be trimmed: {reason}",
            file=header.path,
            tensor=Keys.Tokenizer.MODEL,
            expected=", ".join(TRIMMED),
            found=model,
        )
    if header.architecture in _DRAFTS:
        raise ArchitectureError(
            f"the vocabulary of {header.architecture} cannot be trimmed: its tokens are those "
            "of the model that it drafts for",
            file=header.path,
        )
    tokens = header.metadata.get(Keys.Tokenizer.LIST)
    count = 0 if tokens is None else len(tokens)
    merges = header.metadata.get(Keys.Tokenizer.MERGES)
    if model in ("gpt2", "gemma4") and (merges is None or merges.item_type != GGUFValueType.STRING):
        raise ArchitectureError(
            "a BPE vocabulary without merges cannot be trimmed",
            file=header.path,
            tensor=Keys.Tokenizer.MERGES,
            expected="an array of strings",
            found="none" if merges is None else "another type",
        )
    for key, value in header.metadata.items():
        is_list = value.type == GGUFValueType.ARRAY and len(value) == count
        known = key in (*_LISTS, *_OTHER_LISTS) or _ID.fullmatch(key)
        if is_list and count > 1 and not known:
            raise ArchitectureError(
                "an unknown list has one entry a token",
                file=header.path,
                tensor=key,
                found=f"{count} entries",
                hint=f"Remove it first: ggsurgery meta unset {printable(key)} IN OUT",
            )
    for tensor in header.tensors:
        if counts_tokens(tensor.name) and tensor.shape[-1] != count:
            raise ArchitectureError(
                "the tensor does not have one row a token",
                file=header.path,
                tensor=tensor.name,
                expected=f"{count} along its last axis",
                found=list(tensor.shape),
            )
        if tensor.name in ("d2t", "t2d"):
            raise ArchitectureError(
                "the vocabulary cannot be trimmed: the tensor maps it to another one",
                file=header.path,
                tensor=tensor.name,
            )
    return count


def id_entries(header: Header) -> dict[str, int]:
    """The entries that name one token each: key → id; defaults of llama.cpp included."""
    found = dict(DEFAULTS.get(str(header.get(Keys.Tokenizer.MODEL)), {}))
    count = len(header.metadata.get(Keys.Tokenizer.LIST, b""))
    for key, value in header.metadata.items():
        if _ID.fullmatch(key) and value.type not in (GGUFValueType.ARRAY, GGUFValueType.STRING):
            found[key] = value.value
    return {k: i for k, i in found.items() if type(i) is int and 0 <= i < count}


def id_lists(header: Header) -> dict[str, list[int]]:
    """The arrays of token ids but the suppressed ones: key → ids."""
    arrays = {
        key: value.value
        for key, value in header.metadata.items()
        if _ID.fullmatch(key) and value.type == GGUFValueType.ARRAY
    }
    return {k: v for k, v in arrays.items() if v and all(type(i) is int for i in v)}


def rewrite(header: Header, kept: VocabMap) -> tuple[dict[str, Value], tuple[str, ...]]:
    """The entries of the trimmed model that change, and those that leave.

    Raises:
        ArchitectureError: the vocabulary cannot be trimmed.
        PlanError: a map of another vocabulary, or without a token that an entry names.
    """
    count = check_trimmable(header)
    if kept.before != count:
        raise PlanError(
            "the map is of another vocabulary",
            file=header.path,
            expected=f"{count} tokens",
            found=f"{kept.before} tokens",
        )
    _check_recognized(header, count, kept.after)
    changed: dict[str, Value] = {}
    for key in _LISTS:
        if key in header.metadata:
            changed[key] = _array(header, key, _entries(header, key, kept))
    texts = header.get(Keys.Tokenizer.LIST)
    if Keys.Tokenizer.MERGES in header.metadata:
        merges = list(_merges(header, texts, kept))
        changed[Keys.Tokenizer.MERGES] = _array(header, Keys.Tokenizer.MERGES, merges)
    for key, token in id_entries(header).items():
        if token not in kept.new_ids:
            raise PlanError(
                f"the map lacks token {token} ({texts[token]!r}), which {key} names",
                file=header.path,
            )
        old = header.metadata.get(key)
        if old is not None:
            changed[key] = Value.of(kept.new_ids[token], old.type, order=header.order)
        elif kept.new_ids[token] != token:  # llama.cpp's default is another token now
            value = Value.of(kept.new_ids[token], GGUFValueType.UINT32, order=header.order)
            changed[key] = value
    for key, ids in id_lists(header).items():
        missing = [i for i in ids if 0 <= i < count and i not in kept.new_ids]
        if missing:
            raise PlanError(
                f"the map lacks token {missing[0]} ({texts[missing[0]]!r}), which {key} names",
                file=header.path,
            )
        changed[key] = _array(header, key, [kept.new_ids.get(i, i) for i in ids])
    if SUPPRESSED in header.metadata:
        ids = header.get(SUPPRESSED)
        new = [kept.new_ids[i] for i in ids if i in kept.new_ids]
        changed[SUPPRESSED] = _array(header, SUPPRESSED, new)
    size = f"{header.architecture}.vocab_size"
    if size in header.metadata:
        kind = header.metadata[size].type
        changed[size] = Value.of(kept.after, kind, order=header.order)
    return changed, tuple(key for key in _COPIES if key in header.metadata)


def trimmed(pieces: Pieces, kept: VocabMap) -> Pieces:
    """The tensors with the rows of the tokens that stay."""
    from ..tensors.to_expr import runs

    ranges = runs(kept.old_ids)
    return replace(pieces, items=tuple(_trimmed(p, ranges, kept.after) for p in pieces.items))


def _trimmed(piece: Piece, ranges: tuple[tuple[int, int], ...], after: int) -> Piece:
    info = piece.info
    if not counts_tokens(info.name):
        return piece
    if block_size(info.type) is None:
        raise ArchitectureError("rows of this type cannot be copied", tensor=info.name)
    shape = (*info.shape[:-1], after)
    nbytes = tensor_nbytes(shape, info.type)
    assert nbytes is not None
    new = replace(info, shape=shape, nbytes=nbytes)
    if isinstance(piece.job, Compute):
        return Piece(new, Compute(Slice(piece.job.expr, len(shape) - 1, ranges)))
    assert piece.job.parts is None  # experts and tokens never share an axis
    return Piece(new, Copy(piece.job.source, piece.job.tensor, ranges))


def alive_merges(
    merges: list[str], tokens: Mapping[str, int], kept: Mapping[int, int]
) -> Iterator[str]:
    """The merges whose parts and result stay. A text that never was a token may be a step."""

    def stays(text: str) -> bool:
        token = tokens.get(text)
        return token is None or token in kept

    for merge in merges:
        place = merge.find(" ", 1)
        first, second = merge[:place], merge[place + 1 :]
        if place > 0 and stays(first) and stays(second) and stays(first + second):
            yield merge


def _merges(header: Header, texts: list[str], kept: VocabMap) -> Iterator[str]:
    tokens = {text: i for i, text in enumerate(texts)}
    return alive_merges(header.get(Keys.Tokenizer.MERGES), tokens, kept.new_ids)


def _entries(header: Header, key: str, kept: VocabMap) -> list[object]:
    values = header.get(key)
    if not isinstance(values, list) or len(values) != kept.before:
        raise ArchitectureError(
            "the vocabulary's lists differ in length",
            file=header.path,
            tensor=key,
            expected=kept.before,
            found=len(values) if isinstance(values, list) else "no list",
        )
    return [values[i] for i in kept.old_ids]


def _array(header: Header, key: str, values: list[object] | list[str] | list[int]) -> Value:
    item = header.metadata[key].item_type
    return Value.of(values, GGUFValueType.ARRAY, item, header.order)


def _check_recognized(header: Header, before: int, after: int) -> None:
    """llama.cpp recognises some models by their vocabulary size (src/models/deepseek2.cpp)."""
    if header.architecture != "deepseek2":
        return
    for depths, size in (((48,), 128256), ((47, 48), 154880)):
        if header.n_layers in depths and size in (before, after):
            raise ArchitectureError(
                f"llama.cpp recognizes deepseek2 models of {header.n_layers} layers by {size} "
                "tokens, and would read this one as another",
                file=header.path,
                expected=f"another size than {size}, before and after",
                found=f"{before} → {after} tokens",
            )


def vocabulary_bytes(header: Header, kept: VocabMap) -> bytes:
    """The trimmed vocabulary as a GGUF file without tensors, which llama.cpp can tokenize with.

    Raises:
        ArchitectureError, PlanError: as from `rewrite`.
    """
    changed, gone = rewrite(header, kept)
    entries = {k: v for k, v in (header.metadata | changed).items() if k not in gone}
    return lay_out(Pieces(()), entries, [header]).header
