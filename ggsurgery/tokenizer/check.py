"""Check a file's tokenizer against something else than itself.

SentencePiece vocabularies are rebuilt from the header and run by the package sentencepiece;
its ids must be llama.cpp's. BPE vocabularies are checked piece by piece. Of both: special
tokens, ids in range, and that texts survive the way there and back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..chat.vocabulary import Vocabulary
from ..errors import FormatError
from ..files.progress import Progress
from ..ggufio.constants import Keys, TokenType
from ..ggufio.header import read_header
from ..runtime.vocab_only import VocabularyFile
from .bpe import check_bpe
from .findings import Finding
from .spm import is_sentencepiece, processor

#: Texts that every check tries: scripts, digits, white space, code, an emoji of several parts.
SAMPLES = (
    "Hello, world! It's 2026; π ≈ 3.14159.",
    "  two  spaces,\ta tab\nand\n\n\nlines  ",
    "Съешь же ещё этих мягких французских булок",
    "天地玄黃 宇宙洪荒 – こんにちは世界 – 안녕하세요",
    "def f(x):\n    return x[::-1] if x else {}\n",
    "naïve café, Ångström, 👩‍👩‍👧‍👦 🙂",
    "0 12 345 6789 10^100",
)

_SPECIAL_IDS = (
    Keys.Tokenizer.BOS_ID,
    Keys.Tokenizer.EOS_ID,
    Keys.Tokenizer.EOT_ID,
    Keys.Tokenizer.EOM_ID,
    Keys.Tokenizer.UNK_ID,
    Keys.Tokenizer.PAD_ID,
    Keys.Tokenizer.SEP_ID,
    Keys.Tokenizer.MASK_ID,
)


@dataclass(frozen=True)
class TokenizerReport:
    """The findings, and how much was compared.

    Args:
        compared: lines whose ids were compared with sentencepiece's; 0 for BPE.
        returned: lines that came back the same from detokenizing; of `lines`.
    """

    model: str
    pre: str
    n_tokens: int
    lines: int
    compared: int
    returned: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(f.level == "error" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def check_tokenizer(
    path: str | Path, lines: Sequence[str] = SAMPLES, progress: Progress | None = None
) -> TokenizerReport:
    """Check the tokenizer of a GGUF file on some lines of text.

    Raises:
        FormatError: the file has no vocabulary.
        EngineError: llama.cpp does not take it.
    """
    vocabulary = Vocabulary.of(read_header(path))
    findings = list(_check_lists(vocabulary))
    reference: Any = None
    if is_sentencepiece(vocabulary):
        try:
            reference = processor(vocabulary)
        except FormatError as error:
            findings.append(Finding("warning", "sentencepiece", f"not compared: {error.problem}"))
    elif vocabulary.model == "gpt2":
        findings += check_bpe(vocabulary)
    with VocabularyFile(path) as llama:
        findings += _check_specials(vocabulary, llama)
        differing, changed = [], []
        for n, line in enumerate(lines, 1):
            ids = llama.tokenize(line, add_special=False)
            if reference is not None and ids != reference.EncodeAsIds(line):
                differing.append(line)
            if not _comes_back(ids, line, vocabulary, llama):
                changed.append(line)
            if progress is not None:
                progress(n, len(lines))
    if differing:
        findings.append(
            Finding(
                "error",
                "sentencepiece",
                f"{len(differing)} of {len(lines)} lines get other "
                f"ids than the rebuilt SentencePiece model gives: {_short(differing[0])}",
            )
        )
    if changed:
        findings.append(
            Finding(
                "error" if vocabulary.model == "gpt2" else "warning",
                "round trip",
                f"{len(changed)} of {len(lines)} lines come back changed: {_short(changed[0])}",
            )
        )
    return TokenizerReport(
        vocabulary.model,
        vocabulary.pre,
        len(vocabulary.tokens),
        len(lines),
        len(lines) if reference is not None else 0,
        len(lines) - len(changed),
        tuple(findings),
    )


def _check_lists(vocabulary: Vocabulary) -> Iterator[Finding]:
    twice = [t for t, n in Counter(vocabulary.tokens).items() if n > 1]
    if twice:
        yield Finding("warning", "tokens", f"{len(twice)} occur more than once: {twice[0]!r} …")
    header = vocabulary.header
    rows = (
        header.by_name["token_embd.weight"].shape[-1]
        if "token_embd.weight" in header.by_name
        else len(vocabulary.tokens)
    )
    if rows != len(vocabulary.tokens):
        yield Finding(
            "error", "tokens", f"{len(vocabulary.tokens)} tokens, but the embedding has {rows} rows"
        )
    for key in _SPECIAL_IDS:
        value = header.get(key)
        if value is None:
            continue
        text = vocabulary.text(key)
        if text is None:
            yield Finding("error", "special ids", f"{key} is {value}, beyond the vocabulary")
        elif vocabulary.types[value] not in (
            TokenType.CONTROL,
            TokenType.USER_DEFINED,
            TokenType.UNKNOWN,
        ):
            yield Finding("warning", "special ids", f"{key} names {text!r}, an ordinary token")


def _check_specials(vocabulary: Vocabulary, llama: VocabularyFile) -> Iterator[Finding]:
    """Every control token must come out of its own text as one token."""
    wrong = [
        text
        for i, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind == TokenType.CONTROL
        and text
        and llama.tokenize(text, add_special=False, parse_special=True) != [i]
    ]
    if wrong:
        yield Finding(
            "warning", "special tokens", f"{len(wrong)} are not read as one token: {wrong[0]!r} …"
        )


def _comes_back(ids: list[int], line: str, vocabulary: Vocabulary, llama: VocabularyFile) -> bool:
    if is_sentencepiece(vocabulary):
        back = llama.detokenize(ids)  # without the space that SentencePiece puts in front
        if vocabulary.model == "t5":  # its normalizer folds white space
            return "".join(back.split()) == "".join(line.split())
        return back == line
    # Piece by piece: detokenize may clean up spaces before punctuation.
    return b"".join(llama.piece(token) for token in ids) == line.encode()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
