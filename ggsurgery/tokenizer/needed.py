"""The tokens that a trimmed vocabulary always needs.

- tokens that are found in the raw text or added by rule: control, user-defined, unknown;
- tokens that an entry of the header names, and those that llama.cpp recognises by their text;
- bytes, and single characters where no bytes stand in for them, so that every text survives;
- what the chat template prints.

Reserved tokens (`<unused17>`) are not needed: no text and no template has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..chat.conversations import CONVERSATIONS
from ..chat.render import TemplateError
from ..chat.vocabulary import SPECIAL, Vocabulary, chat_template, template_names
from ..ggufio.constants import Keys, TokenType
from ..surgery.trim_vocab import id_entries, id_lists
from .bpe import byte_alphabet
from .spm import SPACE

#: Tokens that llama.cpp finds by their text and that `SPECIAL` does not match.
_BY_TEXT = frozenset(
    (
        *("<EOT>", "_<EOT>", "[EOT]", "[e~[", "<turn|>", "<|tool_response>", "[PAD]", "<PAD>"),
        *("<PRE>", "\u2581<PRE>", "<SUF>", "\u2581<SUF>", "<MID>", "\u2581<MID>", "<REPO>"),
        *("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>", "<fim-repo>"),
    )
)
_RESERVED = re.compile(r"unused|reserved|^<extra_id_|^\[PAD\d+\]$|^<dummy", re.IGNORECASE)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LITERAL = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_JINJA = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.DOTALL)

#: Ids of a text, special tokens in it read as tokens.
Tokenize = Callable[[str], list[int]]


def needed(vocabulary: Vocabulary, tokenize: Tokenize) -> frozenset[int]:
    """The tokens that must stay; `removal` adds what they are made of."""
    found = {*by_kind(vocabulary), *id_entries(vocabulary.header).values(), *tokenize("\n")}
    for ids in id_lists(vocabulary.header).values():
        found |= {i for i in ids if 0 <= i < len(vocabulary.tokens)}
    for text in template_texts(vocabulary):
        found |= set(tokenize(text))
    return frozenset(found)


def by_kind(vocabulary: Vocabulary) -> Iterator[int]:
    """Tokens that must stay by their type or their text."""
    alphabet = frozenset(byte_alphabet().values())
    bytes_ = {t for t in vocabulary.tokens if _BYTE.fullmatch(t)}
    # t5: llama.cpp encodes a character without a token as unknown, even if byte tokens exist
    characters = vocabulary.model == "t5" or len(bytes_) < 256
    for i, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        special = kind in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
        if (
            (special and not reserved(text, kind))
            or kind == TokenType.BYTE
            or text in bytes_
            or text in _BY_TEXT
            or text == SPACE
            or SPECIAL.fullmatch(text)
            or (len(text) == 1 and (characters or text in alphabet))
        ):
            yield i
    if vocabulary.model == "t5":
        yield from _rarest(vocabulary)


def reserved(text: str, kind: int) -> bool:
    """Whether a special token is a place that training left free."""
    return kind != TokenType.USER_DEFINED and _RESERVED.search(text) is not None


def _rarest(vocabulary: Vocabulary) -> Iterator[int]:
    """A token with the lowest score: llama.cpp derives the cost of unknown characters from it."""
    scores = vocabulary.header.get(Keys.Tokenizer.SCORES)
    normal = [i for i, kind in enumerate(vocabulary.types) if kind == TokenType.NORMAL]
    if isinstance(scores, list) and len(scores) == len(vocabulary.tokens) and normal:
        yield min(normal, key=scores.__getitem__)


def template_texts(vocabulary: Vocabulary) -> Iterator[str]:
    """The output of a file's chat templates: trial conversations, and texts in their source."""
    header = vocabulary.header
    for name in (None, *template_names(header)):
        template = chat_template(header, name)
        if template is None:
            continue
        for conversation in CONVERSATIONS:
            try:
                yield conversation.render(
                    template, bos_token=vocabulary.bos, eos_token=vocabulary.eos
                )
            except TemplateError:
                continue  # a template need not take every conversation
        yield from filter(None, _JINJA.split(template))
        for match in _LITERAL.finditer(template):
            text = match[1] if match[1] is not None else match[2]
            yield text.replace("\\n", "\n").replace("\\t", "\t").replace("\\'", "'")
