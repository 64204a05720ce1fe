"""Weights with a separate scale, and tensors that only one parent has.

Every operation on a model with scales must give the network that the same operation gives
on the model with the scales multiplied in by numpy: in float64 values, and in llama.cpp's
logits.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader

from tests._command import call
from tests._llama_logits import logits

from ._scaled import Tensors, folded, model, read, with_scales, write

pytestmark = pytest.mark.slow

#: Scales in both parents, in the first or in the second alone.
SCALED = ({1: 0.5, 2: 4.0}, {1: 0.5}, {2: 4.0})


def with_biases(tensors: Tensors, *layers: int) -> Tensors:
    found = dict(tensors)
    random = np.random.default_rng(9)
    for layer, name in product(layers, ("attn_q", "attn_output", "ffn_up", "ffn_down")):
        rows = tensors[f"blk.{layer}.{name}.weight"].shape[0]
        found[f"blk.{layer}.{name}.bias"] = random.standard_normal(rows).astype(np.float32)
    return found


def assert_same_network(one: Path, other: Path, *, run_it: bool = True) -> None:
    found, expected = folded(read(one)), folded(read(other))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    if run_it:
        np.testing.assert_allclose(logits(one), logits(other), rtol=1e-3, atol=1e-3)


OPERATIONS = (
    ("merge", "--layers", "1-2"),
    ("merge", "--layers", "1-3"),
    ("merge", "--layers", "1-3", "--method", "mean"),
    ("merge", "--layers", "1-3", "--method", "reference"),
    ("merge", "--layers", "1-2", "--method", "damped", "--factor", "0.3"),
    ("merge", "--layers", "1-2", "--method", "mean", "--parts", "ffn"),
    ("interpolate", "--layers", "1,2"),
    ("interpolate", "--layers", "2,1"),
    ("interpolate", "--layers", "1,2", "--method", "slerp", "--weight", "0.3"),
    ("interpolate", "--layers", "1,2", "--weight", "1"),
    ("bridge", "--layer", "2", "--at", "4", "--scale", "0.5"),
    ("duplicate", "--layer", "1-2", "--scale", "0.25"),
    ("prune", "--sparsity", "0.4"),
    ("prune", "--sparsity", "0.4", "--scope", "row"),
    ("prune", "--sparsity", "0.4", "--scope", "tensor"),
    ("prune", "--sparsity", "0.4", "--largest"),
    ("prune", "--pattern", "2:4"),
)


@pytest.mark.parametrize("scales", SCALED, ids=["both", "first", "second"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_operations_see_effective_weights(
    tmp_path: Path, operation: tuple[str, ...], scales: dict[int, float]
) -> None:
    tensors = with_scales(with_biases(model(), 1, 2), scales)
    scaled = write(tmp_path / "scaled.gguf", tensors)
    plain = write(tmp_path / "plain.gguf", folded(tensors))
    call(*operation, scaled, tmp_path / "a.gguf")
    call(*operation, plain, tmp_path / "b.gguf")
    run_it = scales == SCALED[2]  # a process a file: the values are compared in every case
    assert_same_network(tmp_path / "a.gguf", tmp_path / "b.gguf", run_it=run_it)


def test_a_blend_of_layers_against_float64(tmp_path: Path) -> None:
    tensors = with_scales(model(), {2: 4.0})
    source = write(tmp_path / "in.gguf", tensors)
    plain = folded(tensors)
    call("merge", "--layers", "1-3", source, tmp_path / "merged.gguf")
    call("interpolate", "--layers", "2,1", "--weight", "0.25", source, tmp_path / "between.gguf")
    merged, between = read(tmp_path / "merged.gguf"), read(tmp_path / "between.gguf")
    for name in ("attn_q.weight", "ffn_down.weight", "attn_norm.weight"):
        a, b, c = (plain[f"blk.{n}.{name}"].astype(np.float64) for n in (1, 2, 3))
        np.testing.assert_allclose(merged[f"blk.1.{name}"], b + c - a, atol=1e-6)
        np.testing.assert_allclose(between[f"blk.3.{name}"], 0.75 * b + 0.25 * a, atol=1e-6)
    assert not [n for n in merged if n.endswith("scale")]


def test_damping_changes_the_scale_and_copies_the_weight(tmp_path: Path) -> None:
    tensors = with_scales(model(), {2: 4.0})
    source = write(tmp_path / "in.gguf", tensors, T.Q8_0)
    call("duplicate", "--layer", "2", "--scale", "0.5", source, tmp_path / "out.gguf")
    before = {t.name: t for t in GGUFReader(source).tensors}
    after = {t.name: t for t in GGUFReader(tmp_path / "out.gguf").tensors}
    for name in ("attn_output", "ffn_down"):
        old, new = f"blk.2.{name}", f"blk.3.{name}"
        np.testing.assert_array_equal(after[f"{new}.weight"].data, before[f"{old}.weight"].data)
        assert after[f"{new}.scale"].data[0] == before[f"{old}.scale"].data[0] / 2
        assert after[f"{new}.input_scale"].data[0] == before[f"{old}.input_scale"].data[0]


def test_operations_that_copy_keep_the_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "in.gguf", with_scales(model(), {1: 0.5, 2: 4.0}), T.NVFP4)
    call("swap", "--layers", "1,2", source, tmp_path / "out.gguf")
    before = {t.name: t.data for t in GGUFReader(source).tensors}
    after = {t.name: t.data for t in GGUFReader(tmp_path / "out.gguf").tensors}
    for name, data in before.items():
        parts = name.split(".")
        if parts[0] == "blk":
            parts[1] = {"1": "2", "2": "1"}.get(parts[1], parts[1])
        np.testing.assert_array_equal(after[".".join(parts)], data)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    "method",
    [
        ("--method", "linear", "--weights", "0.7,0.3"),
        ("--method", "slerp", "--weights", "0.3"),
        ("--method", "task-arithmetic", "--weights", "0.5", "--base"),
        ("--method", "ties", "--density", "0.5", "--base"),
        ("--method", "dare", "--density", "0.5", "--base"),
    ],
    ids=lambda m: m[1],
)
def test_blends_of_a_model_with_scales_and_one_without(
    tmp_path: Path, method: tuple[str, ...], order: tuple[int, int]
) -> None:
    """NVFP4 beside BF16: the scales of one model, none in the other, in either order."""
    scaled = with_scales(model(), {0: 2.0, 1: 0.5, 2: 4.0})
    pairs = []
    for name, tensors in (("scaled", scaled), ("plain", folded(scaled))):
        files = [
            write(tmp_path / f"{name}.gguf", tensors),
            write(tmp_path / f"{name}-other.gguf", model(1)),
        ]
        out = tmp_path / f"{name}-out.gguf"
        call("blend", *method, files[order[0]], files[order[1]], out)
        pairs.append(out)
    assert_same_network(*pairs)


def test_nvfp4_is_computed_into_f32_and_said(tmp_path: Path) -> None:
    """Its block scales reach from 2⁻⁹ to 448 only: without a scale small weights become 0."""
    tensors = with_scales({n: v / 100 for n, v in model().items()}, {1: 0.005, 2: 0.003})
    kind = lambda n: T.NVFP4 if n.split(".")[1] in ("1", "2") else T.BF16  # noqa: E731
    source = write(tmp_path / "in.gguf", tensors, kind)
    out = tmp_path / "out.gguf"
    said = " ".join(call("interpolate", "--layers", "1,2", source, out).err.split())
    assert "nvfp4 cannot be written without an importance matrix or a separate scale" in said
    plain, found = folded(read(source)), read(out)
    for name in ("attn_q.weight", "ffn_down.weight"):
        exact = (plain[f"blk.1.{name}"].astype(np.float64) + plain[f"blk.2.{name}"]) / 2
        np.testing.assert_allclose(found[f"blk.2.{name}"], exact, rtol=1e-6)
    refused = ("interpolate", "--layers", "1,2", "--out-type", "nvfp4")
    assert "cannot be written as nvfp4" in call(*refused, source, tmp_path / "x", code=1).err


def test_scales_of_experts(tmp_path: Path) -> None:
    """One value an expert, in the order of the stack."""
    from ggsurgery.tensors.evaluate import evaluate
    from ggsurgery.tensors.expr import Read
    from ggsurgery.tensors.scales import effective

    from ._files import weights, write_file

    stack, factors = weights((3, 4, 64), 0), np.array([0.5, -2.0, 8.0])
    tensors = {
        "blk.0.ffn_up_exps.weight": (stack, T.F32),
        "blk.0.ffn_up_exps.scale": (factors, T.F32),
        "blk.0.ffn_gate_inp.weight": (weights((3, 64), 1), T.F32),
        "blk.0.ffn_gate_inp.scale": (weights((64,), 2), T.F32),
    }
    with write_file(tmp_path / "m.gguf", tensors) as source:
        read_ = {t.name: Read(0, t) for t in source.header.tensors}
        expr = effective(read_.get, "blk.0.ffn_up_exps.weight")
        assert expr is not None
        raw = b"".join(bytes(b) for b in evaluate(expr, T.F32, [source], threads=1))
        found = np.frombuffer(raw, np.float32).reshape(stack.shape)
        exact = stack.astype(np.float64) * factors[:, None, None]
        np.testing.assert_allclose(found, exact, rtol=1e-6)
        router = "blk.0.ffn_gate_inp.weight"  # gemma4: a parameter of its own
        assert effective(read_.get, router) is read_[router]


def test_the_importance_of_scaled_weights(tmp_path: Path) -> None:
    """One threshold over all weights compares what the model uses."""
    tensors = with_scales(model(), {1: 0.01, 2: 100.0})
    source, out = write(tmp_path / "in.gguf", tensors), tmp_path / "out.gguf"
    call("prune", "--sparsity", "0.5", source, out)
    before, after = folded(tensors), read(out)
    chosen = [n for n in before if n.startswith("blk.") and before[n].ndim > 1]
    size = np.concatenate([np.abs(before[n]).ravel() for n in chosen])
    gone = np.concatenate([after[n].ravel() == 0 for n in chosen])
    assert gone.sum() == round(0.5 * size.size)
    assert size[gone].max() <= size[~gone].min() * (1 + 1e-6)


@pytest.mark.parametrize("order", ["1,2", "2,1"])
@pytest.mark.parametrize("method", ["lerp", "slerp"])
def test_a_bias_that_one_layer_has_is_zero_in_the_other(
    tmp_path: Path, order: str, method: str
) -> None:
    tensors = with_biases(model(), 2)
    zeros = {
        n.replace("blk.2.", "blk.1."): np.zeros_like(tensors[n])
        for n in tensors
        if n.startswith("blk.2.") and n.endswith("bias")
    }
    lacking = write(tmp_path / "lacking.gguf", tensors)
    explicit = write(tmp_path / "explicit.gguf", {**tensors, **zeros})
    command = ("interpolate", "--layers", order, "--method", method, "--at", "3")
    call(*command, lacking, tmp_path / "a.gguf")
    call(*command, explicit, tmp_path / "b.gguf")
    found, expected = read(tmp_path / "a.gguf"), read(tmp_path / "b.gguf")
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-7, err_msg=name)
    half = tensors["blk.2.ffn_up.bias"].astype(np.float64) / 2
    if method == "lerp":
        np.testing.assert_allclose(found["blk.3.ffn_up.bias"], half, atol=1e-7)
    np.testing.assert_allclose(
        logits(tmp_path / "a.gguf"), logits(tmp_path / "b.gguf"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("order", ["1,2", "2,1"])
def test_any_other_missing_tensor_is_refused_in_both_orders(tmp_path: Path, order: str) -> None:
    tensors = model()
    tensors["blk.2.attn_q_norm.weight"] = np.ones(16, np.float32)
    source = write(tmp_path / "in.gguf", tensors)
    said = call("interpolate", "--layers", order, source, tmp_path / "out.gguf", code=1).err
    assert "blk.1.attn_q_norm.weight" in said.replace("\n", "")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("turned", [False, True])
def test_blends_of_some_layers(tmp_path: Path, turned: bool) -> None:
    """Scales and biases of one model alone, in either order, where only layers are blended."""
    scaled = with_scales(with_biases(model(), 1), {1: 0.5, 2: 4.0})
    with_them = write(tmp_path / "a.gguf", scaled)
    without = write(tmp_path / "b.gguf", model(1))
    files = [without, with_them] if turned else [with_them, without]
    weights = "0.25,0.75" if turned else "0.75,0.25"
    call("blend", "--layers", "1-2", "--weights", weights, *files, tmp_path / "out.gguf")
    found, a, b = read(tmp_path / "out.gguf"), folded(scaled), model(1)
    for name in [n for n in a if n.startswith(("blk.1.", "blk.2."))]:
        exact = 0.75 * a[name].astype(np.float64) + 0.25 * b.get(name, np.zeros(1))
        np.testing.assert_allclose(found[name], exact, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("turned", [False, True])
def test_blends_of_a_model_with_biases_and_one_without(tmp_path: Path, turned: bool) -> None:
    a = {**with_biases(model(), 1), "output_norm.bias": np.ones(64, np.float32)}
    with_them = write(tmp_path / "a.gguf", a)
    without = write(tmp_path / "b.gguf", model(1))
    files = [without, with_them] if turned else [with_them, without]
    weights = "0.25,0.75" if turned else "0.75,0.25"
    call("blend", "--weights", weights, *files, tmp_path / "out.gguf")
    found = read(tmp_path / "out.gguf")
    for name in ("blk.1.ffn_up.bias", "output_norm.bias"):
        np.testing.assert_allclose(found[name], 0.75 * a[name].astype(np.float64), rtol=1e-6)
