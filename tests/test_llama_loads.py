"""llama.cpp loads what was made, and it means what was asked.

A layer whose output matrices are zero adds nothing: a model with such layers must give the
very logits of the model without them.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ggsurgery.ggufio.reader import Source
from ggsurgery.plan.recipe import step

from ._gguf import tiny_llama
from ._llama_logits import logits
from .surgery.test_prepare import operate


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "in.gguf", 6)


def with_idle_layers(model, out, *layers):
    shutil.copy(model, out)
    with Source(out) as source, out.open("r+b") as file:
        for layer in layers:
            for suffix in ("attn_output.weight", "ffn_down.weight"):
                t = source.header.layer_tensors(layer)[suffix]
                file.seek(source.position(t))
                file.write(bytes(t.nbytes))
    return out


def test_delete_equals_a_bypass(tmp_path, model):
    idle = with_idle_layers(model, tmp_path / "idle.gguf", 1, 4)
    short = operate(model, tmp_path / "short.gguf", step("delete", layer="1,4"))
    assert np.array_equal(logits(short), logits(idle))
    assert not np.array_equal(logits(short), logits(model))


def test_rearranging_and_back(tmp_path, model):
    there = operate(model, tmp_path / "a.gguf", step("move", layer="4", to=1))
    back = operate(there, tmp_path / "b.gguf", step("move", layer="1", to=4))
    assert np.array_equal(logits(back), logits(model))
    assert not np.array_equal(logits(there), logits(model))


def test_duplicates_of_idle_layers_change_nothing(tmp_path, model):
    idle = with_idle_layers(model, tmp_path / "idle.gguf", 2)
    longer = operate(idle, tmp_path / "longer.gguf", step("duplicate", layer="2", to=0, times=3))
    assert np.array_equal(logits(longer), logits(idle))


def test_a_split_source(tmp_path, model):
    split = tiny_llama(tmp_path / "split.gguf", 6, split=11)
    whole = operate(split, tmp_path / "whole.gguf", step("keep", layers="0-5"))
    assert np.array_equal(logits(whole), logits(model))
