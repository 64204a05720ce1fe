"""What a chat template may cost, for both sides of the process that renders it."""

from __future__ import annotations

#: Seconds that a template may take: real ones take a millisecond.
SECONDS = 5
#: Address space of the process, bytes; Python and jinja2 take 40 MiB of it.
MEMORY = 2**29
#: Characters of a template: real ones have at most some 20,000.
TEMPLATE = 2**20
#: Characters of a prompt: so many for each byte of the conversation, and some more.
REPEATS, OVERHEAD, PROMPT = 16, 2**20, 2**24
#: Characters of an error message that the template wrote itself.
MESSAGE = 500
