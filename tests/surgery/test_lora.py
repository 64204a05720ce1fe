"""LoRA adapters: merged as llama-export-lora merges them and as llama.cpp applies them, checked,
moved along the layers, and refused."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter, dequantize

from ggsurgery.errors import FormatError
from ggsurgery.ggufio.lora import read_adapter, write_adapter
from tests._command import call, error_line
from tests._llama_tools import llama_tool
from tests._scales import with_scales_of
from tests._small_models import write_small_model
from tests.fixtures import llama

RANK, ALPHA = 4, 6.0
MATRICES = ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_down")
TOKENS = [3, 14, 15, 9, 26, 5, 35, 8]

Arrays = Mapping[str, np.ndarray]


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}


def updates(
    model: Path, names: list[str], seed: int = 1, rank: int = RANK
) -> dict[str, np.ndarray]:
    """Random matrices for these tensors of a model, by their names in an adapter."""
    random, found = np.random.default_rng(seed), {}
    shapes = {t.name: tuple(map(int, t.shape)) for t in GGUFReader(model).tensors}
    for name in names:
        columns, rows, *slabs = shapes[name]
        if name == "token_embd.weight":
            a, b = (rows, rank), (columns, rank)
        else:
            a, b = (*slabs, rank, columns), (*slabs, rows, rank)
        for end, shape in ((".lora_a", a), (".lora_b", b)):
            found[name + end] = (random.standard_normal(shape) * 0.1).astype(np.float32)
    return found


def written(
    path: Path, arrays: Arrays, arch: str = "llama", alpha: float = ALPHA, **keys: Any
) -> Path:
    """An adapter by gguf-py."""
    writer = GGUFWriter(path, arch)
    writer.add_type(keys.pop("type", "adapter"))
    writer.add_string("adapter.type", keys.pop("kind", "lora"))
    writer.add_float32("adapter.lora.alpha", alpha)
    for key, value in keys.items():
        writer.add_array(key.replace("__", "."), value)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def all_names(n_layers: int, matrices: tuple[str, ...] = MATRICES) -> list[str]:
    return [f"blk.{i}.{m}.weight" for i in range(n_layers) for m in matrices]


def exact(before: Arrays, arrays: Arrays, factor: float) -> dict[str, np.ndarray]:
    """W + factor · B A in float64."""
    found = {name: value.astype(np.float64) for name, value in before.items()}
    for name in [n.removesuffix(".lora_a") for n in arrays if n.endswith(".lora_a")]:
        a, b = (arrays[name + end].astype(np.float64) for end in (".lora_a", ".lora_b"))
        found[name] += factor * (a @ b.T if name == "token_embd.weight" else b @ a)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", ["F16", "F32", "Q4_0", "experts", "two adapters"])
def test_equal_to_llama_export_lora(case: str, tmp_path: Path) -> None:
    """Its output is F16 (F32 of F32): the same numbers within one rounding."""
    tool = llama_tool("llama-export-lora")
    experts = 3 if case == "experts" else 0
    model = write_small_model(
        tmp_path / "in.gguf", n_layers=2, n_experts=experts, float16=case != "F32"
    )
    if case == "Q4_0":
        call("quantize", model, tmp_path / "q.gguf", "--type", "Q4_0")
        model = tmp_path / "q.gguf"
    matrices = ("attn_k", "ffn_up_exps", "ffn_down_exps") if experts else MATRICES
    names = [*all_names(2, matrices), "token_embd.weight", "output.weight"]
    scales = [0.5, 1.5] if case == "two adapters" else [0.5]
    adapters = [
        written(tmp_path / f"{n}.gguf", updates(model, names, seed=n)) for n in range(len(scales))
    ]
    theirs = tmp_path / "theirs.gguf"
    given = ",".join(f"{path}:{scale}" for path, scale in zip(adapters, scales, strict=True))
    subprocess.run(
        [tool, "-m", model, "--lora-scaled", given, "-o", theirs], check=True, capture_output=True
    )
    options = [o for scale in scales for o in ("--scale", scale)]
    ours = tmp_path / "ours.gguf"
    kind = ("--out-type", "f32" if case == "F32" else "f16")
    call("lora", "merge", model, *adapters, ours, *options, *kind)
    found, expected = tensors(ours), tensors(theirs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        rounding = 1e-6 if case == "F32" else 2**-10
        np.testing.assert_allclose(found[name], value, rtol=rounding, atol=1e-6, err_msg=name)
    changed = {n for n, value in tensors(model).items() if not np.array_equal(found[n], value)}
    assert changed == set(names)


@pytest.mark.slow
def test_logits_are_those_of_llama_cpp_with_lora(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "in.gguf", n_layers=3, float16=False)
    adapter = written(tmp_path / "a.gguf", updates(model, all_names(3)))
    out = tmp_path / "out.gguf"
    call("lora", "merge", model, adapter, out, "--scale", -0.75)
    (plain,) = llama.in_child(llama.all_logits, [str(model)], TOKENS)
    pairs = [(str(adapter), -0.75)]
    (applied,) = llama.in_child(llama.all_logits, [str(model)], TOKENS, 0, False, pairs)
    (merged,) = llama.in_child(llama.all_logits, [str(out)], TOKENS)
    span = np.ptp(applied)
    assert np.abs(merged - applied).max() < 1e-4 * span
    assert np.abs(plain - applied).max() > 1e-2 * span


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
def test_types_are_kept(tmp_path: Path, kind: str) -> None:
    """Each value within a step of its own type from the exact sum."""
    plain = write_small_model(tmp_path / "in.gguf", n_layers=2)
    model = tmp_path / "q.gguf"
    call("quantize", plain, model, "--type", kind)
    arrays = updates(model, all_names(2))
    out = tmp_path / "out.gguf"
    call("lora", "merge", model, written(tmp_path / "a.gguf", arrays), out)
    types = [{t.name: t.tensor_type for t in GGUFReader(p).tensors} for p in (model, out)]
    assert types[0] == types[1]
    before, found = tensors(model), tensors(out)
    expected = exact(before, arrays, ALPHA / RANK)
    for name in before:
        if f"{name}.lora_a" not in arrays:
            np.testing.assert_array_equal(found[name], before[name])
            continue
        error = np.abs(found[name] - expected[name]).max()
        assert error < np.abs(expected[name]).max() * (0.005 if kind == "Q8_0" else 0.1), name


def test_without_alpha_and_of_rank_one(tmp_path: Path) -> None:
    """No alpha: no factor. A matrix of one row may have lost its second axis."""
    model = write_small_model(tmp_path / "in.gguf", n_layers=1, float16=False)
    arrays = updates(model, ["blk.0.ffn_up.weight"], rank=1)
    flat = arrays | {n: v.ravel() for n, v in arrays.items() if n.endswith("lora_a")}
    adapter = written(tmp_path / "a.gguf", flat, alpha=0.0)
    call("lora", "merge", model, adapter, tmp_path / "out.gguf", "--scale", 2)
    expected = exact(tensors(model), arrays, 2.0)
    for name, value in tensors(tmp_path / "out.gguf").items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


def test_separate_scales_are_taken_up(tmp_path: Path) -> None:
    """llama.cpp adds the update behind the scale."""
    plain = write_small_model(tmp_path / "in.gguf", n_layers=2, float16=False)
    scaled = with_scales_of(plain, tmp_path / "scaled.gguf", {1: 0.5})
    arrays = updates(plain, all_names(2))
    adapter = written(tmp_path / "a.gguf", arrays)
    call("lora", "merge", scaled, adapter, tmp_path / "out.gguf")
    found = tensors(tmp_path / "out.gguf")
    assert "blk.1.attn_q.scale" not in found and "blk.1.ffn_up.scale" in found
    expected = exact(tensors(plain), arrays, ALPHA / RANK)
    for name in all_names(2):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_an_adapter_of_the_uncut_model_follows_the_layers(tmp_path: Path) -> None:
    """Merge, then cut and move, or the other way round: the same tensors."""
    base = write_small_model(tmp_path / "base.gguf", n_layers=6)
    adapter = written(tmp_path / "a.gguf", updates(base, all_names(6)))
    operated = {}
    for first in ("merge", "cut"):
        at, folder = base, tmp_path / first
        folder.mkdir()
        steps = ["merge", "cut"] if first == "merge" else ["cut", "merge"]
        for one in steps:
            out = folder / f"{one}.gguf"
            if one == "merge":
                uncut = ("--uncut", base) if at != base else ()
                said = call("lora", "merge", at, adapter, out, *uncut)
            else:
                call("keep", "--layers", "0,4,1,1,5", at, out)
            at = out
        operated[first] = tensors(at)
    assert "the updates of layers 2-3 are skipped: the model lacks these layers" in said.err
    assert operated["merge"].keys() == operated["cut"].keys()
    for name, value in operated["merge"].items():
        np.testing.assert_array_equal(operated["cut"][name], value, err_msg=name)


def test_layers_that_are_gone(tmp_path: Path) -> None:
    base = write_small_model(tmp_path / "base.gguf", n_layers=6)
    adapter = written(tmp_path / "a.gguf", updates(base, all_names(6)))
    cut, merged = tmp_path / "cut.gguf", tmp_path / "merged.gguf"
    call("delete", "--layer", "2-3", base, cut)
    out = tmp_path / "out.gguf"
    line = error_line("lora", "merge", cut, adapter, out)
    assert "the adapter changes layer 5, the model has 4 layers; layers 2-3 are gone" in line
    assert "with --uncut" in line
    call("merge", "--layers", "2-3", base, merged)
    line = error_line("lora", "merge", merged, adapter, out, "--uncut", base)
    assert "layer 2 is made of layers 2-3 of the uncut model" in line
    other = write_small_model(tmp_path / "other.gguf", n_layers=7)
    line = error_line("lora", "merge", cut, adapter, out, "--uncut", other)
    assert "was not made from other.gguf" in line
    assert not out.exists()


def test_check_names_what_does_not_fit(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "in.gguf", n_layers=2)
    arrays = updates(model, all_names(2))
    good = written(tmp_path / "good.gguf", arrays | {"blk.0.attn_norm.weight": np.ones(256, "f4")})
    said = call("lora", "check", model, good)
    assert said.out.splitlines()[-1].split() == ["good.gguf", "10", "4", "6.0000", "none"]
    assert "1 norm vectors are not merged" in said.err
    wide = dict(arrays)
    name = "blk.1.ffn_down.weight"
    wide[f"{name}.lora_a"] = np.zeros((RANK, 96), np.float32)
    wide["blk.0.attn_qkv.weight.lora_a"] = np.zeros((RANK, 256), np.float32)
    wide["blk.0.attn_qkv.weight.lora_b"] = np.zeros((256, RANK), np.float32)
    wide["blk.0.attn_q.weight.lora_b"] = np.zeros((256, RANK + 1), np.float32)
    bad = written(tmp_path / "bad.gguf", wide)
    said = call("lora", "check", model, good, bad, code=1)
    assert f"{bad}: {name}: the model's tensor is [512, 256], the update [96, 256]" in said.out
    assert f"{bad}: blk.0.attn_qkv.weight: the model has no such tensor" in said.out
    assert f"{bad}: blk.0.attn_q.weight: the adapter's matrices [256, 4] and [5, 256]" in said.out
    answer = call("lora", "check", model, bad, "--json", code=1).json
    assert not answer["ok"] and len(answer["adapters"][0]["misfits"]) == 3
    line = error_line("lora", "merge", model, bad, tmp_path / "out.gguf")
    assert "(and 2 more tensors do not fit)" in line and "lora check" in line
    foreign = written(tmp_path / "foreign.gguf", arrays, arch="qwen2")
    assert "the adapter of qwen2" in error_line("lora", "merge", model, foreign, tmp_path / "o")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "model"}, "not a LoRA adapter: expected adapter, found model"),
        ({"kind": "dora"}, "not a LoRA adapter: expected lora, found dora"),
        ({"adapter__alora__invocation_tokens": [1, 2]}, "behind its invocation tokens only"),
        ({"without": ".lora_a"}, r"expected blk\.0\.attn_q\.weight\.lora_a"),
        ({"other": "blk.0.attn_q.bias"}, "another ending"),
        ({"without": ""}, "changes no tensor"),
    ],
)
def test_files_that_are_no_adapters(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "in.gguf", n_layers=1)
    arrays = updates(model, ["blk.0.attn_q.weight"])
    if (end := changes.pop("without", None)) is not None:
        arrays = {n: v for n, v in arrays.items() if not n.endswith(end)}
    if other := changes.pop("other", None):
        arrays[other] = np.ones(4, np.float32)
    with pytest.raises(FormatError, match=words):
        read_adapter(written(tmp_path / "a.gguf", arrays, **changes))


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "in.gguf", n_layers=1)
    assert "general.type: not a LoRA adapter" in error_line("lora", "check", model, model)
    with pytest.raises(FormatError, match="not a LoRA adapter"):
        read_adapter(model)


def test_recipes_and_replay(tmp_path: Path) -> None:
    """The header names the adapter and its checksum; a changed one is refused."""
    model = write_small_model(tmp_path / "in.gguf", n_layers=2)
    arrays = updates(model, all_names(2))
    adapter = written(tmp_path / "a.gguf", arrays)
    out, again = tmp_path / "out.gguf", tmp_path / "again.gguf"
    call("lora", "merge", model, adapter, out, "--scale", 0.5)
    call("replay", out, model, again)
    assert again.read_bytes() == out.read_bytes()
    written(adapter, arrays, alpha=1.0)
    line = error_line("replay", out, model, tmp_path / "third.gguf")
    assert "a.gguf: not the adapter that the recipe names" in line
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "operations:\n  - prune: {sparsity: 0.5}\n"
        f"  - lora: {{adapter: {adapter}, checksum: x}}\n"
    )
    assert "Prune afterwards" in error_line("apply", recipe, model, tmp_path / "third.gguf")
    recipe.write_text(f"operations:\n  - lora: {{adapter: {adapter}, checksum: x, scale: 0}}\n")
    assert "impossible scale" in error_line("apply", recipe, model, tmp_path / "third.gguf")


def test_prune_after_a_merge(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "in.gguf", n_layers=2)
    adapter = written(tmp_path / "a.gguf", updates(model, all_names(2)))
    two, one = tmp_path / "two.gguf", tmp_path / "one.gguf"
    call("lora", "merge", model, adapter, tmp_path / "merged.gguf", "--out-type", "f32")
    call("prune", "--sparsity", 0.5, "--scope", "row", tmp_path / "merged.gguf", two)
    checksum = GGUFReader(tmp_path / "merged.gguf").fields["ggsurgery.recipe"].contents()
    sha = checksum.split('"checksum":"')[1].split('"')[0]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"operations:\n  - lora: {{adapter: {adapter}, checksum: '{sha}'}}\n"
        "  - prune: {sparsity: 0.5, scope: row}\noptions: {out_type: f32}\n"
    )
    call("apply", recipe, model, one)
    expected = tensors(two)
    for name, value in tensors(one).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-3, err_msg=name)


def test_not_finite_updates_are_refused(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "in.gguf", n_layers=1)
    arrays = updates(model, ["blk.0.attn_q.weight"])
    arrays["blk.0.attn_q.weight.lora_b"][3, 1] = np.nan
    adapter = written(tmp_path / "a.gguf", arrays)
    line = error_line("lora", "merge", model, adapter, tmp_path / "out.gguf")
    assert "blk.0.attn_q.weight.lora_b" in line
    assert not (tmp_path / "out.gguf").exists()


def test_scales_are_counted(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "in.gguf", n_layers=1)
    adapter = written(tmp_path / "a.gguf", updates(model, all_names(1)))
    said = call("lora", "merge", model, adapter, tmp_path / "o", "--scale", 1, "--scale", 2, code=2)
    assert "--scale is needed once, or once for each of 1" in said.err


def test_written_adapters_are_read_by_gguf_py(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pair = tuple(random.standard_normal(s).astype(np.float32) for s in ((2, 5), (7, 2)))
    path = tmp_path / "a.gguf"
    write_adapter(path, "qwen3", {"blk.0.attn_q.weight": pair}, alpha=2.0, name="a")
    reader = GGUFReader(path)
    found = {t.name: np.asarray(t.data) for t in reader.tensors}
    np.testing.assert_array_equal(found["blk.0.attn_q.weight.lora_a"], pair[0])
    np.testing.assert_array_equal(found["blk.0.attn_q.weight.lora_b"], pair[1])
    assert reader.fields["adapter.lora.alpha"].contents() == 2.0
    assert read_adapter(path).pairs["blk.0.attn_q.weight"].shape == (5, 7)
