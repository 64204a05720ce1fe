"""A loaded model with a context of llama.cpp: the calls below `Engine`."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import host
from ..errors import EngineError
from ..files.closing import Closing
from ..files.shard_names import siblings
from . import binding, log, machine
from .observe import Callback, Hook
from .refusal import refusal
from .vocabulary import Vocabulary

F32 = NDArray[np.float32]

N_SHARED_SEQUENCES = 16  # sequences of a unified cache: continuations decoded together


class Context(Vocabulary, Closing):
    """Owns the model and the context; frees them in `close`."""

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        n_batch: int | None,
        n_seq: int,
        n_threads: int | None,
        extra_buffers: bool,
        unified: bool,
    ) -> None:
        self._llama = binding.llama()
        self.path = path
        self.n_ctx = n_ctx
        self.n_seq = n_seq
        self.unified = unified
        cells = n_ctx if unified else n_ctx * n_seq
        self.n_batch = min(cells, n_batch or 2048)
        # llama.cpp aborts where a batch cannot hold a token of each sequence
        shared = max(n_seq, min(N_SHARED_SEQUENCES, self.n_batch))
        self.n_seq_max = shared if unified else n_seq
        self.n_threads = n_threads or host.n_threads()
        self.extra_buffers = extra_buffers
        self._cells = cells
        self._context: Any = None
        self._model: Any = self._load()
        self._callback: Callback | None = None
        super().__init__(self._llama, self._model, path)
        llama = self._llama
        self.n_embd: int = llama.llama_model_n_embd_inp(self._model)
        self.n_layer: int = llama.llama_model_n_layer(self._model)
        self.n_ctx_train: int = llama.llama_model_n_ctx_train(self._model)
        self._ends: dict[int, int] = {}
        self.held_prefix: list[int] = []  # what `logprobs` left in sequence 0, if still there
        self._make_context()

    def _load(self) -> Any:
        parameters = self._llama.llama_model_default_params()
        parameters.use_extra_bufts = self.extra_buffers
        parameters.n_gpu_layers = 0
        with log.capture() as lines:
            model = self._llama.llama_model_load_from_file(
                os.fsencode(siblings(self.path)[0]),  # llama.cpp takes the first shard only
                parameters,
            )
        if not model:
            raise refusal(self.path, "it", lines.errors())
        if self._llama.llama_model_has_encoder(model):
            self._llama.llama_model_free(model)
            raise EngineError(
                "a model with an encoder (T5) cannot be run here",
                file=self.path,
                expected="a model that predicts the next token from those before it",
                hint="`inspect`, `diff`, `meta` and `quantize` work on it.",
            )
        return model

    def _make_context(self) -> None:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = self._cells
        parameters.n_batch = self.n_batch
        parameters.n_ubatch = min(512, self.n_batch)
        parameters.n_seq_max = self.n_seq_max
        parameters.kv_unified = self.unified
        parameters.n_threads = parameters.n_threads_batch = self.n_threads
        if self._callback is not None:
            parameters.cb_eval = self._callback.function
        with log.capture() as lines:
            context = self._llama.llama_init_from_model(self._model, parameters)
        if not context:
            raise EngineError(
                f"no context of {self._cells} tokens: {lines.errors() or 'no reason given'}",
                file=self.path,
                hint="A smaller context needs less memory.",
            )
        if self._context is not None:
            self._llama.llama_free(self._context)
            machine.trim_memory()
        self._context = context
        self._memory = self._llama.llama_get_memory(context)
        self._ends = {}
        self.held_prefix = []

    def set_hook(self, hook: Hook | None) -> None:
        """Let `hook` see the nodes of the graph; the first time this clears the KV cache."""
        if self._callback is None:
            self._callback = Callback()
            self._make_context()
        self._callback.hook = hook

    def reset(self) -> None:
        """Forget all sequences (clear the KV cache)."""
        self._llama.llama_memory_clear(self._memory, True)
        self._ends = {}
        self.held_prefix = []

    def run_batch(
        self,
        data: NDArray[Any],
        positions: NDArray[np.int32],
        seqs: NDArray[Any],
        wanted: NDArray[np.int8],
    ) -> None:
        """Decode token ids (int32) or embeddings at positions of sequences.

        Args:
            wanted: 1 where logits are computed.
        """
        n = len(data)
        llama = self._llama
        data = np.ascontiguousarray(data)
        ones = np.ones(n, np.int32)
        ids = np.ascontiguousarray(seqs, np.int32)
        # one pointer to a sequence id for each token
        pointers = (ids.ctypes.data + 4 * np.arange(n, dtype=np.uintp)).astype(np.uintp)
        batch = llama.llama_batch()
        batch.n_tokens = n
        if data.dtype == np.int32:
            batch.token = data.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        else:
            batch.embd = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        batch.pos = positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.n_seq_id = ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.seq_id = pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        with log.capture() as lines:
            status = llama.llama_decode(self._context, batch)
            llama.llama_synchronize(self._context)
        if self._callback is not None:
            self._callback.raise_error()
        if status == 1:
            raise EngineError(
                "the context is full",
                file=self.path,
                expected=f"at most {self.n_ctx} tokens",
                found=int(positions.max()) + 1,
                hint="Open it with a larger context (`ctx`).",
            )
        if status != 0:
            raise EngineError(
                f"llama.cpp failed to decode (status {status}): {lines.errors()}", file=self.path
            )

    def logits_of(self, n_out: int) -> F32:
        """The logits of the last batch, [n_out, n_vocab], valid until the next."""
        pointer = self._llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (n_out, self.n_vocab))

    def close(self) -> None:
        """Free the model; the engine cannot be used afterwards."""
        if self._context is not None:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model is not None:
            self._llama.llama_model_free(self._model)
            self._model = None
            machine.trim_memory()

    def __enter__(self) -> Self:
        return self
