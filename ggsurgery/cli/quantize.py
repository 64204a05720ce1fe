"""quantize: convert to other file types through llama.cpp, one or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ..jobs.quantize import Quantized, QuantizePlan, QuantizeRequest
from ..present.numbers import human_bytes
from ..runtime.quantize_plan import QuantizeResult
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import named_progress_bar
from ._requests import flags_of, request_options, warn_of


@click.command()
@request_options(QuantizeRequest, arguments=("file", "out"))
@click.option("--dry-run", is_flag=True, help="Show types and sizes; write nothing.")
@json_option
def quantize(request: QuantizeRequest, dry_run: bool, as_json: bool) -> None:
    """Quantize a file: the same bytes as llama-quantize of the same version writes.

    Sizes are known before the first byte is written. Tensors whose rows do not fit the wanted
    type's blocks are listed with the type used instead.

    \b
    Example:
      ggsurgery quantize in-F16.gguf out.gguf --type Q4_K_M
      ggsurgery quantize in-F16.gguf --types Q8_0,Q6_K,Q4_K_M,Q3_K_M,Q2_K --out-dir ladder
      ggsurgery quantize in-F16.gguf --type Q2_K --dry-run
      ggsurgery quantize in.gguf out.gguf --type Q4_K_M --tensor-type 'ffn_down=q6_k'
      ggsurgery quantize cut.gguf out.gguf --type Q4_K_M --pin uncut.gguf
      ggsurgery quantize in-F16.gguf out.gguf --target-size 1.2GiB --text calibration.txt
    """
    if request.out is None and not request.types and not dry_run:
        raise click.UsageError("OUT is missing.")
    if not dry_run:
        warn_of(request, request.check())
    with named_progress_bar("step") as progress:
        planned = request.plan(progress)
    note(*map(flags_of(QuantizeRequest), planned.notes))
    _show_decision(planned)
    warn(*planned.warnings)
    if dry_run:
        found = planned.without_writing()
    else:
        with named_progress_bar("tensor") as progress:
            found = planned.make(progress)
    if as_json:
        print_json(_json(request, found))
        return
    echo(_sizes(found.results, found.source_bytes))
    note(*found.notes)
    warn(*found.warnings)
    if dry_run:
        total = human_bytes(planned.bytes_to_write)
        note(f"dry run: nothing was written; a run writes {total}")


def _show_decision(planned: QuantizePlan) -> None:
    """The sensitivities that decided the types."""
    if planned.decision is None or not planned.decision.sensitivities:
        return
    rows = [
        (s.group, len(s.tensors), f"{s.kl:.5f}", f"{s.value:.4f}")
        for s in sorted(planned.decision.sensitivities, key=lambda s: -s.value)
    ]
    note(table(rows, ("group", "tensors", "KL of its probe", "sensitivity")))


def _json(request: QuantizeRequest, found: Quantized) -> Any:
    """A list for several types, else the single result with the sensitivities that decided it."""
    if request.types:
        return [r.to_json() for r in found.results]
    (result,) = found.results
    document = result.to_json() | {"source": str(found.source)}
    if (decision := found.decision) is None:
        return document
    ranked = sorted(decision.sensitivities, key=lambda s: -s.value)
    return document | {
        "why": decision.why,
        "sensitivities": {s.group: s.value for s in ranked},
        "compared": [{"file": n, "bytes": b, "kl_mean": k} for n, b, k in decision.compared],
    }


def _sizes(results: Sequence[QuantizeResult], n_bytes: int) -> str:
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
