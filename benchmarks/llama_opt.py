"""llama.cpp's own training of a healed cut, for comparison with `distil` for the same minutes.

    python benchmarks/llama_opt.py                       tiny-qwen3, half a minute
    python benchmarks/llama_opt.py --model healed.gguf --text train.txt --report test.txt \\
        --ctx 512 --minutes 35

Next-token loss, AdamW, windows side by side. llama.cpp trains tensors of F32 only, so the model is
written as F32 first; perplexities are of F32 files before and after. The struct is declared here
because llama-cpp-python 0.3.36 leaves out its last field, `optimizer_type`.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import llama_cpp

from ggsurgery import PerplexityRequest
from ggsurgery.files.text import read_corpus
from ggsurgery.runtime.quantize import quantize
from ggsurgery.runtime.vocab_only import VocabularyFile
from tests._tiny import MODEL, REPORT_TEXT, SEARCH_TEXT

I32, F32, ADAMW = 26, 0, 0  # enum ggml_type, enum ggml_opt_optimizer_type


class Rates(ctypes.Structure):
    """ggml_opt_optimizer_params."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("alpha", "beta1", "beta2", "eps", "decay")),
        *((name, ctypes.c_float) for name in ("sgd_alpha", "sgd_decay")),
    ]


class Asked(ctypes.Structure):
    """llama_opt_params, whole."""

    _fields_ = [
        ("n_ctx_train", ctypes.c_uint32),
        ("param_filter", ctypes.c_void_p),
        ("param_filter_data", ctypes.c_void_p),
        ("rates", ctypes.c_void_p),
        ("rates_data", ctypes.c_void_p),
        ("optimizer", ctypes.c_int),
    ]


def library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / name))


def train(source: Path, out: Path, tokens: np.ndarray, options: argparse.Namespace) -> list[float]:
    """Train for the minutes asked for; the mean loss of the steps, in ten parts."""
    llama, ggml = library("libllama.so"), library("libggml-base.so")
    for function in ("dataset_init", "dataset_data", "dataset_labels", "result_init"):
        getattr(ggml, f"ggml_opt_{function}").restype = ctypes.c_void_p
    ggml.ggml_get_data.restype = ctypes.c_void_p
    model_params = llama_cpp.llama_model_default_params()
    model_params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE  # weights must be writable
    model = llama_cpp.llama_model_load_from_file(str(source).encode(), model_params)
    asked = llama_cpp.llama_context_default_params()
    asked.n_ctx = asked.n_batch = asked.n_ubatch = options.ctx
    asked.n_threads = asked.n_threads_batch = options.threads
    asked.type_k = asked.type_v = F32  # OUT_PROD has no F16
    asked.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, asked)
    if not model or not context:
        sys.exit(f"{source}: llama.cpp cannot open it for training")
    if (n_ctx := llama_cpp.llama_n_ctx(context)) != options.ctx:
        sys.exit(f"--ctx {options.ctx}: llama.cpp rounds it to {n_ctx}; name that")
    rates = Rates(options.lr, 0.9, 0.999, 1e-8, 0.0, options.lr, 0.0)
    address = ctypes.cast
    filter_all = address(llama.llama_opt_param_filter_all, ctypes.c_void_p)
    constant = address(ggml.ggml_opt_get_constant_optimizer_params, ctypes.c_void_p)
    data = ctypes.cast(ctypes.byref(rates), ctypes.c_void_p)
    llama.llama_opt_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p, Asked]
    llama.llama_opt_init(context, model, Asked(0, filter_all, None, constant, data, ADAMW))
    shape = [ctypes.c_int64(n) for n in (options.ctx, options.ctx, 1, 1)]
    dataset = ctypes.c_void_p(ggml.ggml_opt_dataset_init(I32, I32, *shape))
    places = [
        ggml.ggml_get_data(ctypes.c_void_p(getattr(ggml, f"ggml_opt_dataset_{part}")(dataset)))
        for part in ("data", "labels")
    ]
    result = ctypes.c_void_p(ggml.ggml_opt_result_init())
    loss, error, losses = ctypes.c_double(), ctypes.c_double(), []
    n_windows = (len(tokens) - 1) // options.ctx
    order = np.random.default_rng(0)
    end, began = time.monotonic() + 60 * options.minutes, time.monotonic()
    while time.monotonic() < end:
        for index in order.permutation(n_windows):
            share = (time.monotonic() - began) / (60 * options.minutes)
            if share >= 1:
                break
            rates.alpha = options.lr * min(1.0, 20 * share + 0.05) * (1 + np.cos(np.pi * share)) / 2
            for shift, place in enumerate(places):
                window = tokens[index * options.ctx + shift :][: options.ctx]
                ctypes.memmove(place, np.ascontiguousarray(window).ctypes.data, 4 * options.ctx)
            ggml.ggml_opt_result_reset(result)
            llama.llama_opt_epoch(
                ctypes.c_void_p(context), dataset, result, None, ctypes.c_int64(1), None, None
            )
            ggml.ggml_opt_result_loss(result, ctypes.byref(loss), ctypes.byref(error))
            losses.append(loss.value)
    llama_cpp.llama_model_save_to_file(model, str(out).encode())
    return [float(np.mean(part)) for part in np.array_split(losses, min(10, len(losses)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="the cut to train")
    parser.add_argument("--text", type=Path, default=SEARCH_TEXT, help="the training text")
    parser.add_argument("--report", type=Path, default=REPORT_TEXT, help="the text to measure on")
    parser.add_argument("--tokens", type=int, default=128_000, help="of the text, at most")
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--ctx", type=int, default=256, help="of a window; a multiple of 256")
    parser.add_argument("--windows", type=int, default=16, help="of the text to measure on")
    parser.add_argument("--lr", type=float, default=1e-5, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the trained model here (F32)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.gguf", options.out or Path(folder) / "after.gguf"
        quantize(options.model, before, "F32", allow_requantize=True)
        with VocabularyFile(before) as vocabulary:
            tokens = np.asarray(vocabulary.tokenize(read_corpus(options.text)), np.int32)
        losses = train(before, after, tokens[: options.tokens], options)
        print("training loss, in ten parts:", " ".join(f"{loss:.3f}" for loss in losses))
        for name, path in (("before", before), ("after", after)):
            request = PerplexityRequest(
                file=path, text=options.report, ctx=options.ctx, windows=options.windows
            )
            print(f"perplexity {name}: {request.run().value:.3f}")


if __name__ == "__main__":
    main()
