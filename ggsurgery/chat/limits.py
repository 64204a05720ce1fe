"""Limits on a chat template, used by both sides of the rendering process."""

from __future__ import annotations

#: Time limit of a template, in seconds: real templates take a millisecond.
SECONDS = 5
#: Address space of the process in bytes; Python and jinja2 use 40 MiB of it.
MEMORY = 2**29
#: Maximum length of a template in characters: real templates have at most about 20,000.
TEMPLATE = 2**20
#: Maximum length of a prompt: characters per byte of the conversation, plus a constant.
REPEATS, OVERHEAD, PROMPT = 16, 2**20, 2**24
#: Maximum length of an error message that comes from the template, in characters.
MESSAGE = 500
