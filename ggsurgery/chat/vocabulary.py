"""The parts of a GGUF's vocabulary that a chat needs: special tokens by id and text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import FormatError
from ..ggufio.constants import Keys, TokenType
from ..ggufio.types import Header

#: Pattern of special tokens: <|im_end|>, <｜User｜>, <end_of_turn>, </s>, <think>, [INST].
SPECIAL = re.compile(r"<[|｜][^\s<>|｜]+[|｜]>|</?[a-z_]+>|\[/?[A-Z_]{3,}\]")

_END_KEYS = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)
_FIM_KEYS = (Keys.Tokenizer.FIM_PRE_ID, Keys.Tokenizer.FIM_SUF_ID, Keys.Tokenizer.FIM_MID_ID)


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a GGUF file.

    `model` is llama.cpp's name of the tokenizer: `llama` (SentencePiece), `gpt2` (BPE) ….
    """

    header: Header
    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]

    @classmethod
    def find(cls, header: Header) -> Vocabulary | None:
        """Like `of`, but None for a file without a vocabulary (`no_vocab`)."""
        return cls.of(header) if Keys.Tokenizer.LIST in header.metadata else None

    @classmethod
    def of(cls, header: Header) -> Vocabulary:
        """Read the vocabulary out of a header.

        Raises:
            FormatError: the file has none, or its lists disagree.
        """
        tokens = header.get(Keys.Tokenizer.LIST)
        if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
            raise FormatError(
                "no vocabulary",
                file=header.path,
                tensor=Keys.Tokenizer.LIST,
                expected="an array of strings",
                found="nothing" if tokens is None else "another",
            )
        types = header.get(Keys.Tokenizer.TOKEN_TYPE) or [int(TokenType.NORMAL)] * len(tokens)
        if not isinstance(types, list) or len(types) != len(tokens):
            raise FormatError(
                "the vocabulary's lists differ in length",
                file=header.path,
                tensor=Keys.Tokenizer.TOKEN_TYPE,
                expected=len(tokens),
                found=len(types) if isinstance(types, list) else repr(types),
            )
        return cls(
            header,
            str(header.get(Keys.Tokenizer.MODEL, "")),
            str(header.get(Keys.Tokenizer.PRE, "")),
            tuple(tokens),
            tuple(types),
        )

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token text → id."""
        return {text: i for i, text in enumerate(self.tokens)}

    def is_special(self, text: str) -> bool:
        """Whether a text is a single token to the tokenizer."""
        i = self.ids.get(text)
        return i is not None and self.types[i] in (TokenType.CONTROL, TokenType.USER_DEFINED)

    def text(self, key: str) -> str | None:
        """The text of the token whose id a metadata key holds."""
        i: Any = self.header.get(key)
        if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < len(self.tokens):
            return self.tokens[i]
        return None

    @property
    def bos(self) -> str:
        """The text of the beginning-of-text token, empty if there is none."""
        return self.text(Keys.Tokenizer.BOS_ID) or ""

    @property
    def eos(self) -> str:
        """The text of the end-of-text token, empty if there is none."""
        return self.text(Keys.Tokenizer.EOS_ID) or ""

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself adds the beginning-of-text token."""
        # llama.cpp's default if the key is missing: SentencePiece and WordPiece add it
        return bool(self.header.get(Keys.Tokenizer.ADD_BOS, self.model in ("llama", "bert")))

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """The tokens that the header declares to end a turn: EOS, EOT, EOM."""
        found = (self.text(key) for key in _END_KEYS)
        return tuple(dict.fromkeys(t for t in found if t))

    @property
    def fill_in(self) -> tuple[str, str, str] | None:
        """The tokens around prefix, suffix and middle, if the header declares all three."""
        pre, suffix, middle = (self.text(key) for key in _FIM_KEYS)
        return (pre, suffix, middle) if pre and suffix and middle else None


def chat_template(header: Header, name: str | None = None) -> str | None:
    """The Jinja source in a header, None if there is none.

    Args:
        name: of a further template (`tool_use` …); None is the default one.
    """
    key = Keys.Tokenizer.CHAT_TEMPLATE
    found = header.get(key if name is None else f"{key}.{name}")
    return found if isinstance(found, str) else None


def template_names(header: Header) -> tuple[str, ...]:
    """The names of a header's further templates."""
    prefix = f"{Keys.Tokenizer.CHAT_TEMPLATE}."
    return tuple(k.removeprefix(prefix) for k in header.metadata if k.startswith(prefix))
