"""One call of `llama_model_quantize` in a worker, and the parser of its log.

llama.cpp reports only in its log which type each tensor got and which tensors fell back; tests
compare the parsed lines with the tensors of the written file.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..files.progress import Progress
from . import binding, log, worker

#: Bytes of rows that llama.cpp holds at once; the result does not depend on it.
MAX_BUFFER = 512 << 20

_TENSOR = re.compile(
    r"\[ *(?P<at>\d+)/ *(?P<of>\d+)\] (?P<name>\S+) +- \[.*?\], type = +(?P<old>\w+), "
    r"(?:.*?converting to (?P<new>\w+) \.\.|size = +[\d.]+ MiB -> +[\d.]+ MiB \((?P<dry>\w+)\))?",
    re.DOTALL,
)
_FALLBACK = re.compile(
    r"warning: (?P<name>\S+) +- ncols +(?P<columns>\d+) not divisible by +(?P<block>\d+) "
    r"\(required for type +(?P<wanted>\w+)\)"
)


@dataclass(frozen=True)
class Call:
    """The arguments of one call, in types that pickle."""

    src: str
    dst: str
    ftype: int
    n_threads: int
    allow_requantize: bool = False
    pure: bool = False
    leave_output: bool = False
    dry_run: bool = False
    tensor_types: tuple[tuple[str, int], ...] = ()
    imatrix: dict[str, NDArray[np.float32]] | None = None
    metadata: tuple[tuple[str, str | int], ...] = ()


class InvalidDataError(EngineError):
    """Data with NaN or infinity, before or after quantizing; `tensor` names where."""

    code = "not-finite"


@dataclass
class LogFacts:
    """The contents of the log: new type by tensor, wanted type and columns of those that fell
    back."""

    types: dict[str, str] = field(default_factory=dict)
    fallback: dict[str, tuple[str, int]] = field(default_factory=dict)
    needs_imatrix: bool = False
    without_imatrix: tuple[str, ...] = ()


def run(call: Call, progress: Progress | None = None) -> LogFacts:
    """Carry the call out in a child process.

    Args:
        progress: called with (tensors done, tensors in all).

    Raises:
        EngineError: llama.cpp refused or crashed; its own words are quoted.
    """
    return worker.run(_call, call, progress=progress, file=call.src)


def dry_runs(calls: list[Call]) -> list[LogFacts]:
    """The dry runs of several calls on one source, in one child process."""
    return worker.run(_calls, calls, file=calls[0].src)


def _calls(calls: list[Call]) -> list[LogFacts]:
    return [_call(call) for call in calls]


def _call(call: Call, progress: Progress | None = None) -> LogFacts:
    llama = binding.llama()
    p, keep = _parameters(call)
    seen = ""

    def listen(_: int, text: str) -> None:
        nonlocal seen
        seen = (seen + text)[-200:]
        if progress is not None and text.startswith("["):
            match = re.match(r"\[ *(\d+)/ *(\d+)\]", text)
            if match:
                progress(int(match[1]), int(match[2]))

    with log.capture(listen) as lines:
        src, dst = os.fsencode(call.src), os.fsencode(call.dst)
        status = llama.llama_model_quantize(src, dst, ctypes.byref(p))
    del keep
    if status != 0 and (name := _invalid(lines)) is not None:
        raise InvalidDataError("llama.cpp refuses the data", file=call.src, tensor=name)
    if status != 0:
        raise EngineError(f"llama.cpp could not quantize it: {lines.errors(2)}", file=call.src)
    return _read_log(lines.text())


def _invalid(lines: log.Lines) -> str | None:
    """The tensor whose data llama.cpp found to be invalid, before or after quantizing it."""
    words = lines.errors(2)
    if named := re.search(r"tensor '(.+?)' has invalid data", words):
        return named[1]
    if "data validation failed" not in words:
        return None
    return next(reversed(re.findall(r"\[ *\d+/ *\d+\] (\S+)", lines.text())), None)


def _parameters(call: Call) -> tuple[Any, list[Any]]:
    """The C struct, and the objects that its pointers need alive."""
    llama = binding.llama()
    p = llama.llama_model_quantize_default_params()
    p.nthread, p.ftype = call.n_threads, call.ftype
    p.allow_requantize, p.pure, p.dry_run = call.allow_requantize, call.pure, call.dry_run
    p.quantize_output_tensor = not call.leave_output
    p.max_buf_size = MAX_BUFFER
    keep: list[Any] = []
    if call.imatrix:
        # all three tables end with an empty row, as llama.h requires
        table = (llama.llama_model_imatrix_data * (len(call.imatrix) + 1))()
        pointer = ctypes.POINTER(ctypes.c_float)
        for row, (name, values) in zip(table, call.imatrix.items(), strict=False):
            data = np.ascontiguousarray(values, np.float32)
            row.name, row.data, row.size = (
                name.encode("utf-8", "surrogateescape"),
                data.ctypes.data_as(pointer),
                data.size,
            )
            keep.append(data)
        p.imatrix = table
        keep.append(table)
    if call.tensor_types:
        overrides = (llama.llama_model_tensor_override * (len(call.tensor_types) + 1))()
        for override, (pattern, kind) in zip(overrides, call.tensor_types, strict=False):
            override.pattern, override.type = pattern.encode("utf-8", "surrogateescape"), kind
        overrides[-1].type = llama.GGML_TYPE_COUNT
        p.tt_overrides = overrides
        keep.append(overrides)
    if call.metadata:
        entries = (llama.llama_model_kv_override * (len(call.metadata) + 1))()
        for entry, (key, value) in zip(entries, call.metadata, strict=False):
            entry.key = key.encode("utf-8", "surrogateescape")
            if isinstance(value, str):
                entry.tag = llama.LLAMA_KV_OVERRIDE_TYPE_STR
                entry.value.val_str = os.fsencode(value)[:127]
            else:
                entry.tag = llama.LLAMA_KV_OVERRIDE_TYPE_INT
                entry.value.val_i64 = value
        p.kv_overrides = entries
        keep.append(entries)
    return p, keep


def _read_log(text: str) -> LogFacts:
    facts = LogFacts()
    for match in _FALLBACK.finditer(text):
        facts.fallback[match["name"]] = (match["wanted"], int(match["columns"]))
    for match in _TENSOR.finditer(text):
        facts.types[match["name"]] = match["new"] or match["dry"] or match["old"]
    facts.needs_imatrix = "will require an imatrix" in text
    facts.without_imatrix = tuple(re.findall(r"did not find weights for (\S+)", text))
    return facts
