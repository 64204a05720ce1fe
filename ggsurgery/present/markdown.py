"""Texts of other people's files in Markdown: none becomes a heading, a link or a tag.

A model's name, a token, a licence, an answer: `plain` makes running text of it, `code` a code
span. Markdown that was written here has the type `Markdown` and is not escaped again.
"""

from __future__ import annotations

import re

from ..errors import one_line

#: Characters that Markdown, its tables, mathematics and HTML read as markup inside a line; an
#: underscore within a word is none.
_MARKUP = re.compile(r"[\\`*~$&<>\[\]|#]|(?<![^\W_])_|_(?![^\W_])")
#: Text that opens a list, a rule or an underlined heading at the start of a line.
_OPENING = re.compile(r"[-+](?=\s|$)|[-=](?=[-=\s]*$)|(?<=\d)[.)](?=\s|$)")
_ADDRESS = re.compile(r"(?<=[A-Za-z]):(?=//)|(?<=www)\.", re.IGNORECASE)


class Markdown(str):
    """Markdown that was written here, with every foreign text in it escaped already."""

    __slots__ = ()


def plain(text: object) -> Markdown:
    r"""A text on one line that shows as it is, wherever it is put.

    Example:
        >>> print(plain("# <b>mine</b>"))
        \# \<b\>mine\</b\>
    """
    if isinstance(text, Markdown):
        return text
    flat = _MARKUP.sub(r"\\\g<0>", one_line(text))
    flat = _ADDRESS.sub(r"\\\g<0>", flat)
    number = re.match(r"\d{0,9}", flat)
    start = number.end() if number else 0
    opening = _OPENING.match(flat, start)
    if opening:
        flat = f"{flat[:start]}\\{flat[start:]}"
    return Markdown(flat)


def code(text: object) -> Markdown:
    """A text as a code span, even if it has backticks.

    Example:
        >>> print(code("a`b"))
        ``a`b``
    """
    flat = one_line(text)
    if not flat:
        return Markdown("–")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    room = " " if flat[0] == "`" or flat[-1] == "`" else ""
    return Markdown(f"{fence}{room}{flat}{room}{fence}")
