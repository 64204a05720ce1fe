"""The memory that `inspect` tells, against what llama.cpp says it keeps."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.summary import summarize

from ..fixtures import families, llama
from ..fixtures.network import Network

N_CTX = 4096


def cache_mib(path: str) -> float:
    """Keys and values in MiB by llama.cpp's log, with the defaults of its programs."""
    import llama_cpp

    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def log(level: int, text: bytes, _: object) -> None:
        lines.append(text.decode())

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_ubatch, options.swa_full = N_CTX, 512, False
    assert llama_cpp.llama_init_from_model(model, options)
    found = re.findall(r"llama_kv_cache: size = +([\d.]+) MiB", "".join(lines))
    return sum(map(float, found))


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "phi3",
        "gemma3",
        "gemma3n",
        "gemma4",
        "gpt-oss",
        "cohere2",
        "llama4",
        "deepseek2",
        "jamba",
        "mamba2",
        "nemotron_h",
        "falcon-h1",
        "qwen3next",
        "lfm2",
        "qwen35 with MTP",
        "glm4moe with MTP",
        "step35 with MTP",
    ],
)
def test_keys_and_values(name: str, tmp_path: Path) -> None:
    model = Network(families.recipes()[name], tmp_path).write("model.gguf")
    said = llama.in_child(cache_mib, str(model))
    assert summarize(read_header(model), N_CTX).kv_bytes / 2**20 == pytest.approx(said, abs=0.01)
