"""Shared parts of all surgery commands: their options, the dry run, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from ..errors import OutputError, printable
from ..files.atomic import check_output
from ..ggufio.changes import short
from ..ggufio.types import Value
from ..jobs import surgery as job
from ..jobs.request import Settings
from ..plan.recipe import PLAIN_STEPS, Step
from ..plan.text import format_layers
from ..plan.types import references
from ..present.numbers import human_bytes, human_count
from ..surgery.prepared import PreparedSurgery, Written
from ..surgery.provenance import PREFIX
from ._files import FILE
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import bytes_bar
from ._requests import request_options

if TYPE_CHECKING:
    from ..compensate.sidecar import Sidecar  # numpy, which a plain cut does not need

F = TypeVar("F", bound=Callable[..., Any])

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be done; write nothing."
)


@dataclass(frozen=True, slots=True)
class Surgery:
    """The options of a command that writes a model, besides the operation itself."""

    settings: job.WritingSettings | job.SurgerySettings
    dry_run: bool
    as_json: bool

    @property
    def force(self) -> bool:
        return self.settings.force

    def request(
        self, steps: Sequence[Step], files: Sequence[Path], out: Path
    ) -> job.SurgeryRequest:
        """A request for these steps with the given options."""
        operations = [one.to_json() for one in steps]
        return self.settings.extend(
            job.SurgeryRequest, files=tuple(files), out=out, operations=operations
        )


def surgery_options(
    *classes: type[Settings], also: tuple[str, ...] = (), skip: tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Add the options that all surgery commands share; the command receives `surgery: Surgery`.

    Args:
        classes: further requests of the command, which then receives `make: Maker` too.
        also: the options for computed tensors that the command has: `out_type` …
        skip: fields of the further requests that the command fills in itself.
    """
    hidden = {"out_type", "force_kinds"} - {*also}

    def add(function: F) -> F:
        @wraps(function)
        def wrapped(*, make: Any, dry_run: bool, as_json: bool, **values: Any) -> Any:
            surgery = Surgery(make(job.SurgerySettings), dry_run, as_json)
            values |= {"make": make} if classes else {}
            return function(surgery=surgery, **values)

        options = request_options(*classes, beside=(job.SurgerySettings,), skip=(*hidden, *skip))
        return cast(F, dry_run_option(json_option(options(wrapped))))

    return add


scale_tensors_option = click.option(
    "--scale-tensors",
    multiple=True,
    metavar="NAME,…=F",
    help="Multiply these tensors of the copies (weight and bias): attn_q,attn_k=0.7.",
)

#: Both names work for any list of layers; the first is the argument's.
LIST_NAMES = {
    "layer": ("layer", "--layer", "--layers"),
    "layers": ("layers", "--layers", "--layer"),
}


def list_option(name: str, metavar: str, help: str, *, required: bool = True) -> Callable[[F], F]:
    """An option for a list of layers; several lists are joined, in order.

    click's own rule, the last one wins, would silently drop the earlier layers.

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
    surgery: Surgery,
    steps: Sequence[Step],
    files: Sequence[Path],
    out: Path,
    *,
    given: Mapping[str, Any] | None = None,
    spared: Sequence[Path | None] = (),
    figures: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Apply steps: prepare, then show or write, and print a summary.

    Args:
        given: arrays that the steps refer to.
        spared: further files that the output must not replace.
        figures: results of the method that proposed the steps; they are added to the JSON.
    """
    others = [path for path in spared if path is not None]
    perform_surgery(surgery, surgery.request(steps, files, out), given, others, figures)


def perform_surgery(
    surgery: Surgery,
    request: job.SurgeryRequest,
    given: Mapping[str, Any] | None = None,
    spared: Sequence[Path] = (),
    figures: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """The same for a request, such as one of a recipe file."""
    out, others = Path(request.out), [*request.spared, *spared]
    if request.full_checksum:  # before computing a checksum over all bytes
        check_early([*map(Path, request.files)], out, surgery, spared=others)
    with request.prepare(given) as prepared:
        written = write(
            prepared,
            out,
            surgery,
            spared=others,
            dry_run=lambda: show(prepared, out, surgery, figures),
        )
        if written is not None:
            _tell(prepared, written, surgery, figures)


def check_early(
    inputs: Sequence[Path],
    out: Path,
    surgery: Surgery,
    *more: Path | None,
    spared: Sequence[Path] = (),
) -> None:
    """Check the outputs before long work; `more` are files written beside `out`."""
    if surgery.dry_run:
        return
    seen: set[Path] = set()
    for path in (out, *(p for p in more if p is not None)):
        check_output(path, [*inputs, *spared], force=surgery.force)
        if path.absolute() in seen:
            raise OutputError(
                "two outputs have the same name", file=path, hint="Name another file."
            )
        seen.add(path.absolute())


def save_arrays(
    surgery: Surgery, arrays: Sidecar, path: Path | None, inputs: Sequence[Path]
) -> None:
    """Write the arrays of a fit beside the model, if a path is given and this is no dry run."""
    if path is not None and not surgery.dry_run:
        arrays.save(path, inputs=inputs, force=surgery.force)


def write(
    prepared: PreparedSurgery,
    out: Path,
    surgery: Surgery,
    *,
    spared: Sequence[Path] = (),
    dry_run: Callable[[], object] | None = None,
) -> Written | None:
    """Print warnings and write the prepared surgery.

    Args:
        spared: further files that the output must not replace.
        dry_run: prints what would be written; None prints the layer map, counts and metadata.

    Returns:
        The written output; None after a dry run.
    """
    warn(*prepared.warnings)
    if surgery.dry_run:
        (dry_run or (lambda: show(prepared, out, surgery)))()
        return None
    written = job.write(surgery.settings, prepared, out, spared=spared, stages=stages)
    warn(*written.warnings)
    return written


@contextmanager
def stages(name: str, n_bytes: int) -> Iterator[Callable[[int], object]]:
    """A progress bar for each stage that takes over two seconds."""
    with bytes_bar(name, n_bytes) as bar:
        yield bar.update


def _tell(
    prepared: PreparedSurgery, written: Written, surgery: Surgery, figures: Mapping[str, Any]
) -> None:
    """Print a summary of the output."""
    facts, out = prepared.summary, written.path
    header_only = prepared.plan.stack == prepared.before.stack and all(
        s.operation in PLAIN_STEPS for s in prepared.recipe.steps
    )
    if surgery.as_json:
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
    texts = (f"{c.key} {_shown(c.before)} → {_shown(c.after)}" for c in found)
    return printable(", ".join(texts)) or "no entry changes"


def _shown(value: Value | None) -> str:
    return "–" if value is None else short(value, 40) or '""'


def warn_of_refusal(prepared: PreparedSurgery, out: Path, surgery: Surgery) -> list[str]:
    """Warn in a dry run if the real run would refuse this output. Returns the warnings."""
    inputs = [path for header in prepared.headers for path in header.paths]
    try:
        check_output(out, inputs, force=surgery.force, nbytes=prepared.layout.n_bytes)
    except OutputError as error:
        warn(f"without --dry-run this is refused: {error}")
        return [str(error)]
    return []


def show(
    prepared: PreparedSurgery,
    out: Path,
    surgery: Surgery,
    figures: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """The dry run: layer map, counts and changed metadata."""
    facts, altered = prepared.summary, prepared.changes
    refused = warn_of_refusal(prepared, out, surgery)
    if surgery.as_json:
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
