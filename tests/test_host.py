"""One number of threads, one rule for an importance matrix: the same everywhere."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from ggsurgery import host
from ggsurgery.runtime import binding, machine
from ggsurgery.runtime.filetypes import file_types
from ggsurgery.runtime.imatrix_need import FILE_TYPES, file_needs_imatrix, tensor_needs_imatrix
from ggsurgery.runtime.quantize_call import Call, dry_runs
from ggsurgery.surgery import prepared, write, zeros
from ggsurgery.tensors import evaluate
from ggsurgery.tensors.parallel import in_order

from ._command import call
from ._gguf import tiny_llama
from ._needs import ROOT
from ._small_models import write_small_model


@pytest.mark.parametrize("name", ["blend", "merge", "prune"])
def test_computing_commands_take_the_threads_asked_for(tmp_path, monkeypatch, name):
    source = tiny_llama(tmp_path / "in.gguf", 4)
    words = {
        "blend": ["--weights", "0.7,0.3", source, source],
        "merge": ["--layers", "1-3", source],
        "prune": ["--sparsity", "0.3", source],
    }[name]
    seen: list[int] = []

    def spy(function, items, threads):
        seen.append(threads)
        return in_order(function, items, threads)

    monkeypatch.setattr(evaluate, "in_order", spy)
    for number in ("3", "1"):
        seen.clear()
        monkeypatch.setenv("GGSURGERY_THREADS", number)
        call(name, *words, tmp_path / f"{number}.gguf")
        assert set(seen) == {int(number)}
    seen.clear()
    call(name, *words, tmp_path / "2.gguf", "--threads", 2)
    assert set(seen) == {2}
    assert os.environ["GGSURGERY_THREADS"] == "1"
    monkeypatch.setenv("GGSURGERY_THREADS", "many")
    said = call(name, *words, tmp_path / "out.gguf", code=1).err
    assert "GGSURGERY_THREADS must be a positive integer: found many" in said
    assert not (tmp_path / "out.gguf").exists()


def test_a_run_takes_the_threads_asked_for(tmp_path, monkeypatch):
    """Every step of it, those of child processes too."""
    seen: list[str | None] = []
    monkeypatch.delenv("GGSURGERY_THREADS", raising=False)
    monkeypatch.setattr(
        prepared, "execute", lambda *_, **__: seen.append(os.environ.get("GGSURGERY_THREADS")) or 1
    )
    source = tiny_llama(tmp_path / "in.gguf", 4)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"source: {{file: {source}}}\noperations: [{{delete: 1}}]\n")
    call("run", recipe, "--out", tmp_path / "out", "-t", 3, code=1)
    assert seen == ["3"]
    assert "GGSURGERY_THREADS" not in os.environ


def test_the_threads_are_counted_in_one_place():
    assert evaluate.n_threads is write.n_threads is zeros.n_threads is host.n_threads
    assert not hasattr(machine, "n_threads")


def test_counting_threads_loads_no_llama_cpp():
    code = "import ggsurgery.tensors.evaluate, sys; print('llama_cpp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "in.gguf")


@pytest.mark.parametrize("pure", [False, True])
def test_which_file_types_need_an_imatrix_is_what_llama_cpp_says(model, pure):
    assert len(file_types()) > 20 and set(FILE_TYPES) <= set(file_types())
    calls = [
        Call(str(model), "", number, 2, pure=pure, dry_run=True) for number in file_types().values()
    ]
    found = dict(zip(file_types(), dry_runs(calls), strict=True))
    said = {name: told.needs_imatrix for name, told in found.items()}
    assert said == {name: file_needs_imatrix(name, pure=pure) for name in said}


def test_no_tensor_type_goes_to_ggml_without_the_imatrix_that_it_asserts():
    asks = binding.ggml().ggml_quantize_requires_imatrix
    asks.restype = ctypes.c_bool
    asserted = {kind.name.lower() for kind in GGMLQuantizationType if asks(int(kind))}
    assert "iq1_s" in asserted
    assert all(tensor_needs_imatrix(kind, "") for kind in asserted)


def test_a_recipe_with_iq3_xs_and_no_imatrix_is_refused_before_the_work(tmp_path, model):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: x\nsource: {{file: {model}}}\noperations: [{{delete: {{layer: '1'}}}}]\n"
        "quantize: {types: [IQ3_XS]}\n"
    )
    said = call("run", recipe, "--out", tmp_path / "out", code=1).err
    assert "llama.cpp makes IQ3_XS only with an importance matrix" in said
    assert not (tmp_path / "out").exists()
