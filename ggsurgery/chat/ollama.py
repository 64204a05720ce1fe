"""Predict the capabilities that Ollama will report for a template.

Ollama does not run the template. It inspects the text (server/images.go, thinking/template.go):

    tools      a Go template names .Tools; a Jinja template has `tools` or `tool_call` in it
    insert     a Go template names .Suffix
    thinking   a Go template prints .Thinking within a range over .Messages, and the list of
               nodes around it begins and ends with text (the marks, `<think>`); a Jinja
               template has both `<think>` and `</think>` in it
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .render import TemplateError

_ACTION = re.compile(
    r"\{\{(-(?=\s))?((?:/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^\"`])*?)((?<=\s)-)?\}\}", re.DOTALL
)
_STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|`[^`]*`|/\*.*?\*/", re.DOTALL)
_FIELD = re.compile(r"(?<![\w$.)])\.([A-Za-z_]\w*)")
_NAME = re.compile(r"\.([A-Za-z_]\w*)")
_BLOCKS = ("if", "range", "with", "define", "block")


@dataclass(frozen=True)
class Capabilities:
    """A model's capabilities according to its template."""

    tools: bool = False
    thinking: bool = False
    insert: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """As `ollama show` lists them, after `completion`, which every model has."""
        pairs = (("tools", self.tools), ("thinking", self.thinking), ("insert", self.insert))
        return ("completion", *(name for name, has in pairs if has))


@dataclass
class _List:
    """A list of nodes: texts, actions, and blocks with lists of their own."""

    nodes: list[str | _Action | _Block] = field(default_factory=list)


@dataclass
class _Action:
    pipe: str


@dataclass
class _Block:
    kind: str
    pipe: str
    body: _List
    otherwise: _List


def parse(template: str) -> _List:
    """The tree of a Go template, limited to ranges, conditions and texts.

    Raises:
        TemplateError: blocks that do not nest.
    """
    root = _List()
    stack: list[tuple[_Block | None, _List]] = [(None, root)]
    for kind, content in _tokens(template):
        block, here = stack[-1]
        word = next(iter(content.split(None, 1)), "")
        if kind == "text":
            here.nodes.append(content)
        elif word in _BLOCKS:
            new = _Block(word, content[len(word) :], _List(), _List())
            here.nodes.append(new)
            stack.append((new, new.body))
        elif word == "else" and block is not None:
            stack[-1] = (block, block.otherwise)
            rest = content[4:].split(None, 1)
            if rest:  # {{ else if X }}: a block within, closed by the same {{ end }}
                nested = _Block(rest[0], rest[1] if len(rest) > 1 else "", _List(), _List())
                block.otherwise.nodes.append(nested)
                stack[-1] = (nested, nested.body)
        elif word == "end":
            if block is None:
                raise TemplateError("Go template: an {{ end }} without a beginning")
            stack.pop()
        else:
            here.nodes.append(_Action(content))
    if len(stack) > 1:
        opened = stack[-1][0]
        raise TemplateError(f"Go template: {{{{ {opened.kind if opened else ''} }}}} has no end")
    return root


def _tokens(template: str) -> list[tuple[str, str]]:
    """Texts and actions, without the white space that `{{-` and `-}}` trim."""
    tokens: list[tuple[str, str]] = []
    position, trim = 0, False
    for action in _ACTION.finditer(template):
        text = template[position : action.start()]
        text = text.lstrip() if trim else text
        text = text.rstrip() if action[1] else text
        if text:
            tokens.append(("text", text))
        content, trim = action[2].strip(), bool(action[3])
        if not content.startswith("/*"):
            tokens.append(("action", content))
        position = action.end()
    rest = template[position:].lstrip() if trim else template[position:]
    if rest:
        tokens.append(("text", rest))
    return tokens


def names(template: str) -> frozenset[str]:
    """The field names that a Go template uses anywhere."""
    actions = (_STRING.sub('""', c) for kind, c in _tokens(template) if kind == "action")
    return frozenset(name for content in actions for name in _NAME.findall(content))


def thinking_marks(template: str) -> tuple[str, str]:
    """The texts around `.Thinking` as Ollama infers them, empty if it finds none."""
    found = ["", ""]

    def see(pipe: str, around: _List, loop: str | None) -> None:
        if "Thinking" not in _fields(pipe) or loop is None or "Messages" not in _fields(loop):
            return
        first, last = around.nodes[0], around.nodes[-1]
        if isinstance(first, str):
            found[0] = first.strip()
        if isinstance(last, str):
            found[1] = last.strip()

    def walk(nodes: _List, loop: str | None) -> None:
        for node in nodes.nodes:
            if isinstance(node, _Action):
                see(node.pipe, nodes, loop)
            elif isinstance(node, _Block) and node.kind != "define":
                inner = node.pipe if node.kind == "range" else loop
                see(node.pipe, nodes, inner)
                walk(node.body, inner)
                walk(node.otherwise, inner)

    walk(parse(template), None)
    return found[0], found[1]


def _fields(pipe: str) -> set[str]:
    return set(_FIELD.findall(_STRING.sub('""', pipe)))


def of_go(template: str) -> Capabilities:
    """What Ollama reports for a Modelfile's TEMPLATE.

    Example:
        >>> of_go("{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}{{ end }}").names
        ('completion', 'insert')
    """
    used = {name.lower() for name in names(template)}
    return Capabilities("tools" in used, all(thinking_marks(template)), "suffix" in used)


def of_jinja(template: str) -> Capabilities:
    """What Ollama reports for a GGUF's own chat template if the Modelfile has none."""
    return Capabilities(
        "tools" in template or "tool_call" in template,
        "<think>" in template and "</think>" in template,
    )


def lost(jinja: str, go: str) -> tuple[str, ...]:
    """Capabilities that a GGUF's template has and a rewritten TEMPLATE lacks."""
    after = of_go(go).names
    return tuple(name for name in of_jinja(jinja).names if name not in after)
