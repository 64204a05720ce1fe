"""A loaded model: decode, log-probabilities, hidden states, text.

with Engine.open("model.gguf", n_ctx=1024) as engine:
    logits = engine.decode(engine.tokenize("The capital of France is"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from . import continuations as shared_prefix
from . import generation, probe
from .context import Context
from .observe import NonFinite, Recorder

F32 = NDArray[np.float32]
#: The graph node that holds the logits.
LOGITS = "result_output"

Outputs = Literal["all", "last", "none"] | slice
Names = Iterable[str] | Callable[[str], bool]


class Engine(Context):
    """A model and a context of llama.cpp; open it with `Engine.open`, close it or use `with`.

    Attributes:
        path: the file.
        n_ctx: tokens a sequence can hold; n_batch: tokens given to llama.cpp at once.
        n_vocab, n_embd, n_layer, n_ctx_train: of the model.
        add_bos, bos, eos, eog, chat_template: of its vocabulary (see `Vocabulary`).
        extra_buffers: whether weights were repacked for this CPU.
        head_seen: whether logits were seen to be computed; set it where none are looked at.
        observed: graph nodes of the last decode by name, float32 [n_tokens, width].
    """

    observed: dict[str, F32]
    _recorder: Recorder | None = None
    head_seen = False

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
        room = min(n_ctx if unified else n_ctx * n_seq, n_batch or n_ctx * n_seq)
        if n_seq < 1 or room < n_seq:  # llama.cpp aborts, or takes the trained length for 0
            raise EngineError(
                "the context has no room for a token of every sequence",
                file=path,
                expected=f"{max(1, n_seq)} tokens or more",
                found=room,
                hint="Ask for a larger context (`ctx`) or fewer sequences at once.",
            )
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
        engine.observed = {}
        if callable(observe) or (observe := tuple(observe)):
            engine.observe(observe)
        return engine

    def observe(self, names: Names) -> None:
        """Keep these graph nodes (`l_out-3`, `ffn_inp-3`) at every decode, in `observed`.

        A model's last layer computes only the tokens whose logits are asked for: ask for
        "all" to see all of them there. The first call clears the KV cache.
        """
        self._recorder = Recorder(names)
        self.set_hook(self._recorder)

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
                "token is not in the vocabulary",
                file=self.path,
                expected=f"0 to {self.n_vocab - 1}",
                found=bad,
            )
        return self._decode(ids, logits, seq, start, copy=copy)

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
                "embeddings of another width",
                file=self.path,
                expected=f"[n, {self.n_embd}]",
                found=list(rows.shape),
            )
        return self._decode(rows, logits, seq, start, copy=copy)

    def _decode(
        self,
        data: NDArray[np.int32] | F32,  # tokens or embeddings
        logits: Outputs,
        seq: int,
        start: int | None,
        *,
        copy: bool,
    ) -> F32:
        n = len(data)
        self.held_prefix = []
        first = self._ends.get(seq, 0) if start is None else start
        if start is not None and start < self._ends.get(seq, 0):
            self._truncate(seq, start)
        if n == 0:
            return np.empty((0, self.n_vocab), np.float32)
        if first + n > self.n_ctx:
            raise EngineError(
                "the context is full",
                file=self.path,
                expected=f"at most {self.n_ctx} tokens",
                found=first + n,
                hint="Open it with a larger context (`ctx`).",
            )
        wanted = np.zeros(n, np.int8)
        if isinstance(logits, slice):
            wanted[logits] = 1
        elif logits != "none":
            wanted[0 if logits == "all" else -1 :] = 1
        pieces: list[F32] = []
        for begin in range(0, n, self.n_batch):
            part = slice(begin, min(n, begin + self.n_batch))
            positions = np.arange(first + part.start, first + part.stop, dtype=np.int32)
            self.run_batch(data[part], positions, np.full(len(positions), seq), wanted[part])
            n_out = int(wanted[part].sum())
            if n_out:
                view = self.logits_of(n_out)
                pieces.append(view.copy() if copy or n > self.n_batch else view)
        self._ends[seq] = first + n
        self._finish_observation()
        if not pieces:
            return np.empty((0, self.n_vocab), np.float32)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def decode_batch(
        self,
        tokens: NDArray[Any],
        positions: NDArray[Any],
        seqs: NDArray[Any],
        wanted: NDArray[Any],
    ) -> F32:
        """One batch of several sequences at once; the caller keeps the positions.

        Args:
            tokens: int [n], n ≤ n_batch.
            positions: int [n].
            seqs: int [n].
            wanted: bool [n], for which tokens logits are computed.

        Returns:
            A view, float32 [wanted.sum(), n_vocab], that the next decode overwrites.
        """
        self.held_prefix = []
        self.run_batch(
            np.ascontiguousarray(tokens, np.int32),
            np.ascontiguousarray(positions, np.int32),
            seqs,
            np.ascontiguousarray(wanted, np.int8),
        )
        self._finish_observation()
        return self.logits_of(int(np.count_nonzero(wanted)))

    def _finish_observation(self) -> None:
        if self._recorder is not None:
            self.observed = self._recorder.take()

    def logits_of(self, n_out: int) -> F32:
        view = super().logits_of(n_out)
        if not self.head_seen:
            # of a model without a head llama.cpp hands out zeros, without a word
            if not view.any() and not self._computes_logits():
                raise EngineError(
                    "the model gives no logits: it makes embeddings, and predicts no tokens",
                    file=self.path,
                    hint="Only models that predict the next token can be measured or generate.",
                )
            self.head_seen = True
        return view

    def _computes_logits(self) -> bool:
        with Engine.open(
            self.path,
            n_ctx=8,
            n_threads=self.n_threads,
            extra_buffers=self.extra_buffers,
            observe=[LOGITS],
        ) as engine:
            engine.head_seen = True
            engine.decode([0])
            return LOGITS in engine.observed

    def _truncate(self, seq: int, start: int) -> None:
        if not self._llama.llama_memory_seq_rm(self._memory, seq, start, -1):
            raise EngineError(
                "this model's state cannot be cut back (recurrent layers)",
                file=self.path,
                hint="Call reset() and decode from the start.",
            )
        self._ends[seq] = start

    def logprobs(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """Log-probabilities of the tokens of continuations of one prefix, computed once.

        Returns:
            For each continuation log p of its tokens, float64 [len(continuation)].
        """
        return [found.logprobs for found in self.score(prefix, continuations)]

    def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[shared_prefix.Continued]:
        """Like `logprobs`, plus whether greedy decoding would generate each continuation."""
        return shared_prefix.score(self, prefix, continuations)

    def first_nonfinite(self, tokens: Sequence[int] | NDArray[Any]) -> str | None:
        """The graph node in which NaN or infinity first appears when decoding `tokens`.

        Returns:
            A name such as `ffn_out-7`, or None if every node stays finite. Clears the KV cache.
        """
        finder = NonFinite()
        before = self._recorder
        self.set_hook(finder)
        try:
            self.reset()
            self.decode(tokens, logits="all", copy=False)
        finally:
            self.set_hook(before)
        return finder.first

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
        each: Callable[[list[int]], object] | None = None,
    ) -> generation.Generation:
        """Continue a text; greedy at temperature 0. See `generation.generate`."""
        return generation.generate(
            self,
            tokens,
            max_tokens=max_tokens,
            stop=stop,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            each=each,
        )
