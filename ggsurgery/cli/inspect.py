"""inspect and diff: describe a file, and compare two."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from ..ggufio.header import read_header
from ..ggufio.reader import Source
from ..ggufio.types import Header
from ..inspect.difference import Difference, LayerOrigin, compare
from ..inspect.summary import Summary, summarize
from ..plan.text import format_layers
from ..present.numbers import human_bytes, human_count
from ._files import FILE
from ._output import echo, json_option, print_json, table


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option(
    "--ctx", type=click.IntRange(1), metavar="N", help="Context length to compute memory for."
)
@json_option
def inspect(file: Path, tensors: bool, ctx: int | None, as_json: bool) -> None:
    """Show what a file is: layers with their kinds, parameters, types, memory to run.

    \b
    Example:
      ggsurgery inspect model.gguf
      ggsurgery inspect --ctx 32768 --json model.gguf
    """
    header = read_header(file)
    facts = summarize(header, ctx)
    if as_json:
        rows = [asdict(t) | {"type_name": t.type_name} for t in header.tensors]
        print_json(facts.to_json() | ({"tensors": rows} if tensors else {}))
        return
    echo(_facts(facts))
    if facts.rows:
        echo()
        echo(_layer_table(facts))
    if tensors:
        echo()
        echo(_tensor_table(header))


def _facts(s: Summary) -> str:
    split = f", {s.shards} shards" if s.shards > 1 else ""
    order = ", big endian" if s.byte_order == "big" else ""
    tail = f" (the last {s.tail} MTP)" if s.tail else ""
    unknown = "" if s.known else " (no rule file: only plain operations are allowed)"
    types = ", ".join(f"{n} {human_bytes(b)}" for n, b in s.types.items())
    lines = [
        ("file", f"{s.file} (GGUF v{s.version}{order}{split})"),
        ("name", s.name or "–"),
        *([] if s.layered else [("purpose", s.purpose)]),
        ("architecture", (s.architecture or "–") + (unknown if s.layered else "")),
        *([("layers", f"{s.layers}{tail}")] if s.layered else []),
        (
            "parameters",
            f"{s.parameters:,} ({human_count(s.parameters)})"
            + (f", {s.parameters_in_layers:,} in layers" if s.layered else ""),
        ),
        ("tensor data", f"{human_bytes(s.bytes)}, {s.bits_per_weight:.2f} bits per weight"),
        ("types", types),
    ]
    if s.layered:
        lines += _use(s)
    return table(lines)


def _use(s: Summary) -> list[tuple[str, str]]:
    """The memory needed to run the model."""
    return [
        ("embedding", f"{s.embedding or '–'}, vocabulary {s.vocabulary or '–'}"),
        ("context", f"trained {s.context_trained or '–'}"),
        (
            "memory to run",
            f"{human_bytes(s.bytes + s.kv_bytes)} at {s.context} tokens "
            f"(weights + {human_bytes(s.kv_bytes)} f16 cache; "
            "compute buffers come on top)",
        ),
    ]


def _layer_table(s: Summary) -> str:
    """Equal neighbours share a line."""
    runs: list[list[int]] = []
    for row in s.rows:
        last = s.rows[runs[-1][-1]] if runs else None
        if last is not None and (last.kind, last.parameters, last.bytes, last.types) == (
            row.kind,
            row.parameters,
            row.bytes,
            row.types,
        ):
            runs[-1].append(row.layer)
        else:
            runs.append([row.layer])
    return table(
        [
            (format_layers(run), r.kind, f"{r.parameters:,}", human_bytes(r.bytes), r.types)
            for run in runs
            for r in (s.rows[run[0]],)
        ],
        ("layer", "kind", "parameters each", "size each", "types"),
    )


def _tensor_table(header: Header) -> str:
    return table(
        [
            (t.name, "×".join(map(str, t.shape)), t.type_name, f"{t.nbytes:,}")
            for t in header.tensors
        ],
        ("tensor", "shape", "type", "bytes"),
    )


@click.command()
@click.argument("a", metavar="A", type=FILE)
@click.argument("b", metavar="B", type=FILE)
@json_option
def diff(a: Path, b: Path, as_json: bool) -> None:
    """Compare two files by content: metadata, tensors, and which layer became which.

    Exit code 1 if they differ.

    \b
    Example:
      ggsurgery diff in.gguf out.gguf
    """
    with Source(a) as one, Source(b) as other:
        found = compare(one, other)
    if as_json:
        print_json(found.to_json())
    elif found.same:
        echo("same metadata, same tensors")
    else:
        echo(_difference(found))
    if not found.same:
        sys.exit(1)


def _difference(found: Difference) -> str:
    parts = []
    if found.metadata:
        parts.append(table([c.row for c in found.metadata], ("metadata", "A", "B")))
    moved = [o for o in found.layers if o.layer not in o.same_as]
    if moved:
        parts.append(table(_runs(moved), ("layer of B", "same bytes as layer of A")))
    outside = [t for t in found.tensors if not (moved and t.name.startswith("blk."))]
    if outside:
        parts.append(
            table(
                [(t.name, t.what, t.before, t.after) for t in outside],
                ("tensor", "difference", "A", "B"),
            )
        )
    return "\n\n".join(parts)


def _runs(moved: list[LayerOrigin]) -> list[tuple[str, str]]:
    """Neighbours that moved together share a line: `10-28` from `11-29`."""
    runs: list[list[LayerOrigin]] = []
    for origin in moved:
        last = runs[-1][-1] if runs else None
        together = (
            last is not None
            and len(origin.same_as) == len(last.same_as) == 1
            and origin.layer == last.layer + 1
            and origin.same_as[0] == last.same_as[0] + 1
        )
        if together:
            runs[-1].append(origin)
        else:
            runs.append([origin])
    return [
        (
            format_layers([o.layer for o in run]),
            format_layers([n for o in run for n in o.same_as]) or "none (new values)",
        )
        for run in runs
    ]
