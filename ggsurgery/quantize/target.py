"""Hit a size: pick a file type that fits, or mix types by measured sensitivity.

Without a text the largest standard type that fits is taken. With one, every tensor gets its
own type: expected loss = sensitivity of its group × relative error of its own weights, least
in sum for the bytes. The mix is then measured against the standard type that fits best, and
whichever diverges less from the source wins: a mix that does not help is not used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..files import temporary
from ..files.progress import NamedProgress
from ..ggufio.header import read_header
from ..ggufio.imatrix import Imatrix, read_imatrix
from ..ggufio.reader import Source
from ..ggufio.types import tensor_nbytes, type_id
from ..ggufio.writer import padded
from ..runtime import imatrix_need
from ..runtime.quantize import Planned, plan
from ..runtime.quantize_plan import ALIGNMENT, QuantizedTensor
from ..runtime.weight_error import relative_errors
from .like import Patterns, patterns
from .mix import Choice, choose
from .sensitivity import DEPTH_BELOW, Sensitivity, base_predictions, divergence, group_of, probe

#: Standard types from large to small that need no importance matrix.
STANDARD = (
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q4_K_M",
    "Q4_K_S",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "IQ3_M",
    "IQ3_S",
    "Q3_K_S",
    "Q2_K",
)

#: Types that a tensor may take in a mix, for rows that 256 divides and for others.
WIDE = ("q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0")
NARROW = ("q4_0", "iq4_nl", "q5_0", "q5_1", "q8_0")


@dataclass(frozen=True)
class Decision:
    """The choice and the reason for it.

    Attributes:
        planned: ready to be made; tensor_types: the mix, empty for a standard type.
        why: a sentence for the user.
        sensitivities: of the groups, if a text was given.
        compared: (label, bytes, mean KL in nats) of the files that were measured.
    """

    planned: Planned
    tensor_types: Patterns
    why: str
    sensitivities: tuple[Sensitivity, ...] = ()
    compared: tuple[tuple[str, int, float], ...] = ()


def for_size(
    src: str | Path,
    budget: int,
    *,
    text: str | None = None,
    n_ctx: int = 512,
    n_chunks: int = 4,
    parse_special: bool = False,
    folder: str | Path | None = None,
    progress: NamedProgress | None = None,
    **options: Any,
) -> Decision:
    """Decide how `src` becomes a file of at most `budget` bytes.

    Args:
        text: a text to measure sensitivities on; None picks a standard type by size alone.
        n_ctx, n_chunks: how much of the text each measurement takes.
        parse_special: read special tokens in the text as the tokens they name.
        folder: where probe files are made, one at a time, each at most of Q8_0's size.
        progress: called with (what, done, total).
        options: `imatrix`, `allow_requantize`, `n_threads` as of `runtime.quantize.plan`.

    Raises:
        EngineError: even the smallest type is larger; the message gives the size needed.
    """
    src = Path(src)
    names = STANDARD + (imatrix_need.FILE_TYPES if options.get("imatrix") else ())
    every = plan(src, names, **options)
    fitting = [p for p in every if p.result.n_bytes <= budget]
    smallest = min(every, key=lambda p: p.result.n_bytes)
    if not fitting and (text is None or _least(src, every[0], options) > budget):
        more = "" if options.get("imatrix") else " An imatrix opens smaller types (--imatrix)."
        raise EngineError(
            f"no type is that small: even {smallest.result.ftype} takes "
            f"{smallest.result.n_bytes:,} bytes",
            file=src,
            expected=f"at most {budget:,} bytes",
            hint=f"Cut layers, or allow more bytes.{more}",
        )
    best = max(fitting, key=lambda p: p.result.n_bytes) if fitting else smallest
    if text is None or best.result.ftype == "Q8_0":
        why = (
            f"{best.result.ftype} is the largest standard type that fits "
            f"({best.result.n_bytes:,} of {budget:,} bytes)"
        )
        return Decision(best, [], why)
    where = Path(folder) if folder is not None else None
    with temporary.Folder("mix", place=where) as work:
        return _mix(
            src,
            budget,
            best,
            every[0],
            bool(fitting),
            text,
            work,
            n_ctx,
            n_chunks,
            parse_special,
            options,
            progress or (lambda *_: None),
        )


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_size(text: str) -> int:
    """Bytes of `1.2GiB`, `900MB`, `700M` or `123456B`.

    Raises:
        EngineError: it is none of these. A bare number is refused too: 95 may mean 95 MB.

    Example:
        >>> parse_size("1.5KiB")
        1536
    """
    text = text.strip()
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([kmg]i?b?|b)?", text.lower())
    if match is None:
        raise EngineError(f"not a size: {text!r}", expected="such as 1.2GiB or 900MB")
    if match[2] is None:
        raise EngineError(
            f"the size {text} has no unit",
            expected=f"{text}MB, {text}MiB or {text}GB",
            hint=f"{text}B is that many bytes.",
        )
    return int(float(match[1]) * _UNITS[match[2].removesuffix("b")])


def budget_of(src: str | Path, bpw: float) -> int:
    """Size of a file with the given bits of tensor data per parameter."""
    header = read_header(src)
    return int(header.n_parameters * bpw / 8) + sum(header.data_offset)


def _mix(
    src: Path,
    budget: int,
    best: Planned,
    q8: Planned,
    best_fits: bool,
    text: str,
    work: Path,
    n_ctx: int,
    n_chunks: int,
    parse_special: bool,
    options: dict[str, Any],
    progress: NamedProgress,
) -> Decision:
    base = work / "base.kl"
    progress("predictions of the source", 0, 1)
    base_predictions(src, text, base, n_ctx, n_chunks, parse_special)
    given = options.get("imatrix")
    matrix = given if given is None or isinstance(given, Imatrix) else read_imatrix(given)
    members, kinds = _members(q8)
    progress("errors of the weights", 0, 1)
    errors = _errors(src, members, kinds, matrix)
    n_layers = q8.header.n_layers
    by_depth = q8.result.n_bytes < DEPTH_BELOW
    groups: dict[str, list[str]] = {}
    for t in members:
        layer = q8.header.by_name[t.name].layer
        groups.setdefault(group_of(t.name, layer, n_layers, by_depth), []).append(t.name)
    low = {t.name: kinds[t.name][0] for t in members}
    found = probe(
        src,
        groups,
        low,
        base,
        work,
        n_ctx,
        options,
        lambda done, total: progress("probes", done, total),
    )
    sensitivities = tuple(
        Sensitivity(g, tuple(n), found[g], sum(errors[t][0] for t in n)) for g, n in groups.items()
    )
    value = {t: s.value for s in sensitivities for t in s.tensors}
    choices = [
        [
            Choice(kind, _bytes(t, kind), value[t.name] * error)
            for kind, error in zip(kinds[t.name], errors[t.name], strict=True)
        ]
        for t in members
    ]
    fixed = q8.result.n_bytes - sum(padded(t.nbytes, ALIGNMENT) for t in members)
    chosen = choose(choices, budget - fixed)
    assert chosen is not None  # for_size has seen that the least fits
    types = patterns({t.name: c.kind for t, c in zip(members, chosen, strict=True)})
    (mixed,) = plan(src, [best.result.ftype], **options, tensor_types=types)
    return _measured(best, best_fits, mixed, types, sensitivities, work, base, n_ctx, progress)


def _measured(
    best: Planned,
    best_fits: bool,
    mixed: Planned,
    types: Patterns,
    sensitivities: tuple[Sensitivity, ...],
    work: Path,
    base: Path,
    n_ctx: int,
    progress: NamedProgress,
) -> Decision:
    compared = []
    candidates = [("mix", mixed)] + ([(best.result.ftype, best)] if best_fits else [])
    for done, (label, planned) in enumerate(candidates):
        progress("comparison", done, len(candidates))
        path = work / "candidate.gguf"
        planned.make(path, force=True)
        compared.append((label, planned.result.n_bytes, divergence(path, base, n_ctx)))
        path.unlink()
    if best_fits and compared[1][2] <= compared[0][2]:
        why = (
            f"{best.result.ftype} diverges no more than the best mix found (mean KL "
            f"{compared[1][2]:.5f} against {compared[0][2]:.5f} nats)"
        )
        return Decision(best, [], why, sensitivities, tuple(compared))
    why = f"a mix by measured sensitivity, mean KL {compared[0][2]:.5f} nats"
    if best_fits:
        why += f" against {compared[1][2]:.5f} of {best.result.ftype}, the largest type that fits"
    return Decision(mixed, types, why, sensitivities, tuple(compared))


def _members(q8: Planned) -> tuple[list[QuantizedTensor], dict[str, tuple[str, ...]]]:
    """The tensors that a mix decides on, with the types each may take, the lowest first."""
    members = [t for t in q8.result.tensors if t.new == "q8_0" and t.wanted is None]
    kinds: dict[str, tuple[str, ...]] = {
        t.name: WIDE if t.shape[0] % 256 == 0 else NARROW for t in members
    }
    return members, kinds


def _least(src: Path, q8: Planned, options: dict[str, Any]) -> int:
    """Bytes of the smallest mix."""
    members, kinds = _members(q8)
    fixed = q8.result.n_bytes - sum(padded(t.nbytes, ALIGNMENT) for t in members)
    return fixed + sum(min(_bytes(t, k) for k in kinds[t.name]) for t in members)


def _bytes(tensor: QuantizedTensor, kind: str) -> int:
    size = tensor_nbytes(tensor.shape, type_id(kind))
    assert size is not None
    return padded(size, ALIGNMENT)


def _errors(
    src: Path,
    members: list[QuantizedTensor],
    kinds: dict[str, tuple[str, ...]],
    matrix: Imatrix | None,
) -> dict[str, list[float]]:
    entries = {} if matrix is None else matrix.entries
    with Source(src) as source:
        jobs = [
            (
                source.header.by_name[t.name],
                [type_id(k) for k in kinds[t.name]],
                entries[t.name].means() if t.name in entries else None,
            )
            for t in members
        ]
        found = relative_errors(source, jobs)
    return {t.name: e for t, e in zip(members, found, strict=True)}
