"""quantize: other file types through llama.cpp, one or a ladder of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..files.atomic import check_output
from ..files.text import read_corpus
from ..ggufio.header import read_header
from ..jobs import cautions
from ..present.numbers import human_bytes
from ..quantize.ladder import Ladder, ladder
from ..quantize.like import like as like_mix
from ..quantize.like import with_pins
from ..quantize.remap import matching
from ..quantize.split import make_split
from ..quantize.target import budget_of, for_size, parse_size
from ..runtime.quantize import Planned, plan
from ..runtime.quantize_plan import QuantizeResult, requantized_warning
from ._files import FILE, split_option
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import named_progress_bar, progress_bar
from ._texts import parse_special_option, text_option, threads_option


@click.command()
@click.argument("source", metavar="IN", type=FILE)
@click.argument("out", metavar="[OUT]", required=False, type=FILE)
@click.option("--type", "ftype", metavar="TYPE", help="One file type: Q4_K_M, Q8_0, IQ3_M …")
@click.option("--types", metavar="A,B,…", help="Several, into --out-dir.")
@click.option("--out-dir", type=FILE, help="Folder for --types; files are NAME-TYPE.gguf.")
@click.option("--imatrix", type=FILE, help="Importance matrix of this model.")
@click.option(
    "--imatrix-of",
    type=click.Choice(["base", "this"]),
    help="Of what the matrix is, where neither it nor its layers tell: IN, or its uncut model.",
)
@click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="REGEX=TYPE",
    help="Tensors whose name matches get this type; the first match counts.",
)
@click.option("--like", type=FILE, metavar="OTHER", help="The mix of another file.")
@click.option(
    "--pin",
    type=FILE,
    metavar="UNCUT",
    help="Types as the uncut model would have had them; IN's header tells what was cut.",
)
@click.option("--target-size", metavar="SIZE", help="At most so large: 1.2GiB, 900MB …")
@click.option(
    "--target-bpw",
    type=click.FloatRange(0, 32, min_open=True),
    metavar="BITS",
    help="At most so many bits per weight.",
)
@text_option("With a target: measure sensitivities on this text and mix types per tensor.")
@parse_special_option
@click.option("--pure", is_flag=True, help="Every tensor in the base type, no mix.")
@click.option("--leave-output", is_flag=True, help="Leave output.weight as it is.")
@threads_option
@click.option("--dry-run", is_flag=True, help="Show types and sizes; write nothing.")
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@split_option
@json_option
def quantize(
    source: Path,
    out: Path | None,
    ftype: str | None,
    types: str | None,
    out_dir: Path | None,
    like: Path | None,
    pin: Path | None,
    target_size: str | None,
    target_bpw: float | None,
    text: Path | None,
    parse_special: bool,
    dry_run: bool,
    force: bool,
    split_max_size: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Quantize a file: the same bytes as llama-quantize of the same version writes.

    Sizes are known before the first byte is written. Tensors whose rows the wanted type
    cannot divide are listed with what they became.

    \b
    Example:
      ggsurgery quantize in-F16.gguf out.gguf --type Q4_K_M
      ggsurgery quantize in-F16.gguf --types Q8_0,Q6_K,Q4_K_M,Q3_K_M,Q2_K --out-dir ladder
      ggsurgery quantize in-F16.gguf --type Q2_K --dry-run
      ggsurgery quantize in.gguf out.gguf --type Q4_K_M --tensor-type 'ffn_down=q6_k'
      ggsurgery quantize cut.gguf out.gguf --type Q4_K_M --pin uncut.gguf
      ggsurgery quantize in-F16.gguf out.gguf --target-size 1.2GiB --text calibration.txt
    """
    options["n_threads"] = options.pop("threads")
    options["allow_requantize"] = True  # allowed, and said aloud below
    if pin is not None and ftype is None and types is None:
        raise click.UsageError("--pin goes with --type or --types.")
    ways = [ftype, types, like, target_size, target_bpw]
    if sum(w is not None for w in ways) != 1:
        raise click.UsageError(
            "Give one of --type T, --types A,B,… with --out-dir, --like OTHER, "
            "--target-size SIZE, --target-bpw BITS."
        )
    target = target_size is not None or target_bpw is not None
    if text is not None and not target:
        raise click.UsageError("--text goes with --target-size or --target-bpw.")
    if parse_special and text is None:
        raise click.UsageError("--parse-special goes with --text.")
    if types is not None:
        if out_dir is None or out is not None:
            raise click.UsageError("--types needs --out-dir and no OUT.")
        if split_max_size is not None:
            raise click.UsageError("--split-max-size goes with one type and OUT.")
        names = [t.strip() for t in types.split(",") if t.strip()]
        if not names:
            raise click.UsageError("--types names no type")
        _follow(source, options)
        _ladder(ladder(source, names, out_dir, pin=pin, **options), dry_run, force, as_json)
        return
    if out_dir is not None:
        raise click.UsageError("--out-dir goes with --types.")
    if out is None and not dry_run:
        raise click.UsageError("OUT is missing.")
    if out is not None and not dry_run:  # refused before the probes of a target, not after them
        others = filter(None, [options["imatrix"], like, pin, text])
        check_output(out, (*read_header(source).paths, *others), force=force)
    _follow(source, options)
    more: dict[str, Any] = {}
    if target:
        budget = _budget(source, target_size, target_bpw)
        options["parse_special"] = parse_special
        planned, more = _target(source, budget, text, out, options)
    else:
        if like is not None:
            ftype, found, words = like_mix(source, like)
            note(f"taking {words}")
            options["tensor_types"] = [*options["tensor_types"], *found]
        elif pin is not None and ftype is not None:
            options = with_pins(source, pin, ftype, options)
            note(f"types pinned to those of {pin.name}")
        (planned,) = plan(source, [str(ftype)], **options)
    _one(planned, out, dry_run, force, as_json, more, split_max_size)


def _follow(source: Path, options: dict[str, Any]) -> None:
    """Read the importance matrix, its entries behind the layers of the source."""
    path, of = options["imatrix"], options.pop("imatrix_of")
    if path is None:
        if of is not None:
            raise click.UsageError("--imatrix-of goes with --imatrix.")
        return
    options["imatrix"], said = matching(path, source, of)
    if said is not None:
        note(f"{path}: {said}; a matrix collected on {source.name} is better")


def _budget(source: Path, size: str | None, bpw: float | None) -> int:
    if size is not None:
        return parse_size(size)
    if bpw is None or not math.isfinite(bpw):  # NaN is in every range
        raise click.BadParameter(f"{bpw} is no number of bits", param_hint="--target-bpw")
    return budget_of(source, bpw)


def _target(
    source: Path, budget: int, text: Path | None, out: Path | None, options: dict[str, Any]
) -> tuple[Planned, dict[str, Any]]:
    if options.pop("tensor_types") or options.pop("pure") or options.pop("leave_output"):
        raise click.UsageError("A target decides the types itself: no --tensor-type, --pure …")
    if text is None:
        note("no --text: picking by size alone; with a text types are mixed by sensitivity")
    with named_progress_bar("step") as progress:
        decision = for_size(
            source,
            budget,
            text=None if text is None else read_corpus(text),
            folder=None if out is None else out.parent,
            progress=progress,
            **options,
        )
    note(f"picked: {decision.why}")
    rows = sorted(decision.sensitivities, key=lambda s: -s.value)
    if rows:
        note(
            table(
                [(s.group, len(s.tensors), f"{s.kl:.5f}", f"{s.value:.4f}") for s in rows],
                ("group", "tensors", "KL of its probe", "sensitivity"),
            )
        )
    more = {
        "why": decision.why,
        "sensitivities": {s.group: s.value for s in rows},
        "compared": [{"file": n, "bytes": b, "kl_mean": k} for n, b, k in decision.compared],
    }
    return decision.planned, more


def _one(
    planned: Planned,
    out: Path | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
    more: dict[str, Any],
    split_max_size: int | None,
) -> None:
    _requantized(planned.result)
    if dry_run or out is None:
        result = planned.result
    else:
        with progress_bar(out.name, "tensor") as progress:
            if split_max_size is None:
                result = planned.make(out, force=force, progress=progress)
            else:
                result = make_split(planned, out, split_max_size, force=force, progress=progress)
    if as_json:
        print_json(result.to_json() | {"source": str(planned.header.path)} | more)
        return
    echo(_sizes([result], planned.header.n_bytes))
    _details(result)
    if dry_run:
        note("dry run: nothing was written")


def _ladder(found: Ladder, dry_run: bool, force: bool, as_json: bool) -> None:
    most = max((r.result for r in found.rungs), key=lambda r: r.requantized)
    _requantized(most)
    if dry_run:
        results = [r.result for r in found.rungs]
    else:
        there = [r.path.name for r in found.rungs if r.there]
        if there and not force:
            note(f"there and whole, not made again: {', '.join(there)}")
        with named_progress_bar("tensor") as progress:
            results = list(found.make(force=force, progress=progress))
    if as_json:
        print_json([r.to_json() for r in results])
        return
    echo(_sizes(results, found.rungs[0].planned.header.n_bytes))
    for result in results:
        _details(result)
    if dry_run:
        note(f"dry run: nothing was written; {human_bytes(found.bytes_to_write)} would be")


def _sizes(results: list[QuantizeResult], n_bytes: int) -> str:
    rows = [
        (
            r.ftype,
            "–" if r.path is None else str(r.path),
            human_bytes(r.n_bytes),
            f"{r.n_bytes:,}",
            f"{r.bpw:.3f}",
            f"{sum(t.nbytes for t in r.tensors) / n_bytes:.3f}",
            len(r.fallbacks),
        )
        for r in results
    ]
    return table(rows, ("type", "file", "size", "bytes", "bits per weight", "ratio", "fell back"))


def _details(result: QuantizeResult) -> None:
    note(*cautions.of_fallbacks(result))
    warn(*cautions.of_lacking_entries(result))
    if result.folded_scales:
        note(
            f"{result.ftype}: {result.folded_scales} separate scales are multiplied into "
            "their weights"
        )


def _requantized(result: QuantizeResult) -> None:
    if text := requantized_warning(result, str(result.src)):
        warn(text)
