"""What all surgery commands share: their options, the dry run, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click

from ..errors import OutputError, printable
from ..files.atomic import check_output
from ..ggufio.changes import short
from ..ggufio.types import Value
from ..plan.recipe import PLAIN_STEPS, Recipe, Step
from ..plan.text import format_layers
from ..plan.types import references
from ..present.numbers import human_bytes, human_count
from ..surgery.prepare import prepare
from ..surgery.prepared import PreparedSurgery, Written
from ..surgery.provenance import PREFIX
from ._files import FILE, split_option
from ._output import echo, note, print_json, table, warn
from ._progress import bytes_bar

F = TypeVar("F", bound=Callable[..., Any])


_OPTIONS = (
    click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option("--force", is_flag=True, help="Replace an existing output."),
    click.option("--name", help="The new model's general.name."),
    click.option("--sync", is_flag=True, help="Wait until the data is on the disk."),
    split_option,
    click.option("--drop-mtp", is_flag=True, help="Leave out the layers behind the trunk (MTP)."),
    click.option(
        "--full-checksum",
        is_flag=True,
        help="Record the sha256 of the whole input (slower than the surgery).",
    ),
    click.option(
        "--allow-unknown-arch",
        is_flag=True,
        help="Operate on an architecture without a rule file; check the result well.",
    ),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of all surgery commands; `repair` and `replay` have the first five."""

    dry_run: bool
    as_json: bool
    force: bool
    sync: bool
    split_max_size: int | None
    name: str | None = None
    drop_mtp: bool = False
    full_checksum: bool = False
    allow_unknown_arch: bool = False

    def recipe(self, steps: tuple[Step, ...], **more: Any) -> Recipe:
        """A recipe of these steps with the options that change the bytes."""
        chosen = {
            "drop_mtp": self.drop_mtp or None,
            "full_checksum": self.full_checksum or None,
            "allow_unknown_arch": self.allow_unknown_arch or None,
            **more,
        }
        return Recipe(steps, self.name, tuple((k, v) for k, v in chosen.items() if v is not None))


def surgery_options(function: F) -> F:
    """Add the shared options; the command receives them as one `options: Options`."""

    @wraps(function)
    def wrapped(**values: Any) -> Any:
        shared = {name: values.pop(name) for name in Options.__dataclass_fields__}
        return function(options=Options(**shared), **values)

    command: Any = wrapped
    for option in reversed(_OPTIONS):
        command = option(command)
    return command  # type: ignore[no-any-return]


#: Both names work wherever a list of layers is taken; the first is the argument's.
LIST_NAMES = {
    "layer": ("layer", "--layer", "--layers"),
    "layers": ("layers", "--layers", "--layer"),
}


def list_option(name: str, metavar: str, help: str, *, required: bool = True) -> Callable[[F], F]:
    """A list of layers; several lists are joined, in their order.

    click's own rule, that the last one counts, would leave the first layers out in silence.

    Args:
        name: of the command's argument; `layer` and `layers` are accepted as either option.
    """
    return click.option(
        *LIST_NAMES.get(name, (name, f"--{name}")),
        required=required,
        multiple=True,
        metavar=metavar,
        help=help,
        callback=lambda _context, _option, values: ",".join(values) if values else None,
    )


def in_out(function: F) -> F:
    """The arguments IN and OUT."""
    function = click.argument("out", metavar="OUT", type=FILE)(function)
    return click.argument("source", metavar="IN", type=FILE)(function)


def operate(
    recipe: Recipe,
    inputs: Sequence[Path],
    out: Path,
    options: Options,
    given: Mapping[str, Any] | None = None,
    *,
    spared: Sequence[Path | None] = (),
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Prepare, then show or write, and say what was done.

    Args:
        given: arrays that the recipe names.
        spared: further files that the output must not replace.
        figures: of the method that proposed the recipe; they join the JSON.
    """
    others = [p for p in spared if p is not None]
    if options.full_checksum:  # before a checksum over all bytes
        check_early(inputs, out, options, spared=others)
    with prepare(recipe, inputs, given=given) as prepared:
        found = figures or {}
        written = write(
            prepared,
            out,
            options,
            spared=others,
            dry_run=lambda: show(prepared, out, options, found),
        )
        if written is not None:
            _tell(prepared, written, options, found)


def check_early(
    inputs: Sequence[Path],
    out: Path,
    options: Options,
    *more: Path | None,
    spared: Sequence[Path] = (),
) -> None:
    """Refuse outputs before long work for them; `more` are files written beside `out`."""
    if options.dry_run:
        return
    seen: set[Path] = set()
    for path in (out, *(p for p in more if p is not None)):
        check_output(path, [*inputs, *spared], force=options.force)
        if path.absolute() in seen:
            raise OutputError(
                "two outputs have the same name", file=path, hint="Name another file."
            )
        seen.add(path.absolute())


def write(
    prepared: PreparedSurgery,
    out: Path,
    options: Options,
    *,
    spared: Sequence[Path] = (),
    dry_run: Callable[[], object] | None = None,
) -> Written | None:
    """Warn, and write the prepared surgery.

    Args:
        spared: further files that the output must not replace.
        dry_run: shows what would be written; None shows the layer map, counts and metadata.

    Returns:
        What was written; None after a dry run.
    """
    warn(*prepared.warnings)
    if options.dry_run:
        (dry_run or (lambda: show(prepared, out, options)))()
        return None
    written = prepared.write(
        out,
        force=options.force,
        sync=options.sync,
        split_max_size=options.split_max_size,
        spared=spared,
        stages=stages,
    )
    warn(*written.warnings)
    return written


@contextmanager
def stages(name: str, n_bytes: int) -> Iterator[Callable[[int], object]]:
    """A progress bar for each stage that takes over two seconds."""
    with bytes_bar(name, n_bytes) as bar:
        yield bar.update


def _tell(
    prepared: PreparedSurgery, written: Written, options: Options, figures: Mapping[str, Any]
) -> None:
    """Say what was written."""
    facts, out = prepared.summary, written.path
    header_only = prepared.plan.stack == prepared.before.stack and all(
        s.operation in PLAIN_STEPS for s in prepared.recipe.steps
    )
    if options.as_json:
        more: dict[str, Any] = {"sparsity": written.sparsity} if written.zeros else {}
        if header_only:
            more |= {
                "metadata": [c.to_json() for c in prepared.changes],
                "dropped": prepared.dropped,
            }
        print_json(facts.to_json() | dict(figures) | {"out": str(out)} | more)
        return
    if header_only:
        which = "other tensors" if prepared.dropped else "weights"
        note(
            f"{out}: {_dropped(prepared.dropped)}{_entries(prepared)}; the {which} are those of "
            f"{prepared.names[0]}"
        )
        return
    note(
        f"{out}: layers {facts.layers[0]} → {facts.layers[1]}, parameters "
        f"{human_count(facts.parameters[0])} → {human_count(facts.parameters[1])}, "
        f"{human_bytes(facts.bytes[1])}"
    )
    if written.zeros:
        note(
            f"{written.sparsity:.2%} of the weights of {len(written.zeros)} pruned tensors are "
            "zero in the file"
        )


def _dropped(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return printable(f"{len(names)} tensor(s) dropped: {', '.join(names[:3])}{more}; ")


def _entries(prepared: PreparedSurgery) -> str:
    """The entries that a header edit changes: `general.license apache-2.0 → mit`."""
    found = [c for c in prepared.changes if not c.key.startswith(PREFIX)]
    texts = (f"{c.key} {_said(c.before)} → {_said(c.after)}" for c in found)
    return printable(", ".join(texts)) or "no entry changes"


def _said(value: Value | None) -> str:
    return "–" if value is None else short(value, 40) or '""'


def warn_of_refusal(prepared: PreparedSurgery, out: Path, options: Options) -> list[str]:
    """Of a dry run: that the output could not be written so. Returns what was said."""
    inputs = [path for header in prepared.headers for path in header.paths]
    try:
        check_output(out, inputs, force=options.force, nbytes=prepared.layout.n_bytes)
    except OutputError as error:
        warn(f"without --dry-run this is refused: {error}")
        return [str(error)]
    return []


def show(
    prepared: PreparedSurgery,
    out: Path,
    options: Options,
    figures: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """The dry run: layer map, counts and changed metadata."""
    facts, altered = prepared.summary, prepared.changes
    refused = warn_of_refusal(prepared, out, options)
    if options.as_json:
        found = facts.to_json() | dict(figures) | {"metadata": [c.to_json() for c in altered]}
        more = {"out": None} if figures else {}
        print_json(found | {"warnings": [*facts.warnings, *refused]} | more)
        return
    kinds = prepared.kinds
    rows = [(row["new"], row["from"], _kind(kinds, row["layer"])) for row in facts.layer_map]
    if rows:
        echo(table(_fold(rows), ("new layer", "from", "kind")))
    used = {r.index for b in prepared.plan.stack for r in references(b)}
    gone = sorted(set(range(prepared.before.n_layers)) - used)
    if gone:
        echo(f"\nleft out: {format_layers(gone)}")
    echo()
    echo(
        table(
            [
                ("layers", *facts.layers),
                ("parameters", *(f"{n:,}" for n in facts.parameters)),
                ("file size", *(human_bytes(n) for n in facts.bytes)),
            ],
            ("", "before", "after"),
        )
    )
    if facts.computed:
        types = ", ".join(f"{n} {kind}" for kind, n in facts.computed.items())
        echo(f"\ncomputed tensors: {types}; all others are copied")
    if prepared.dropped and not gone:
        echo(f"\n{_dropped(prepared.dropped).removesuffix('; ')}")
    echo()
    echo(table([c.row for c in altered], ("metadata", "before", "after")))
    note("dry run: nothing was written")


def _kind(kinds: tuple[Any, ...], layer: int) -> str:
    return str(kinds[layer].label) if layer < len(kinds) else ""


def _fold(rows: list[tuple[Any, str, str]]) -> list[tuple[str, str, str]]:
    """Runs of unmoved neighbours in one line: `0-9  0-9`."""
    folded: list[list[Any]] = []
    for new, origin, kind in rows:
        last = folded[-1] if folded else None
        plain = origin.isdigit()
        if (
            last is not None
            and plain
            and last[4]
            and int(origin) == last[3] + 1
            and last[5] == kind
        ):
            last[1], last[3] = new, int(origin)
        else:
            start = int(origin) if plain else origin
            folded.append([new, new, start, start, plain, kind])
    return [
        (str(a) if a == b else f"{a}-{b}", str(c) if c == d else f"{c}-{d}", kind)
        for a, b, c, d, _, kind in folded
    ]
