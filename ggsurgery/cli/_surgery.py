"""What all surgery commands share: their options, the dry run, and the run itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import OutputError, printable
from ..files.atomic import check_output
from ..ggufio.changes import Change, changes, short
from ..ggufio.reader import Source
from ..ggufio.types import Value
from ..pipeline import cautions
from ..plan.recipe import PLAIN_STEPS, Recipe, Step
from ..plan.text import format_layers
from ..plan.types import references
from ..present.numbers import human_bytes, human_count
from ..surgery.describe import layer_map
from ..surgery.layout import Compute
from ..surgery.prepare import Operation, prepare
from ..surgery.provenance import PREFIX
from ..surgery.write import unsettled_bytes
from ._files import FILE, split_option
from ._output import echo, note, print_json, table, warn
from ._progress import bytes_bar

if TYPE_CHECKING:
    from ..surgery.zeros import Zeros

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
    """The options of all surgery commands."""

    dry_run: bool
    as_json: bool
    force: bool
    name: str | None
    sync: bool
    split_max_size: int | None
    drop_mtp: bool
    full_checksum: bool
    allow_unknown_arch: bool

    @property
    def writing(self) -> dict[str, Any]:
        """How the output is written."""
        return {"force": self.force, "sync": self.sync, "split_max_size": self.split_max_size}

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

    def wrapped(**values: Any) -> Any:
        shared = {name: values.pop(name) for name in Options.__dataclass_fields__}
        return function(options=Options(**shared), **values)

    wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
    wrapped.__dict__.update(function.__dict__)
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
    read: Sequence[Path | None] = (),
) -> None:
    """Prepare, then show or write, and say what was done.

    Args:
        given: arrays that the recipe names.
        read: further files that were read, which the output must not replace either.
    """
    inputs_too = [*inputs, *(p for p in read if p is not None)]
    if not options.dry_run:
        check_output(out, inputs_too, force=options.force)  # before a checksum over all bytes
    with prepare(recipe, inputs, given=given) as operation:
        run(operation, out, options)


def run(operation: Operation, out: Path, options: Options) -> None:
    """Show the prepared operation (dry run) or write it."""
    warn(*cautions.of_operation(operation, out))
    if options.dry_run:
        show(operation, out, force=options.force, as_json=options.as_json)
        return
    out = write_with_bar(operation, out, **options.writing)
    facts, zeros = summary(operation), zeros_of(operation, out)
    warn(*cautions.of_sparsity(operation.recipe, zeros))
    header_only = operation.plan.stack == operation.before.stack and all(
        s.operation in PLAIN_STEPS for s in operation.recipe.steps
    )
    n_zero, n_weights = sum(z.n_zero for z in zeros), sum(z.n_weights for z in zeros)
    if options.as_json:
        more: dict[str, Any] = {"sparsity": n_zero / n_weights} if zeros else {}
        if header_only:
            more["metadata"] = [c.to_json() for c in changed(operation)]
            more["dropped"] = dropped_tensors(operation)
        print_json(facts | {"out": str(out)} | more)
        return
    if header_only:
        dropped = dropped_tensors(operation)
        which = "other tensors" if dropped else "weights"
        note(
            f"{out}: {_dropped(dropped)}{_entries(operation)}; the {which} are those of "
            f"{operation.names[0]}"
        )
        return
    note(
        f"{out}: layers {facts['layers'][0]} → {facts['layers'][1]}, parameters "
        f"{human_count(facts['parameters'][0])} → {human_count(facts['parameters'][1])}, "
        f"{human_bytes(facts['bytes'][1])}"
    )
    if zeros:
        share = n_zero / n_weights
        note(f"{share:.2%} of the weights of {len(zeros)} pruned tensors are zero in the file")


def zeros_of(operation: Operation, out: Path) -> list[Zeros]:
    """What a prune among the steps came to, counted in the file; empty where there is none."""
    if not operation.layout.computes:
        return []
    from ..surgery.zeros import masked, measure

    names = list(masked(operation.layout))
    if not names:
        return []
    with Source(out) as written:
        nbytes = sum(written.header.by_name[n].nbytes for n in names)
        with bytes_bar("counting zeros", nbytes) as bar:
            return measure(written, names, progress=bar.update)


def dropped_tensors(operation: Operation) -> list[str]:
    """The tensors of the input that the output does not have."""
    kept = {p.info.name for p in operation.layout.pieces}
    header = operation.headers[operation.plan.shell]
    return [t.name for t in header.tensors if t.name not in kept]


def _dropped(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return printable(f"{len(names)} tensor(s) dropped: {', '.join(names[:3])}{more}; ")


def _entries(operation: Operation) -> str:
    """The entries that a header edit changes: `general.license apache-2.0 → mit`."""
    found = [c for c in changed(operation) if not c.key.startswith(PREFIX)]
    texts = (f"{c.key} {_said(c.before)} → {_said(c.after)}" for c in found)
    return printable(", ".join(texts)) or "no entry changes"


def _said(value: Value | None) -> str:
    return "–" if value is None else short(value, 40) or '""'


def changed(operation: Operation) -> list[Change]:
    """The entries that differ from the input's."""
    header = operation.headers[operation.plan.shell]
    return changes(header.metadata, operation.layout.metadata)


def write_with_bar(
    operation: Operation, out: Path, *, force: bool, sync: bool, split_max_size: int | None
) -> Path:
    """Write with a progress bar that appears after two seconds; the first file written."""
    if nbytes := unsettled_bytes(operation.layout):
        with bytes_bar("threshold", nbytes) as bar:
            operation.settle(progress=bar.update)
    with bytes_bar(out.name, operation.layout.n_bytes) as bar:
        return operation.write(
            out, force=force, sync=sync, progress=bar.update, split_max_size=split_max_size
        )  # fmt: skip


def summary(operation: Operation) -> dict[str, Any]:
    """Counts before and after: layers, parameters (from shapes), bytes; computed tensors."""
    before = operation.headers[operation.plan.shell]
    computed = Counter(
        p.info.type_name for p in operation.layout.pieces if isinstance(p.job, Compute)
    )
    return {
        "operation": operation.recipe.describe(),
        "layers": [operation.before.n_layers, operation.plan.n_layers],
        "layer_map": layer_map(operation.plan),
        "parameters": [before.n_parameters, operation.layout.n_parameters],
        "bytes": [sum(before.file_size), operation.layout.n_bytes],
        "computed": dict(computed.most_common()),
        "digest": operation.plan.digest,
        "warnings": list(operation.layout.warnings),
    }


def warn_of_refusal(out: Path, inputs: Sequence[Path], nbytes: int, *, force: bool) -> list[str]:
    """Of a dry run: that the output could not be written so. Returns what was said."""
    try:
        check_output(out, inputs, force=force, nbytes=nbytes)
    except OutputError as error:
        warn(f"without --dry-run this is refused: {error}")
        return [str(error)]
    return []


def show(operation: Operation, out: Path, *, force: bool, as_json: bool) -> None:
    """The dry run: layer map, counts and changed metadata."""
    facts = summary(operation)
    paths = [path for header in operation.headers for path in header.paths]
    facts["warnings"] += warn_of_refusal(out, paths, operation.layout.n_bytes, force=force)
    altered = changed(operation)
    if as_json:
        print_json(facts | {"metadata": [c.to_json() for c in altered]})
        return
    kinds = operation.kinds()
    rows = [(row["new"], row["from"], _kind(kinds, row["layer"])) for row in facts["layer_map"]]
    if rows:
        echo(table(_fold(rows), ("new layer", "from", "kind")))
    used = {r.index for b in operation.plan.stack for r in references(b)}
    gone = sorted(set(range(operation.before.n_layers)) - used)
    if gone:
        echo(f"\nleft out: {format_layers(gone)}")
    echo()
    echo(
        table(
            [
                ("layers", *facts["layers"]),
                ("parameters", *(f"{n:,}" for n in facts["parameters"])),
                ("file size", *(human_bytes(n) for n in facts["bytes"])),
            ],
            ("", "before", "after"),
        )
    )
    if facts["computed"]:
        types = ", ".join(f"{n} {kind}" for kind, n in facts["computed"].items())
        echo(f"\ncomputed tensors: {types}; all others are copied")
    if dropped := dropped_tensors(operation) if not gone else []:
        echo(f"\n{_dropped(dropped).removesuffix('; ')}")
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
