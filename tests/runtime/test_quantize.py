"""Byte for byte what llama-quantize writes; refusals before the first byte."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.errors import EngineError, FormatError, GGSurgeryError, OutputError
from ggsurgery.files.text import read_corpus
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from ggsurgery.runtime.filetypes import file_type, file_types
from ggsurgery.runtime.imatrix_collect import collect
from ggsurgery.runtime.quantize import parse_tensor_types, plan, quantize
from tests._llama_tools import llama_tool
from tests._small_models import write_small_model
from tests._tiny import MODEL, SEARCH_TEXT

pytestmark = pytest.mark.slow

LADDER = ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows that every type divides, and rows that make the K-quants fall back."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "w256": write_small_model(folder / "w256.gguf", n_layers=9),
        "w96": write_small_model(folder / "w96.gguf", width=96, n_layers=8, float16=False),
        "moe": write_small_model(folder / "moe.gguf", n_layers=1, n_experts=4),
    }


def make_imatrix(model: Path, out: Path) -> Path:
    """An importance matrix of random positive sums with entries for every layer's weights."""
    random = np.random.default_rng(5)
    entries = {}
    for t in read_header(model).tensors:
        if t.layer is not None and len(t.shape) > 1 and "norm" not in t.name:
            n_mat = t.shape[2] if len(t.shape) > 2 else 1
            sums = random.gamma(0.5, 100, (n_mat, t.shape[0])).astype(np.float32)
            counts = random.integers(0, 400, n_mat) if n_mat > 1 else np.array([512])
            entries[t.name] = Entry(sums, counts)
    write_imatrix(Imatrix(entries, ("calibration.txt",), 7, 512), out)
    return out


def theirs(src: Path, dst: Path, ftype: str, *options: str) -> bytes:
    """What llama-quantize writes; it runs in the folder of `src`, so paths are bare names."""
    command = [llama_tool("llama-quantize"), *options, str(src), str(dst), ftype]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=src.parent)
    assert done.returncode == 0, done.stderr[-800:] + done.stdout[-800:]
    return dst.read_bytes()


@pytest.mark.parametrize("with_imatrix", [False, True])
@pytest.mark.parametrize("ftype", LADDER)
@pytest.mark.parametrize("name", ["w256", "w96"])
def test_bytes_of_llama_quantize(
    models: dict[str, Path], tmp_path: Path, name: str, ftype: str, with_imatrix: bool
) -> None:
    src, options, more = models[name], {}, []
    if with_imatrix:
        imatrix = src.with_suffix(".imatrix.gguf")
        if not imatrix.exists():
            make_imatrix(src, imatrix)
        options = {"imatrix": imatrix}
        more = ["--imatrix", imatrix.name]
    result = quantize(src, tmp_path / "ours.gguf", ftype, **options)
    expected = theirs(src, tmp_path / "theirs.gguf", ftype, *more)
    assert (tmp_path / "ours.gguf").read_bytes() == expected
    assert result.n_bytes == len(expected)
    assert bool(result.fallbacks) == (name == "w96" and ftype != "Q8_0")


@pytest.mark.parametrize(
    ("ftype", "ours", "options"),
    [
        ("Q4_K_M", {"pure": True}, ["--pure"]),
        ("Q5_K_S", {"leave_output": True}, ["--leave-output-tensor"]),
        (
            "Q4_0",
            {"tensor_types": ["attn_v=q6_K", r"blk\.[02]\.ffn=q8_0"]},
            ["--tensor-type", "attn_v=q6_K", "--tensor-type", r"blk\.[02]\.ffn=q8_0"],
        ),
        ("BF16", {}, []),
    ],
)
def test_options_give_the_same_bytes(
    models: dict[str, Path], tmp_path: Path, ftype: str, ours: dict[str, object], options: list[str]
) -> None:
    quantize(models["w256"], tmp_path / "ours.gguf", ftype, **ours)  # type: ignore[arg-type]
    expected = theirs(models["w256"], tmp_path / "theirs.gguf", ftype, *options)
    assert (tmp_path / "ours.gguf").read_bytes() == expected


@pytest.mark.parametrize("ftype", ["Q4_K_M", "IQ3_XXS"])
def test_experts_with_imatrix(models: dict[str, Path], tmp_path: Path, ftype: str) -> None:
    src = models["moe"]
    imatrix = src.with_suffix(".imatrix.gguf")
    if not imatrix.exists():
        make_imatrix(src, imatrix)
    quantize(src, tmp_path / "ours.gguf", ftype, imatrix=imatrix)
    expected = theirs(src, tmp_path / "theirs.gguf", ftype, "--imatrix", imatrix.name)
    assert (tmp_path / "ours.gguf").read_bytes() == expected


def test_a_trained_model_with_its_own_imatrix(tmp_path: Path) -> None:
    src = Path(shutil.copy(MODEL, tmp_path))
    found = collect(src, read_corpus(SEARCH_TEXT), n_chunks=2, dataset="search")
    write_imatrix(found, tmp_path / "im.gguf")
    quantize(src, tmp_path / "ours.gguf", "Q4_K_M", imatrix=tmp_path / "im.gguf")
    expected = theirs(src, tmp_path / "theirs.gguf", "Q4_K_M", "--imatrix", "im.gguf")
    assert (tmp_path / "ours.gguf").read_bytes() == expected


@pytest.mark.parametrize("name", ["w256", "w96"])
def test_the_plan_is_what_gets_written(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    types = ["Q4_K_S", "IQ4_XS", "F32"] + ["TQ1_0", "Q1_0"] * (name == "w256")
    for planned in plan(models[name], types):
        made = planned.make(tmp_path / f"{planned.result.ftype}.gguf")
        assert made.path is not None
        assert made.path.stat().st_size == planned.result.n_bytes
        found = {t.name: t.new for t in made.tensors}
        assert found == {t.name: t.new for t in planned.result.tensors}


def test_fallbacks_name_the_wanted_type(models: dict[str, Path]) -> None:
    result = quantize(models["w96"], None, "Q4_K_M")
    fell = {t.name: (t.wanted, t.new) for t in result.fallbacks}
    assert fell["blk.0.attn_q.weight"] == ("q4_k", "q5_0")
    assert fell["blk.0.attn_v.weight"] == ("q6_k", "q8_0")


def test_progress_reaches_the_end(models: dict[str, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quantize(models["w96"], tmp_path / "o.gguf", "Q8_0", progress=lambda *a: seen.append(a))
    assert seen[-1] == (75, 75)


@pytest.mark.parametrize(
    ("name", "near"), [("Q4_K_X", "Q4_K_S"), ("q5km", "Q5_K_M"), ("IQ9_S", "IQ3_S")]
)
def test_unknown_types_offer_the_nearest(name: str, near: str) -> None:
    with pytest.raises(EngineError, match=f"unknown quantization type .*Did you mean .*{near}"):
        file_type(name)


def test_names_in_any_case_and_aliases() -> None:
    assert file_type("q4_k_m") == ("Q4_K_M", 15)
    assert file_type("Q4_K") == ("Q4_K_M", 15)
    assert len(file_types()) == 35


@pytest.mark.parametrize("ftype", ["IQ2_XXS", "IQ1_S", "Q2_K_S", "IQ3_XXS"])
def test_types_that_need_an_imatrix_say_so_first(
    models: dict[str, Path], tmp_path: Path, ftype: str
) -> None:
    with pytest.raises(EngineError, match=f"{ftype} needs an importance matrix"):
        quantize(models["w256"], tmp_path / "o.gguf", ftype)
    assert not list(tmp_path.iterdir())


def test_an_imatrix_of_another_model(models: dict[str, Path], tmp_path: Path) -> None:
    longer = make_imatrix(models["w256"], tmp_path / "longer.gguf")
    with pytest.raises(EngineError, match=r"of another model.*blk\.8\.attn_k.*imatrix remap"):
        quantize(models["w96"], None, "Q4_K_M", imatrix=longer)
    wide = read_imatrix(longer)
    shorter = {n: e for n, e in wide.entries.items() if int(n.split(".")[1]) < 8}
    write_imatrix(Imatrix(shorter, (), 1, 512), tmp_path / "wide.gguf")
    with pytest.raises(EngineError, match="of another model: expected 96 values, found 256"):
        quantize(models["w96"], None, "Q4_K_M", imatrix=tmp_path / "wide.gguf")
    few = {n: e for n, e in wide.entries.items() if ".0." in n}
    write_imatrix(Imatrix(few, (), 1, 512), tmp_path / "few.gguf")
    with pytest.raises(EngineError, match="lacks 56 of 63 tensors"):
        quantize(models["w256"], None, "Q4_K_M", imatrix=tmp_path / "few.gguf")


def test_one_tensor_without_an_entry(models: dict[str, Path], tmp_path: Path) -> None:
    wide = read_imatrix(make_imatrix(models["w256"], tmp_path / "all.gguf"))
    missing = "blk.3.attn_q.weight"
    most = {n: e for n, e in wide.entries.items() if n != missing}
    write_imatrix(Imatrix(most, (), 1, 512), tmp_path / "most.gguf")
    options = {"imatrix": tmp_path / "most.gguf"}
    assert quantize(models["w256"], None, "Q4_K_M", **options).without_imatrix == (missing,)
    for ftype in ("IQ2_M", "Q2_K_S"):  # llama.cpp would tell in the middle of the work
        with pytest.raises(EngineError, match=r"blk\.3\.attn_q\.weight.*cannot become"):
            quantize(models["w256"], None, ftype, **options)


def test_requantizing_must_be_allowed(models: dict[str, Path], tmp_path: Path) -> None:
    q8 = tmp_path / "q8.gguf"
    quantize(models["w256"], q8, "Q8_0")
    with pytest.raises(EngineError, match="quantized already: expected f32, f16 or bf16, found q8"):
        quantize(q8, tmp_path / "o.gguf", "Q4_K_M")
    result = quantize(q8, tmp_path / "o.gguf", "Q4_K_M", allow_requantize=True)
    assert result.requantized == 9 * 7 + 2
    expected = theirs(q8, tmp_path / "t.gguf", "Q4_K_M", "--allow-requantize")
    assert (tmp_path / "o.gguf").read_bytes() == expected


def test_outputs_are_guarded(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    with pytest.raises(OutputError, match="same file"):
        quantize(models["w96"], models["w96"], "Q8_0", force=True)
    (tmp_path / "there.gguf").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        quantize(models["w96"], tmp_path / "there.gguf", "Q8_0")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"not enough room.*found 1,000 bytes free"):
        quantize(models["w96"], tmp_path / "o.gguf", "Q8_0")
    assert [p.name for p in tmp_path.iterdir()] == ["there.gguf"]
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"


def test_interrupted_leaves_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(models["w256"], tmp_path / "o.gguf", "Q2_K", progress=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attn_v", "malformed tensor type"),
        ("=q4_k", "malformed tensor type"),
        ("(=q4_k", "not a regular expression"),
    ],
)
def test_malformed_tensor_types(text: str, message: str) -> None:
    with pytest.raises(GGSurgeryError, match=message):
        parse_tensor_types([text])


def test_types_that_no_weight_can_have() -> None:
    with pytest.raises(FormatError, match="weights cannot have the type q8_1"):
        parse_tensor_types(["attn_v=q8_1"])
    with pytest.raises(FormatError, match="unknown tensor type 'q4_k_m'"):
        parse_tensor_types(["attn_v=q4_k_m"])


def test_tensor_types_need_a_quantized_file_type(models: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match="no effect with the file type F16"):
        quantize(models["w96"], None, "F16", tensor_types=["attn_v=q8_0"])
