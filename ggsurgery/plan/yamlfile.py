"""Read an untrusted YAML file: its size is bounded before any value is constructed.

A few hundred bytes of aliases to aliases ("billion laughs") expand to more values than fit into
memory, and a number of a million digits takes minutes to parse. So the events of the parser are
counted first, an alias as all values it expands to; then the tree is composed once, keys are
checked, and the values are constructed from the same tree.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import FormatError
from ..files.text import MAX_SMALL, read_text

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML without libyaml: twenty times slower
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

#: Maximum number of values of a document, including those that aliases expand to.
MAX_NODES = 50_000
#: Lists and mappings within each other.
MAX_DEPTH = 50
#: Characters of a number, a date or a truth value.
MAX_PLAIN = 100


def load(path: str | Path) -> tuple[Any, yaml.Node | None]:
    """A YAML document (JSON is YAML too): its values, and the tree with their lines.

    Raises:
        FormatError: the file cannot be read, is longer than 1 MiB, is not YAML, nests too deep,
            has too many values, or names a key twice.
    """
    return parse(read_text(path, MAX_SMALL), path)


def parse(source: str, path: str | Path) -> tuple[Any, yaml.Node | None]:
    """The same for a text; `path` is named in errors."""
    try:
        _count(source, path)
        loader = _Loader(source)
        try:
            tree = loader.get_single_node()
            if tree is None:
                return None, None
            for node in _walk(tree, set()):
                _check_node(node, path)
            return loader.construct_document(tree), tree
        finally:
            loader.dispose()
    except RecursionError as error:
        raise FormatError(f"no valid YAML: {error}", file=path) from None
    # PyYAML's constructors stumble over `!!int ""`, `!!bool maybe`, `!!timestamp never`
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise FormatError(f"no valid YAML: {str(error)[:300]}", file=path) from None


class _Loader(_SafeLoader):
    """Leaves the tree as it was written where a merge key (`<<`) adds to a mapping."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        node.value = list(node.value)
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        written = node.value
        try:
            return super().construct_mapping(node, deep=deep)
        finally:
            node.value = written


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come: its anchor, values before it, levels in it."""

    anchor: str | None
    before: int
    levels: int = 0


def _count(source: str, path: str | Path) -> None:
    """Refuse a document that expands to too many values, by the parser's events."""
    opened: list[_Open] = []
    anchors: dict[str | None, tuple[int, int]] = {}  # values and levels behind each
    count = 0
    for event in yaml.parse(source, Loader=_SafeLoader):
        values, levels = 1, 0
        anchor = getattr(event, "anchor", None)
        line = 1 + (event.start_mark.line if event.start_mark else 0)
        if isinstance(event, yaml.AliasEvent):
            if any(one.anchor == anchor for one in opened):
                raise FormatError(f"line {line}: *{anchor} holds itself", file=path)
            values, levels = anchors.get(anchor, (1, 0))
        elif isinstance(event, yaml.ScalarEvent):
            anchors[anchor] = (1, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append(_Open(anchor, count))
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = opened.pop()
            values, levels = 0, ended.levels + 1
            anchors[ended.anchor] = (count - ended.before, levels)
        else:
            continue
        count += values
        if count > MAX_NODES:
            raise FormatError(
                f"line {line}: too many values, including those from aliases",
                file=path,
                expected=f"at most {MAX_NODES:,}",
            )
        if len(opened) + levels > MAX_DEPTH:
            raise FormatError(
                f"line {line}: nested too deep", file=path, expected=f"at most {MAX_DEPTH} levels"
            )
        if opened:
            opened[-1].levels = max(opened[-1].levels, levels)


def _walk(node: yaml.Node, seen: set[int]) -> Iterator[yaml.Node]:
    """Every node of a tree once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            for below in item if isinstance(item, tuple) else (item,):
                yield from _walk(below, seen)


def _check_node(node: yaml.Node, path: str | Path) -> None:
    """Refuse long numbers, and keys named twice: the reader lets the last win in silence."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag != "tag:yaml.org,2002:str" and len(node.value) > MAX_PLAIN:
            raise FormatError(
                f"line {node.start_mark.line + 1}: a value of {len(node.value):,} characters "
                "that is not a text",
                file=path,
                expected=f"at most {MAX_PLAIN}",
                hint="Put a text into quotes.",
            )
    elif isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    line = key.start_mark.line + 1
                    raise FormatError(f"line {line}: duplicate key {key.value!r}", file=path)
                names.add(key.value)
