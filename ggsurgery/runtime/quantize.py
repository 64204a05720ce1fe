"""Quantize a GGUF file through llama.cpp: the same bytes as llama-quantize writes.

result = quantize("in.gguf", "out.gguf", "Q4_K_M", imatrix="in.imatrix.gguf")
result.fallbacks        # tensors that could not take the type they were meant for
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from .. import host
from ..errors import EngineError, FormatError, GGSurgeryError, OutputError, did_you_mean
from ..files.atomic import atomic_path, check_output
from ..files.progress import Progress
from ..files.system_errors import write_error
from ..files.text import regular_expression
from ..ggufio.header import read_header
from ..ggufio.imatrix import Imatrix, read_imatrix
from ..ggufio.purpose import MMPROJ, not_a_model, purpose
from ..ggufio.reader import Source
from ..ggufio.types import Header, type_id
from ..surgery.fold_scales import folded_layout, has_scales
from ..surgery.imatrix_lineage import check_fits
from ..surgery.layout import FileLayout
from ..tensors.expr import Read
from .filetypes import file_type
from .quantize_call import Call, InvalidDataError, LogFacts, dry_runs, run
from .quantize_plan import (
    QuantizeResult,
    check,
    check_scales,
    folded_result,
    lacking_entries,
    planned_result,
    written_result,
)
from .refusal import unfit

TensorTypes = Iterable[str | tuple[str, str]]

#: ggml types that exist for computing, not for storing weights.
NOT_WEIGHTS = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}

#: File types that are not quantized: separate scales are multiplied into the weights.
FLOAT_NAMES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Planned:
    """A checked quantization: `result` describes the files that it will write."""

    header: Header
    call: Call
    result: QuantizeResult
    folded: FileLayout | None = None
    """The output where separate scales are multiplied in: written here, not by llama.cpp."""

    def make(
        self, dst: str | Path, *, force: bool = False, progress: Progress | None = None
    ) -> QuantizeResult:
        """Write it.

        Raises:
            OutputError: the output exists, is the input, or the disk has no room for it.
        """
        out, inputs = Path(dst), self.header.paths
        check_output(out, inputs, force=force, nbytes=self.result.n_bytes)
        if self.folded is not None:
            return self._fold(self.folded, out, force, progress)
        with (
            Source(self.header.path) as source,
            atomic_path(out, inputs=inputs, force=force) as temporary,
        ):
            try:
                facts = run(replace(self.call, dst=str(temporary), dry_run=False), progress)
                made = read_header(temporary)
            except InvalidDataError as error:
                raise self._too_large(str(error.tensor)) from error
            except (EngineError, FormatError) as error:
                raise _write_failure(error, temporary, out, self.result.n_bytes) from error
            source.check_unchanged()
        return written_result(self.result, made, out, facts)

    def _too_large(self, name: str) -> EngineError:
        """The error for a tensor that its new type cannot hold.

        Raises:
            FormatError: it holds NaN or infinity already.
        """
        from ..tensors.evaluate import largest
        from ..tensors.finite import LARGEST
        from ..tensors.read_rows import RowReader

        new = next(t.new for t in self.result.tensors if t.name == name)
        limit = LARGEST.get(type_id(new))
        with Source(self.header.path) as source:
            found = largest(RowReader([source]), Read(0, source.header.by_name[name]))
        return EngineError(
            f"the values are too large for {new}",
            file=self.header.path,
            tensor=name,
            expected=None if limit is None else f"at most {limit:.6g}",
            found=f"{found:.6g}",
            hint="Choose a file type whose numbers reach further: BF16 or F32.",
        )

    def _fold(
        self, layout: FileLayout, out: Path, force: bool, progress: Progress | None
    ) -> QuantizeResult:
        from ..surgery.write import execute

        @contextmanager
        def stages(_name: str, _n_bytes: int) -> Iterator[Callable[[int], None]]:
            done = count(1)

            def tick(_n: int) -> None:
                if progress is not None:
                    progress(next(done), len(layout.pieces))

            yield tick

        with Source(self.header.path) as source:
            execute(layout, [source], out, force=force, threads=self.call.n_threads, stages=stages)
        return written_result(self.result, read_header(out), out, LogFacts())


def _write_failure(
    error: GGSurgeryError, temporary: Path, out: Path, n_bytes: int
) -> GGSurgeryError:
    """The cause of a failed write, for which llama.cpp reports only `iostream error` or nothing."""
    is_read = isinstance(error, FormatError) and error.file == str(temporary)
    if not is_read and "iostream" not in error.problem:
        return error
    with suppress(AttributeError):  # systems without the call
        try:
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as full:  # what llama.cpp has met
            return write_error(full, out)
    return OutputError(
        "llama.cpp could not write the file; nothing was left behind",
        file=out,
        hint="The disk or its connection fails: see the system's log (dmesg), or write to "
        "another disk.",
    )


def quantize(
    src: str | Path,
    dst: str | Path | None,
    ftype: str,
    *,
    imatrix: str | Path | Imatrix | None = None,
    tensor_types: TensorTypes = (),
    pure: bool = False,
    leave_output: bool = False,
    allow_requantize: bool = False,
    n_threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Write `dst` with the weights of `src` in another file type.

    Args:
        ftype: a `llama_ftype` by its name, `Q4_K_M`.
        imatrix: an importance matrix of exactly this model: a file, which is checked for that, or a
        matrix from `quantize.remap.matching`.
        tensor_types: `REGEX=TYPE` (or pairs): tensors whose name the regular expression finds
            get that type; the first match counts. Only with quantized file types.
        pure: every tensor in the base type, no mix. leave_output: `output.weight` as it is.
        allow_requantize: take tensors that are quantized already; their errors add up.
        dry_run: tell types and sizes, write nothing; `dst` may be None.
        progress: called with (tensors done, tensors in all).

    Raises:
        EngineError: unknown type, a type that needs an imatrix, an imatrix of another model,
            an already quantized source, or llama.cpp's message.
        OutputError: the output exists, is the input, or the disk has no room for it.
    """
    (planned,) = plan(
        src,
        [ftype],
        imatrix=imatrix,
        tensor_types=tensor_types,
        pure=pure,
        leave_output=leave_output,
        allow_requantize=allow_requantize,
        n_threads=n_threads,
    )
    if dry_run or dst is None:
        return planned.result
    return planned.make(dst, force=force, progress=progress)


def plan(
    src: str | Path,
    ftypes: Sequence[str],
    *,
    imatrix: str | Path | Imatrix | None = None,
    tensor_types: TensorTypes = (),
    pure: bool = False,
    leave_output: bool = False,
    allow_requantize: bool = False,
    n_threads: int | None = None,
    trial: bool = False,
) -> list[Planned]:
    """Check the quantization of one source to several types; arguments as of `quantize`.

    With `trial` only types and sizes are computed: nothing is refused, and an imatrix counts as
    present regardless of its model (its presence alone changes some mixes).
    """
    src = Path(src)
    header = read_header(src)
    other = None if purpose(header) is MMPROJ else not_a_model(header)  # llama-quantize takes those
    if error := unfit(header) or other:
        raise error
    known = [file_type(name) for name in ftypes]
    overrides = parse_tensor_types(tensor_types)
    matrix = _matrix(imatrix, None if trial else header)
    call = Call(
        str(header.path),  # of a split file the first shard
        "",
        0,
        n_threads or host.n_threads(),
        allow_requantize,
        pure,
        leave_output,
        dry_run=True,
        tensor_types=overrides,
        imatrix=None if matrix is None else _means(matrix, trial),
        metadata=() if matrix is None else _facts(matrix),
    )
    calls = [replace(call, ftype=number) for _, number in known]
    for name, _ in known:
        check_overrides(name, overrides, header)
    result = []
    scaled = has_scales(header)
    for (name, number), one, facts in zip(known, calls, dry_runs(calls), strict=True):
        planned, folded = planned_result(header, None, name, facts, one), None
        if scaled and name in FLOAT_NAMES:
            folded = folded_layout(header, facts.types, number)
            planned = folded_result(planned, folded, header)
        if not trial:
            check_scales(planned)
            if matrix is not None:
                lacking = lacking_entries(planned, matrix)
                planned = replace(planned, without_imatrix=lacking)
            check(planned, header, matrix, allow_requantize, facts.needs_imatrix)
        result.append(Planned(header, one, planned, folded))
    return result


def parse_tensor_types(texts: Iterable[str | tuple[str, str]]) -> tuple[tuple[str, int], ...]:
    """`REGEX=TYPE` to (lower-case regex, ggml type), as llama-quantize reads them.

    Raises:
        EngineError: no `=`, or an empty regular expression.
        FormatError: a broken one, no such type, or one that weights cannot have.
    """
    found = []
    for text in texts:
        pattern, _, kind = text.rpartition("=") if isinstance(text, str) else (text[0], "", text[1])
        if not pattern or not kind:
            raise EngineError(
                f"malformed tensor type {text!r}",
                expected="REGEX=TYPE",
                hint="Example: `tensor_types` 'attn_v=q6_k'",
            )
        regular_expression(pattern)
        number = type_id(kind)
        if kind.upper() in NOT_WEIGHTS:
            raise FormatError(f"weights cannot have the type {kind}", expected="q4_k, q8_0, f16 …")
        found.append((pattern.lower(), number))
    return tuple(found)


def check_overrides(ftype: str, overrides: tuple[tuple[str, int], ...], header: Header) -> None:
    """Refuse tensor types that llama.cpp would ignore without a word.

    Raises:
        EngineError: the file type is not a quantized one, or a pattern finds no tensor.
    """
    if overrides and ftype in FLOAT_NAMES:
        raise EngineError(
            f"tensor types have no effect with the file type {ftype}",
            hint="llama.cpp applies them only to quantized file types: use Q8_0 with "
            "`tensor_types` '.*=f16' and name the others first.",
        )
    for pattern, _ in overrides:
        if not any(map(regular_expression(pattern).search, header.by_name)):
            kinds = {n.split(".", 2)[-1] if n.startswith("blk.") else n for n in header.by_name}
            known = sorted(k.removesuffix(".weight") for k in kinds)
            raise EngineError(
                f"no tensor's name matches the tensor type {pattern!r}",
                file=header.path,
                expected=f"a regular expression for one of {', '.join(known)}",
                hint=did_you_mean(pattern, known),
            )


def _matrix(imatrix: str | Path | Imatrix | None, header: Header | None) -> Imatrix | None:
    """A matrix, read if need be and then checked against the file's lineage."""
    if imatrix is None or isinstance(imatrix, Imatrix):
        return imatrix
    matrix = read_imatrix(imatrix)
    if header is not None:
        check_fits(matrix, header)
    return matrix


def _means(matrix: Imatrix, trial: bool) -> dict[str, NDArray[np.float32]]:
    if trial:
        return {"present": np.ones(1, np.float32)}
    return {name: entry.means() for name, entry in matrix.entries.items()}


def _facts(matrix: Imatrix) -> tuple[tuple[str, str | int], ...]:
    """The header entries that llama-quantize writes about an imatrix, without folders."""
    name = "" if matrix.path is None else _plain(str(matrix.path))
    facts: list[tuple[str, str | int]] = [("quantize.imatrix.file", name)]
    if matrix.datasets:
        facts.append(("quantize.imatrix.dataset", _plain(matrix.datasets[0])))
    facts.append(("quantize.imatrix.entries_count", len(matrix.entries)))
    if matrix.n_chunks > 0:
        facts.append(("quantize.imatrix.chunks_count", matrix.n_chunks))
    return tuple(facts)


def _plain(path: str) -> str:
    return PurePath(path).name if PurePath(path).is_absolute() else path
