"""Float types multiply separate scales into the weights; quantized types keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFValueType

from ggsurgery.errors import EngineError, GGSurgeryError, PlanError
from ggsurgery.quantize.ladder import ladder
from ggsurgery.runtime.quantize import quantize
from ggsurgery.tensors import kernels
from tests._command import call
from tests._llama_logits import logits
from tests.tensors._scaled import folded, model, read, with_scales, write

SCALES = {1: 0.5, 2: 4.0}


@pytest.mark.parametrize("ftype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", [T.F32, T.Q8_0, T.NVFP4], ids=lambda k: k.name)
def test_float_types_fold_scales_in(tmp_path: Path, ftype: str, kind: T) -> None:
    tensors = with_scales(model(), SCALES)
    scaled = {n.removesuffix("scale") + "weight" for n in tensors if n.endswith(".scale")}
    source = write(tmp_path / "in.gguf", tensors, lambda n: kind if n in scaled else T.F32)
    out = tmp_path / "out.gguf"
    planned = quantize(source, None, ftype, allow_requantize=True, dry_run=True)
    result = quantize(source, out, ftype, allow_requantize=True)
    assert planned.n_bytes == result.n_bytes == out.stat().st_size
    assert planned.bpw == pytest.approx(result.bpw)
    stored = read(source)
    exact = folded(stored)
    found = {t.name: t for t in GGUFReader(out).tensors}
    assert found.keys() == exact.keys()
    for name, values in exact.items():
        number = T[ftype] if values.ndim > 1 else T.F32
        assert found[name].tensor_type == number
        scale = stored.get(name.removesuffix("weight") + "scale")
        product = values if scale is None else stored[name] * scale  # in float32, rounded once
        expected = kernels.encode(number, product.ravel(), values.shape[-1])
        np.testing.assert_array_equal(found[name].data.view(np.uint8).ravel(), expected)
        np.testing.assert_allclose(read(out)[name], values, rtol=2**-8, atol=1e-7)
    fields = GGUFReader(out).fields
    assert fields["general.quantization_version"].contents() == 2
    assert fields["general.file_type"].contents() == {"F32": 0, "F16": 1, "BF16": 32}[ftype]
    assert fields["general.file_type"].types == [GGUFValueType.UINT32]
    plain = write(tmp_path / "plain.gguf", exact, T[ftype])
    np.testing.assert_allclose(logits(out), logits(plain), rtol=1e-3, atol=1e-3)


def test_quantized_types_keep_scales(tmp_path: Path) -> None:
    source = write(tmp_path / "in.gguf", with_scales(model(), SCALES))
    out = tmp_path / "out.gguf"
    quantize(source, out, "Q8_0")
    assert "blk.1.ffn_up.scale" in read(out)
    for name, values in folded(read(source)).items():
        found = folded(read(out))[name]
        assert np.abs(found - values).max() <= np.abs(values).max() / 120


def test_a_ladder_keeps_what_it_has_folded(tmp_path: Path) -> None:
    source = write(tmp_path / "in.gguf", with_scales(model(), SCALES), T.BF16)
    for there in (False, True):
        (rung,) = ladder(source, ["BF16"], tmp_path / "ladder").rungs
        assert rung.there == there
        if not there:
            list(ladder(source, ["BF16"], tmp_path / "ladder").make())
    assert not [n for n in read(rung.path) if n.endswith("scale")]


def test_an_output_matrix_needs_its_scale_folded_first(tmp_path: Path) -> None:
    tensors = model() | {"output.weight": model(5)["token_embd.weight"]}
    tensors["output.scale"] = np.array([0.5], np.float32)
    kind = lambda n: T.NVFP4 if n == "output.weight" else T.F32  # noqa: E731
    source = write(tmp_path / "in.gguf", tensors, kind)
    out, plain = tmp_path / "out.gguf", tmp_path / "bf16.gguf"
    with pytest.raises(EngineError, match=r"output\.weight: llama\.cpp reads .* --type BF16"):
        quantize(source, out, "Q8_0", allow_requantize=True)
    quantize(source, plain, "BF16", allow_requantize=True)
    quantize(plain, out, "Q8_0")
    np.testing.assert_allclose(logits(out), logits(source), atol=0.4)


@pytest.mark.parametrize("scaled", [False, True])
def test_numbers_too_large_for_f16_are_refused(tmp_path: Path, scaled: bool) -> None:
    tensors = model()
    tensors["blk.1.ffn_up.weight"][3, 4] = 1e5
    if scaled:
        tensors = with_scales(tensors, {1: 0.01})
    source, out = write(tmp_path / "in.gguf", tensors), tmp_path / "out.gguf"
    error: type[Exception] = PlanError if scaled else EngineError
    with pytest.raises(error, match=r"blk\.1\.ffn_up\.(weight|scale).*at most 65504, found 1000"):
        quantize(source, out, "F16")
    assert not out.exists()
    quantize(source, out, "BF16")


@pytest.mark.parametrize("ftype", ["F16", "Q8_0"])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, ftype: str) -> None:
    tensors = model()
    tensors["blk.1.ffn_up.weight"][3, 4] = np.nan
    source, out = write(tmp_path / "in.gguf", tensors), tmp_path / "out.gguf"
    with pytest.raises(GGSurgeryError, match=r"in\.gguf: blk\.1\.ffn_up\.weight .*NaN or inf"):
        quantize(source, out, ftype)
    assert not out.exists()


def test_the_command_says_what_it_folds(tmp_path: Path) -> None:
    source = write(tmp_path / "in.gguf", with_scales(model(), SCALES), T.BF16)
    out = tmp_path / "out.gguf"
    said = call("quantize", "--type", "BF16", source, out)
    assert "14 separate scales are multiplied into their weights" in said.err
    assert not [n for n in read(out) if n.endswith("scale")]
