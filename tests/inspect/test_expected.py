"""What `verify` says of tensors that are there or missing, against llama.cpp's own loader.

The files come from llama.cpp: it names the tensors that it asks for, for every
architecture that it can build; only the header is real, the data are a hole.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ggsurgery.arch import all_rules
from ggsurgery.arch.asked import FUSED, asked, layer_kinds, pattern_of, surveyed
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.types import Header, TensorInfo
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.text import format_layers

from ..fixtures import llama, make, survey
from ..fixtures.base import ARCHITECTURES, base

SMALL = ("llama", "qwen3", "phi3", "bert", "gemma3", "mamba", "qwen3moe", "deepseek2", "t5")


def write(path: Path, header: Header, without: tuple[str, ...] = ()) -> Path:
    head, size = survey.encoded(header, without)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    return path


@cache
def built(arch: str) -> make.Outline:
    """The tensors that llama.cpp asks for under the base keys."""
    return make.outline(arch, base(arch))


def outline(arch: str) -> Header:
    return make.header(built(arch))


def found(path: Path) -> list[tuple[str, str, str]]:
    return [(f.severity, f.where, f.problem) for f in verify(read_header(path))]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_model_as_llama_cpp_builds_it_is_clean(tmp_path, arch):
    findings = found(write(tmp_path / "a.gguf", outline(arch)))
    if arch not in all_rules():
        findings = [f for f in findings if "has no rule file" not in f[2]]
    assert findings == []


def test_every_architecture_was_surveyed():
    assert set(ARCHITECTURES) == surveyed()


@pytest.mark.parametrize("arch", SMALL)
def test_an_error_is_what_llama_cpp_refuses(tmp_path, arch):
    """Without any one tensor: no error where the file loads, an error where the others show it."""
    header = outline(arch)
    last = {pattern_of(t.name)[0]: t.name for t in header.tensors}
    files = [survey.encoded(header, (name,)) for name in last.values()]
    loads = llama.in_child(llama.loads_without, str(tmp_path / "b.gguf"), files)
    for (pattern, name), good in zip(last.items(), loads, strict=True):
        path = write(tmp_path / "a.gguf", header, (name,))
        errors = [f for f in found(path) if f[0] == "error"]
        if good:
            assert not errors, pattern
        else:
            assert asked(arch)[pattern].required
            if "{}" not in pattern:
                assert ("error", name, f"missing in a {arch} model") in errors
            elif arch in ("llama", "qwen3", "qwen3moe", "mamba"):  # all layers, or most, are alike
                assert [f[1] for f in errors if f[2].startswith("missing, ")] == [name], pattern


@pytest.mark.parametrize("arch", [*SMALL, "qwen3next", "lfm2", "jamba", "gpt-oss"])
def test_a_tensor_that_every_layer_lacks(tmp_path, arch):
    header = outline(arch)
    names: dict[str, list[str]] = {}
    for tensor in header.tensors:
        if (pattern := pattern_of(tensor.name)[0]).startswith("blk.{}."):
            names.setdefault(pattern, []).append(tensor.name)
    files = [survey.encoded(header, gone) for gone in names.values()]
    loads = llama.in_child(llama.loads_without, str(tmp_path / "b.gguf"), files)
    assert not all(loads) or not names
    for (pattern, gone), good in zip(names.items(), loads, strict=True):
        path = write(tmp_path / "a.gguf", header, tuple(gone))
        findings = [f for f in found(path) if "has no rule file" not in f[2]]
        if good:
            assert not findings, pattern
            continue
        layers = format_layers([pattern_of(name)[1] for name in gone])
        severity = "error" if arch in all_rules() else "warning"
        missing = f"missing: llama.cpp does not load a layer of {arch} without it"
        assert findings == [(severity, pattern.format(layers), missing)], pattern


@pytest.mark.parametrize(
    "arch", [*SMALL, "mpt", "stablelm", "bloom", "gemma3n", "olmo", "command-r"]
)
@pytest.mark.parametrize("whole", FUSED)
def test_fused_tensors_are_as_good_to_us_as_to_llama_cpp(tmp_path, arch, whole):
    header = outline(arch)
    parts = [f"{p}.weight" for p in FUSED[whole]]
    layers = [
        n for n in range(header.n_layers) if all(p.format(n) in header.by_name for p in parts)
    ]
    if not layers:
        return
    gone = {p.format(n).replace("weight", e) for p in parts for n in layers for e in ENDS}
    tensors = [t for t in header.tensors if t.name not in gone]
    for n in layers:
        shapes = [header.by_name[p.format(n)].shape for p in parts]
        shape = (shapes[0][0], sum(s[1] for s in shapes), *shapes[0][2:])
        nbytes = 4 * shape[0] * shape[1] * (shape[2] if len(shape) > 2 else 1)
        tensors.append(TensorInfo(f"{whole}.weight".format(n), shape, 0, 0, nbytes))
    path = write(tmp_path / "a.gguf", replace(header, tensors=tuple(tensors)))
    refusal = llama.refusal(path)
    findings = [f for f in found(path) if "has no rule file" not in f[2]]
    assert (refusal == "") == (findings == []), (refusal, findings)


ENDS = ("weight", "bias")


def test_layers_that_nobody_knows_are_no_error(tmp_path):
    header = outline("llama")
    metadata = {k.replace("llama.", "novel."): v for k, v in header.metadata.items()}
    metadata["general.architecture"] = replace(
        header.metadata["general.architecture"], raw=b"\5\0\0\0\0\0\0\0novel"
    )
    gone = ("token_embd.weight", "blk.3.attn_q.weight", "blk.5.ffn_down.weight")
    path = write(tmp_path / "a.gguf", replace(header, metadata=metadata), gone)
    findings = found(path)
    assert {f[0] for f in findings} == {"warning"}
    assert ("warning", "blk.3.attn_q.weight", "missing, 7 other layers have it") in findings


@pytest.mark.parametrize("arch", ["llama", "qwen2moe", "deepseek"])
def test_one_tensor_an_expert(tmp_path, arch):
    header = make.header(make.outline(arch, base(arch, moe=True)))
    tensors = []
    for t in header.tensors:
        if not t.name.endswith("_exps.weight"):
            tensors.append(t)
            continue
        for expert in range(t.shape[2]):
            name = t.name.replace("_exps.weight", f".{expert}.weight")
            tensors.append(TensorInfo(name, t.shape[:2], 0, 0, t.nbytes // t.shape[2]))
    path = write(tmp_path / "a.gguf", replace(header, tensors=tuple(tensors)))
    assert "not found" in llama.refusal(path)
    ((_, where, problem),) = [f for f in found(path) if f[0] == "error"]
    assert where.startswith("blk.") and ".ffn_" in where and " more" in where
    assert problem.startswith("one tensor an expert: llama.cpp reads the experts of a layer from")


@pytest.mark.parametrize("arch", ["qwen3", "deci", "jamba"])
def test_the_kinds_of_layers_are_what_a_new_survey_says(arch):
    """All of it: python -m tests.fixtures.survey layers (a minute)."""
    models = survey.outlines(arch, list(survey.variants(arch)))
    assert set(layer_kinds(arch)) == survey.forms(models, arch)


@pytest.mark.parametrize("arch", ["qwen3", "deci"])
def test_the_data_are_what_a_new_survey_says(tmp_path, arch):
    """All of it: python -m tests.fixtures.survey (some minutes)."""
    said = survey.Survey(arch, tmp_path)
    data = asked(arch)
    assert set(data) == set(said.shapes) | set(said.fused)
    for pattern, shape in said.shapes.items():
        assert data[pattern].shape == shape
        assert data[pattern].required == (pattern not in said.optional)
        assert data[pattern].always == ("{}" in pattern or pattern in said.every)
