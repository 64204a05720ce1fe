"""Collect an importance matrix: Σ x² of the inputs of every weight matrix, as llama-imatrix does.

Every matrix product of the graph is seen through `cb_eval`: src0 is the weight, src1 its input.

    MUL_MAT       src0 [n_in, rows, n_mat]       src1 [n_in, tokens, …]
    MUL_MAT_ID    src0 [n_in, rows, n_experts]   src1 [n_in, used or 1, tokens]   ids [used, tokens]
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..files.progress import Progress
from ..ggufio.imatrix import Entry, Imatrix
from ..ggufio.reader import Source
from ..surgery.imatrix_lineage import with_origin
from . import binding
from .engine import Engine
from .node_data import floats, integers

F64 = NDArray[np.float64]
MIN_TOKENS = 16  # smaller batches are passed over, as in llama-imatrix


class Collector:
    """The hook that sums; `entries` hands out what was summed."""

    def __init__(self, *, process_output: bool = False) -> None:
        base = binding.ggml()
        operations = {base.ggml_op_name(i).decode(): i for i in range(64)}
        self.mul_mat, self.mul_mat_id = operations["MUL_MAT"], operations["MUL_MAT_ID"]
        self.process_output = process_output
        self.sums: dict[str, F64] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}
        self._input = -1  # address of the last src1, whose sums its other users share
        self._shared: tuple[set[str], F64] = (set(), np.empty(0))

    def wants(self, node: binding.Tensor) -> bool:
        if node.op == self.mul_mat_id:
            return True
        if node.op != self.mul_mat:
            return False
        source = node.src[1].contents
        if source.ne[1] < MIN_TOKENS or source.type != 0:  # GGML_TYPE_F32
            return False
        name = weight_name(node)
        return name.startswith("blk.") or (self.process_output and name == "output.weight")

    def read(self, node: binding.Tensor) -> None:
        name = weight_name(node)
        if node.op == self.mul_mat_id:
            self._experts(name, node)
        else:
            self._dense(name, node)
        if not np.isfinite(self.sums[name]).all():
            raise EngineError(
                "the input of this tensor is not finite (NaN or infinity)",
                tensor=name,
                hint="The model overflows here; no importance matrix can be made of it.",
            )

    def _dense(self, name: str, node: binding.Tensor) -> None:
        weight, source = node.src[0].contents, node.src[1].contents
        n_mat = weight.ne[2] * weight.ne[3]
        address = ctypes.addressof(source)
        if address == self._input and name not in self._shared[0] and n_mat == 1:
            squares = self._shared[1]
            self._shared[0].add(name)
        else:
            x = floats(source)
            squares = np.zeros((n_mat, x.shape[-1]))
            for i3 in range(x.shape[0]):
                for i2 in range(x.shape[1]):
                    which = (i3 % weight.ne[3]) * weight.ne[2] + i2 % weight.ne[2]
                    squares[which] += sum_of_squares(x[i3, i2])
            self._input, self._shared = address, ({name}, squares)
        n_rows = source.ne[1] * source.ne[2] * source.ne[3]
        if name not in self.sums:
            self.sums[name] = np.zeros_like(squares)
            self.counts[name] = np.zeros(1, np.int64)
        self.sums[name] += squares
        self.counts[name] += n_rows // n_mat

    def _experts(self, name: str, node: binding.Tensor) -> None:
        weight, source, chosen = (node.src[i].contents for i in range(3))
        n_experts = weight.ne[2]
        x = floats(source)[0]  # [tokens, used or 1, n_in]
        ids = integers(chosen)  # [tokens, used]
        if name not in self.sums:
            self.sums[name] = np.zeros((n_experts, x.shape[-1]))
            self.counts[name] = np.zeros(n_experts, np.int64)
        sums, counts = self.sums[name], self.counts[name]
        for slot in range(ids.shape[1]):
            rows = x[:, slot % x.shape[1]]
            for expert in np.unique(ids[:, slot]):
                mine = rows[ids[:, slot] == expert]
                sums[expert] += sum_of_squares(mine)
                counts[expert] += len(mine)

    def entries(self) -> dict[str, Entry]:
        """The sums by tensor; a single count for a matrix without experts."""
        found = {}
        for name, sums in sorted(self.sums.items()):
            counts = self.counts[name]
            values = sums.astype(np.float32).reshape(len(counts), -1)
            found[name] = Entry(values, counts.copy())
        return found


def weight_name(node: binding.Tensor) -> str:
    """The weight's name without the decoration that a scheduler adds (`CPU#NAME#0`)."""
    name: str = node.src[0].contents.name.decode("utf-8", "replace")
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name


def sum_of_squares(rows: NDArray[np.float32]) -> F64:
    """Σ x² of each column of float32 [n, n_in], float64 [n_in]."""
    total: F64 = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
    return total


def collect(
    path: str | Path,
    text: str,
    *,
    n_ctx: int = 512,
    n_chunks: int | None = None,
    process_output: bool = False,
    parse_special: bool = False,
    dataset: str | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Imatrix:
    """Run a text through a model and sum the squares of what every weight is multiplied with.

    Args:
        n_chunks: number of chunks of `n_ctx` tokens from the start.
        process_output: include `output.weight`, which llama-imatrix leaves out by default.
        parse_special: read `<|im_start|>` and the like in the text as the tokens they name.
        dataset: the name to keep in the file for the text.

    Raises:
        EngineError: the text is too short, or an input is not finite (names the tensor).
    """
    with Engine.open(path, n_ctx=n_ctx, n_batch=n_ctx, n_threads=n_threads) as engine:
        tokens = engine.tokenize_array(text, parse_special=parse_special)
        if len(tokens) < 2 * n_ctx:
            raise EngineError(
                f"the text is too short for chunks of {n_ctx}",
                file=path,
                expected=f"at least {2 * n_ctx} tokens",
                found=len(tokens),
                hint="Use a longer text or a smaller context (`ctx`).",
            )
        total = len(tokens) // n_ctx
        total = total if n_chunks is None else min(total, n_chunks)
        engine.head_seen = True  # embedding models have inputs to sum, too
        collector = Collector(process_output=process_output)
        engine.set_hook(collector)
        for i in range(total):
            chunk = tokens[i * n_ctx : (i + 1) * n_ctx].copy()
            if engine.add_bos and engine.bos is not None:
                chunk[0] = engine.bos
            engine.reset()
            # all outputs: otherwise the last layer would see the last token only
            engine.decode(chunk, logits="all", copy=False)
            if progress is not None:
                progress(i + 1, total)
    entries = collector.entries()
    most = max((int(e.counts.max()) for e in entries.values()), default=0)
    names = () if dataset is None else (dataset,)
    with Source(path) as source:
        matrix = Imatrix(entries, names, most // n_ctx, n_ctx)
        return with_origin(matrix, source.header, source.checksum())
