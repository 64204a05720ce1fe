"""A loaded model: decode, log-probabilities, hidden states, text.

    with Engine.open("model.gguf", n_ctx=1024) as engine:
        logits = engine.decode(engine.tokenize("The capital of France is"))
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from . import binding, generation, log, machine, probe
from .observe import Callback, Hook, Recorder
from .scoring import log_softmax_at
from .vocabulary import Vocabulary

F32 = NDArray[np.float32]
Outputs = Literal["all", "last", "none"] | slice
Names = Iterable[str] | Callable[[str], bool]

N_SHARED_SEQUENCES = 16  # continuations of one prefix that `logprobs` decodes together


class Engine(Vocabulary):
    """A model and a context of llama.cpp; open it with `Engine.open`, close it or use `with`.

    Attributes:
        path: the file.
        n_ctx: tokens a sequence can hold; n_batch: tokens given to llama.cpp at once.
        n_vocab, n_embd, n_layer, n_ctx_train: of the model.
        add_bos, bos, eos, eog, chat_template: of its vocabulary (see `Vocabulary`).
        extra_buffers: whether weights were repacked for this CPU.
        observed: graph nodes of the last decode by name, float32 [n_tokens, width].
    """

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
        self.n_threads = n_threads or machine.n_threads()
        self.extra_buffers = extra_buffers
        self.observed: dict[str, F32] = {}
        self._cells = cells
        self._context: Any = None
        self._model: Any = self._load()
        self._callback: Callback | None = None
        self._recorder: Recorder | None = None
        super().__init__(self._llama, self._model, path)
        llama = self._llama
        self.n_embd: int = llama.llama_model_n_embd_inp(self._model)
        self.n_layer: int = llama.llama_model_n_layer(self._model)
        self.n_ctx_train: int = llama.llama_model_n_ctx_train(self._model)
        self._ends: dict[int, int] = {}
        self._make_context()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        n_ctx: int = 512,
        n_batch: int | None = None,
        n_seq: int = 1,
        n_threads: int | None = None,
        extra_buffers: bool | None = None,
        observe: Names = (),
        unified: bool = True,
    ) -> Engine:
        """Load a model.

        Args:
            n_ctx: tokens of context. With `unified` all sequences share them, otherwise
                each of the `n_seq` sequences has its own.
            extra_buffers: repacked weights and AMX; None asks `probe` whether they survive here.
            observe: names of graph nodes (or a predicate on names) kept at every decode.

        Raises:
            EngineError: llama.cpp cannot load the file; its own words are quoted.
        """
        path = Path(path)
        if not path.is_file():
            raise EngineError("no such file", file=path)
        if extra_buffers is None:
            extra_buffers = probe.extra_buffers_survive()
        engine = cls(
            path,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_seq=n_seq,
            n_threads=n_threads,
            extra_buffers=extra_buffers,
            unified=unified,
        )
        if callable(observe) or (observe := tuple(observe)):
            engine.observe(observe)
        return engine

    def _load(self) -> Any:
        parameters = self._llama.llama_model_default_params()
        parameters.use_extra_bufts = self.extra_buffers
        parameters.n_gpu_layers = 0
        with log.capture() as lines:
            model = self._llama.llama_model_load_from_file(
                str(self.path).encode(), parameters
            )
        if not model:
            raise EngineError(
                f"llama.cpp cannot load it: {lines.errors() or 'no reason given'}",
                file=self.path,
                hint="`ggsurgery verify` tells more about the file.",
            )
        return model

    def _make_context(self) -> None:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = self._cells
        parameters.n_batch = self.n_batch
        parameters.n_ubatch = min(512, self.n_batch)
        parameters.n_seq_max = max(self.n_seq, N_SHARED_SEQUENCES) if self.unified else self.n_seq
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
        self._context = context
        self._memory = self._llama.llama_get_memory(context)
        self._ends = {}

    def set_hook(self, hook: Hook | None) -> None:
        """Let `hook` see the nodes of the graph; the first time this clears the KV cache."""
        if self._callback is None:
            self._callback = Callback()
            self._make_context()
        self._callback.hook = hook

    def observe(self, names: Names) -> None:
        """Keep these graph nodes (`l_out-3`, `ffn_inp-3`) at every decode, in `observed`.

        A model's last layer computes only the tokens whose logits are asked for: ask for
        "all" to see all of them there. The first call clears the KV cache.
        """
        self._recorder = Recorder(names)
        self.set_hook(self._recorder)

    def reset(self) -> None:
        """Forget all sequences (clear the KV cache)."""
        self._llama.llama_memory_clear(self._memory, True)
        self._ends = {}

    def decode(
        self,
        tokens: Sequence[int] | NDArray[Any],
        *,
        logits: Outputs = "last",
        seq: int = 0,
        start: int | None = None,
        copy: bool = True,
    ) -> F32:
        """Decode tokens of one sequence behind what its KV cache holds.

        Args:
            logits: for which of the tokens logits are wanted; a slice counts in `tokens`.
            start: position of the first token; what the cache holds from there on is dropped.
            copy: False gives, where one batch suffices, a view that the next decode overwrites.

        Returns:
            Logits, float32 [n_out, n_vocab].

        Raises:
            EngineError: the context is full, a token is not in the vocabulary, or llama.cpp
                failed.
        """
        ids = np.ascontiguousarray(tokens, np.int32)
        if ids.size and (ids.min() < 0 or ids.max() >= self.n_vocab):
            bad = int(ids[(ids < 0) | (ids >= self.n_vocab)][0])
            raise EngineError(
                "token is not in the vocabulary", file=self.path,
                expected=f"0 to {self.n_vocab - 1}", found=bad,
            )  # fmt: skip
        return self._decode(ids, None, logits, seq, start, copy)

    def decode_embeddings(
        self,
        x: F32,
        *,
        logits: Outputs = "last",
        seq: int = 0,
        start: int | None = None,
        copy: bool = True,
    ) -> F32:
        """Like `decode`, fed with the input of the first layer instead of tokens.

        Args:
            x: float32 [n_tokens, n_embd].
        """
        rows = np.ascontiguousarray(x, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.n_embd:
            raise EngineError(
                "embeddings of another width", file=self.path,
                expected=f"[n, {self.n_embd}]", found=list(rows.shape),
            )  # fmt: skip
        return self._decode(None, rows, logits, seq, start, copy)

    def _decode(
        self,
        ids: NDArray[np.int32] | None,
        rows: F32 | None,
        logits: Outputs,
        seq: int,
        start: int | None,
        copy: bool,
    ) -> F32:
        data = ids if ids is not None else rows
        assert data is not None
        n = len(data)
        first = self._ends.get(seq, 0) if start is None else start
        if start is not None and start < self._ends.get(seq, 0):
            self._truncate(seq, start)
        if n == 0:
            return np.empty((0, self.n_vocab), np.float32)
        wanted = np.zeros(n, np.int8)
        if isinstance(logits, slice):
            wanted[logits] = 1
        elif logits != "none":
            wanted[0 if logits == "all" else -1 :] = 1
        pieces: list[F32] = []
        for begin in range(0, n, self.n_batch):
            part = slice(begin, min(n, begin + self.n_batch))
            positions = np.arange(first + part.start, first + part.stop, dtype=np.int32)
            self._run_batch(data[part], positions, np.full(len(positions), seq), wanted[part])
            n_out = int(wanted[part].sum())
            if n_out:
                view = self._logits(n_out)
                pieces.append(view.copy() if copy or n > self.n_batch else view)
        self._ends[seq] = first + n
        self._finish_observation()
        if not pieces:
            return np.empty((0, self.n_vocab), np.float32)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def decode_batch(
        self, tokens: NDArray[Any], positions: NDArray[Any], seqs: NDArray[Any],
        wanted: NDArray[Any],
    ) -> F32:  # fmt: skip
        """One batch of several sequences at once; the caller keeps the positions.

        Args:
            tokens, positions, seqs: int [n], n ≤ n_batch.
            wanted: bool [n], for which tokens logits are computed.

        Returns:
            A view, float32 [wanted.sum(), n_vocab], that the next decode overwrites.
        """
        self._run_batch(
            np.ascontiguousarray(tokens, np.int32),
            np.ascontiguousarray(positions, np.int32),
            seqs,
            np.ascontiguousarray(wanted, np.int8),
        )
        self._finish_observation()
        return self._logits(int(np.count_nonzero(wanted)))

    def _run_batch(
        self, data: NDArray[Any], positions: NDArray[np.int32], seqs: NDArray[Any],
        wanted: NDArray[np.int8],
    ) -> None:  # fmt: skip
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
                "the context is full", file=self.path,
                expected=f"at most {self.n_ctx} tokens", found=int(positions.max()) + 1,
                hint="Open it with a larger context (--ctx).",
            )  # fmt: skip
        if status != 0:
            raise EngineError(
                f"llama.cpp failed to decode (status {status}): {lines.errors()}", file=self.path
            )

    def _logits(self, n_out: int) -> F32:
        pointer = self._llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (n_out, self.n_vocab))

    def _finish_observation(self) -> None:
        if self._recorder is not None:
            self.observed = self._recorder.take()

    def _truncate(self, seq: int, start: int) -> None:
        if not self._llama.llama_memory_seq_rm(self._memory, seq, start, -1):
            raise EngineError(
                "this model's state cannot be cut back (recurrent layers)", file=self.path,
                hint="Call reset() and decode from the start.",
            )  # fmt: skip
        self._ends[seq] = start

    def logprobs(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """Log-probabilities of the tokens of continuations of one prefix, computed once.

        Clears the KV cache. Continuations share batches, each in a sequence of its own that
        starts as a copy of the prefix (exact also for recurrent models).

        Returns:
            For each continuation log p of its tokens, float64 [len(continuation)].

        Raises:
            EngineError: an empty prefix, or more tokens than the context holds.
        """
        if not prefix:
            raise EngineError("an empty prefix predicts nothing: begin with BOS or EOS")
        longest = max((len(c) for c in continuations), default=0)
        if len(prefix) + longest > self.n_ctx:
            raise EngineError(
                "prefix and continuation do not fit the context", file=self.path,
                expected=f"at most {self.n_ctx} tokens", found=len(prefix) + longest,
            )  # fmt: skip
        self.reset()
        last = self.decode(prefix, logits="last")
        results: list[NDArray[np.float64]] = []
        group: list[Sequence[int]] = []
        room = (self.n_ctx if self.unified else self.n_batch) - len(prefix)
        most = (N_SHARED_SEQUENCES if self.unified else self.n_seq) - 1
        for continuation in continuations:
            used = sum(len(c) for c in group) + len(continuation)
            if group and (used > min(room, self.n_batch) or len(group) >= most):
                results += self._continue(last, len(prefix), group)
                group = []
            group.append(continuation)
        if group:
            results += self._continue(last, len(prefix), group)
        return results

    def _continue(
        self, last: F32, n_prefix: int, group: list[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        llama = self._llama
        out = [np.empty(len(c), np.float64) for c in group]
        for values, continuation in zip(out, group, strict=True):
            if continuation:  # the prefix predicts every first token
                values[0] = log_softmax_at(last, np.array([continuation[0]]))[0]
        # the last token of a continuation predicts nothing that is asked for
        bodies = [list(c[:-1]) for c in group]
        if any(bodies):
            used = [i for i, body in enumerate(bodies) if body]
            for i in used:
                llama.llama_memory_seq_cp(self._memory, 0, i + 1, -1, -1)
            tokens = np.concatenate([bodies[i] for i in used]).astype(np.int32)
            positions = np.concatenate([n_prefix + np.arange(len(bodies[i])) for i in used])
            seqs = np.concatenate([np.full(len(bodies[i]), i + 1) for i in used])
            targets = np.concatenate([np.asarray(group[i][1:]) for i in used])
            found = log_softmax_at(
                self.decode_batch(tokens, positions, seqs, np.ones(len(tokens))), targets
            )
            at = 0
            for i in used:
                out[i][1:] = found[at : at + len(bodies[i])]
                at += len(bodies[i])
                llama.llama_memory_seq_rm(self._memory, i + 1, -1, -1)
        return out

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> generation.Generation:
        """Continue a text; greedy at temperature 0. See `generation.generate`."""
        return generation.generate(
            self, tokens, max_tokens=max_tokens, stop=stop, temperature=temperature,
            top_k=top_k, top_p=top_p, seed=seed,
        )  # fmt: skip

    def close(self) -> None:
        """Free the model; the engine cannot be used afterwards."""
        if self._context is not None:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model is not None:
            self._llama.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
