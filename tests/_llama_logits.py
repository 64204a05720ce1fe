"""Logits of a model by llama.cpp alone, in a process of its own (a crash stays there).

python -m tests._llama_logits MODEL OUT.npy
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ._command import environment

TOKENS = [3, 14, 15, 9, 26, 5, 35, 8]


def logits(model: Path) -> np.ndarray:
    """float32 [tokens, vocabulary] of a fixed sequence; AssertionError if llama.cpp refuses."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.npy"
        done = subprocess.run(
            [sys.executable, "-m", "tests._llama_logits", str(model), str(out)],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"llama.cpp on {model}: {done.stderr[-2000:]}"
        return np.asarray(np.load(out))


def _main(model: str, out: str) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts = 0, False
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), params)
    assert loaded, "not loaded"
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx, context_params.n_threads = 64, 1
    context = llama_cpp.llama_init_from_model(loaded, context_params)
    assert context, "no context"
    batch = llama_cpp.llama_batch_init(len(TOKENS), 0, 1)
    batch.n_tokens = len(TOKENS)
    for i, token in enumerate(TOKENS):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert llama_cpp.llama_decode(context, batch) == 0, "decode failed"
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
    rows = [
        np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (n_vocab,)).copy()
        for i in range(len(TOKENS))
    ]
    np.save(out, np.stack(rows))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
