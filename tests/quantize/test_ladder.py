"""Ladders, mixes, pinned types, targets and the commands over them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.cli import main
from ggsurgery.errors import EngineError, OutputError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.imatrix import Entry, Imatrix, write_imatrix
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.quantize.ladder import base_name, ladder
from ggsurgery.quantize.like import like, patterns, pinned
from ggsurgery.quantize.mix import Choice, choose
from ggsurgery.quantize.target import for_size, parse_size
from ggsurgery.runtime.quantize import plan, quantize
from ggsurgery.surgery.prepare import prepare
from tests._command import call
from tests._shapes import BYTES, small, write_shapes
from tests._small_models import write_small_model

pytestmark = pytest.mark.slow

WORDS = "It was a bright cold day, and the clocks of the town were striking all at once. " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen layers, so that the K_M mixes depend on the place."""
    folder = tmp_path_factory.mktemp("model")
    return write_small_model(folder / "small-F16.gguf", n_layers=16)


@pytest.fixture(scope="module")
def cut(model: Path) -> Path:
    out = model.with_name("cut.gguf")
    prepare(Recipe((step("delete", layer="10"),)), [model]).write(out)
    return out


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code in (0, None)


def types_of(path: Path) -> dict[str, str]:
    return {t.name: t.type_name for t in read_header(path).tensors}


def test_a_second_run_makes_only_what_is_missing(model: Path, tmp_path: Path) -> None:
    src = shutil.copy2(model, tmp_path / "small-F16.gguf")
    kinds = ["Q8_0", "Q4_0"]
    first = list(ladder(src, kinds, tmp_path).make())
    assert [r.path.name for r in first if r.path] == ["small-Q8_0.gguf", "small-Q4_0.gguf"]
    assert all(r.path and r.path.stat().st_size == r.n_bytes for r in first)
    again = ladder(src, [*kinds, "Q4_1"], tmp_path)
    assert [r.there for r in again.rungs] == [True, True, False]
    assert again.bytes_to_write == again.rungs[2].result.n_bytes
    before = (tmp_path / "small-Q8_0.gguf").stat().st_mtime_ns
    list(again.make())
    assert (tmp_path / "small-Q8_0.gguf").stat().st_mtime_ns == before
    # a newer source, other options, a damaged file: made again
    os.utime(src)
    assert not any(r.there for r in ladder(src, kinds, tmp_path).rungs)
    with pytest.raises(OutputError, match=r"small-Q8_0\.gguf: the output exists"):
        list(ladder(src, kinds, tmp_path).make())


def test_other_options_are_another_rung(model: Path, tmp_path: Path) -> None:
    list(ladder(model, ["Q4_0"], tmp_path).make())
    assert ladder(model, ["Q4_0"], tmp_path).rungs[0].there
    assert not ladder(model, ["Q4_0"], tmp_path, pure=True).rungs[0].there


def test_another_imatrix_is_another_rung(model: Path, tmp_path: Path) -> None:
    names = [
        t.name for t in read_header(model).tensors if t.name.startswith("blk.") and len(t.shape) > 1
    ]
    for name, value in (("a", 1.0), ("b", 2.0)):
        entries = {
            n: Entry(
                np.full((1, read_header(model).by_name[n].shape[0]), value, np.float32),
                np.ones(1, np.int64),
            )
            for n in names
        }
        write_imatrix(Imatrix(entries, ("t.txt",), 1, 1), tmp_path / f"{name}.gguf")
        os.utime(tmp_path / f"{name}.gguf", (1, 1))
    out = tmp_path / "out"
    list(ladder(model, ["Q4_0"], out, imatrix=tmp_path / "a.gguf").make())
    assert ladder(model, ["Q4_0"], out, imatrix=tmp_path / "a.gguf").rungs[0].there
    assert not ladder(model, ["Q4_0"], out, imatrix=tmp_path / "b.gguf").rungs[0].there


def test_another_model_under_the_same_name_is_another_ladder(tmp_path: Path) -> None:
    src = write_small_model(tmp_path / "small-F16.gguf", n_layers=2)
    list(ladder(src, ["Q4_0"], tmp_path).make())
    assert ladder(src, ["Q4_0"], tmp_path).rungs[0].there
    write_small_model(src, n_layers=2, seed=8)
    os.utime(src, (1, 1))  # as `cp -p` and `mv` leave it
    assert not ladder(src, ["Q4_0"], tmp_path).rungs[0].there


def test_a_type_named_twice_is_made_once(model: Path, tmp_path: Path) -> None:
    made = list(ladder(model, ["q4_k", "Q4_K_M", "Q4_0", "Q4_0"], tmp_path).make())
    assert [r.ftype for r in made] == ["Q4_K_M", "Q4_0"]


def test_inputs_survive_force_and_a_taken_name_is_told_before_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, text = shutil.copy2(model, tmp_path / "small-Q4_0.gguf"), tmp_path / "t.txt"
    text.write_text(WORDS, encoding="utf-8")
    for arguments in (
        [other, "--like", other],
        [other, "--type", "Q4_0", "--pin", other],
        [text, "--target-size", "1GB", "--text", text],
    ):
        said = call("quantize", model, *arguments, "--force", code=1).err
        assert "input and output are the same file" in said
    pinned = ("--types", "Q4_0", "--out-dir", tmp_path, "--pin", other)
    cut = tmp_path / "small-F16.gguf"
    prepare(Recipe((step("delete", layer="10"),)), [other]).write(cut)
    assert "same file" in call("quantize", cut, *pinned, "--force", code=1).err
    assert other.read_bytes() == model.read_bytes()
    monkeypatch.setattr("ggsurgery.jobs.quantize.for_size", lambda *_, **__: pytest.fail("worked"))
    said = call("quantize", model, other, "--target-size", "9GB", "--text", text, code=1).err
    assert "the output exists" in said


def test_the_mix_of_a_float_file_is_its_float_type(model: Path, tmp_path: Path) -> None:
    made = call("quantize", model, tmp_path / "o.gguf", "--like", model, "--json").json
    assert made["type"] == "F16"


def test_requantizing_is_said_whatever_the_first_rung_is(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "q.gguf", "Q8_0")
    said = call("quantize", tmp_path / "q.gguf", "--types", "Q8_0,Q4_0", "--out-dir", tmp_path)
    assert "rounded a second time" in said.err


def test_room_for_all_is_needed_before_the_first_byte(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ladder(model, ["Q8_0", "Q4_0"], tmp_path)
    usage = shutil.disk_usage(tmp_path)
    room = found.bytes_to_write - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=room))
    with pytest.raises(OutputError, match="not enough room on the disk for 2 files"):
        list(found.make())
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="not enough room"):
        list(ladder(model, ["Q8_0", "Q4_0"], tmp_path / "new/folder").make())
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="the output folder is a file"):
        ladder(model, ["Q8_0"], tmp_path / "file")


def test_the_folder_of_a_ladder_is_made(model: Path, tmp_path: Path) -> None:
    found = ladder(model, ["Q4_0"], tmp_path / "new/folder")
    assert not (tmp_path / "new").exists()
    list(found.make())
    assert [p.name for p in (tmp_path / "new/folder").iterdir()] == ["small-Q4_0.gguf"]


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("a-F16.gguf", "a"),
        ("a.bf16.gguf", "a"),
        ("a-F16-00001-of-00003.gguf", "a"),
        ("a-v1.5.gguf", "a-v1.5"),
    ],
)
def test_names_of_rungs(name: str, base: str) -> None:
    assert base_name(Path(name)) == base


def test_like_gives_the_same_types(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "q.gguf", "Q4_K_M", tensor_types=["ffn_gate=q5_0"])
    ftype, found, words = like(model, tmp_path / "q.gguf")
    assert ftype == "Q4_K_M"
    assert words == "the mix of q.gguf (Q4_K_M)"
    quantize(model, tmp_path / "l.gguf", ftype, tensor_types=found)
    assert (tmp_path / "l.gguf").read_bytes() == (tmp_path / "q.gguf").read_bytes()


def test_like_with_other_depth_and_other_models(model: Path, cut: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "q.gguf", "Q4_K_M")
    _, found, words = like(cut, tmp_path / "q.gguf")
    assert "15 layers by the relative depth of its 16" in words
    made = quantize(cut, tmp_path / "l.gguf", "Q4_K_M", tensor_types=found)
    ends = {t.name: t.new for t in made.tensors}
    uncut = types_of(tmp_path / "q.gguf")
    for ours, source in (("blk.0", "blk.0"), ("blk.14", "blk.15")):
        assert ends[f"{ours}.ffn_down.weight"] == uncut[f"{source}.ffn_down.weight"]
    other = tmp_path / "other.gguf"
    from gguf import GGUFWriter

    writer = GGUFWriter(other, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(PlanError, match="shares no tensor names"):
        like(model, other)


def test_pinned_layers_keep_the_types_of_the_uncut_model(
    model: Path, cut: Path, tmp_path: Path
) -> None:
    uncut = {t.name: t.new for t in quantize(model, None, "Q4_K_M").tensors}
    plain = {t.name: t.new for t in quantize(cut, None, "Q4_K_M").tensors}
    made = quantize(cut, tmp_path / "p.gguf", "Q4_K_M", tensor_types=pinned(cut, model, "Q4_K_M"))
    found = {t.name: t.new for t in made.tensors}
    for layer in range(15):
        for suffix in ("attn_v.weight", "ffn_down.weight", "attn_q.weight", "attn_norm.weight"):
            assert found[f"blk.{layer}.{suffix}"] == uncut[f"blk.{layer + (layer >= 10)}.{suffix}"]
    assert found != plain  # without pinning other layers get the bits
    assert types_of(tmp_path / "p.gguf") == found


def test_a_pinned_ladder(model: Path, cut: Path, tmp_path: Path) -> None:
    kinds = ["Q4_K_M", "Q3_K_M"]
    found = ladder(cut, kinds, tmp_path, pin=model, tensor_types=["ffn_gate=q5_0"])
    for rung, ftype in zip(found.rungs, kinds, strict=True):
        uncut = {t.name: t.new for t in quantize(model, None, ftype).tensors}
        made = {t.name: t.new for t in rung.result.tensors}
        for layer in range(15):
            source = layer + (layer >= 10)
            assert made[f"blk.{layer}.ffn_down.weight"] == uncut[f"blk.{source}.ffn_down.weight"]
            assert made[f"blk.{layer}.ffn_gate.weight"] == "q5_0"  # named by hand: goes first
    (plain,) = ladder(cut, ["BF16"], tmp_path, pin=model).rungs  # has no mix to pin
    assert {t.new for t in plain.result.tensors} == {"bf16", "f32"}


def test_pinning_needs_the_true_source(model: Path, cut: Path) -> None:
    with pytest.raises(PlanError, match="was not made from cut"):
        pinned(cut, cut, "Q4_K_M")


def test_patterns_match_their_tensors_only() -> None:
    import re

    types = {f"blk.{i}.attn_v.weight": "q6_k" if i in (1, 11) else "q4_k" for i in range(12)}
    types["output.weight"] = "q8_0"
    found = patterns(types)
    for name, kind in types.items():
        assert [k for p, k in found if re.search(p, name)] == [kind]


def test_choices_are_the_best_for_the_bytes() -> None:
    from itertools import product

    options = [
        [Choice("a", 10, 9.0), Choice("b", 20, 4.0), Choice("c", 40, 1.0)],
        [Choice("a", 12, 2.0), Choice("b", 18, 1.5), Choice("c", 33, 0.2)],
        [Choice("a", 5, 30.0), Choice("b", 11, 3.0), Choice("c", 21, 2.9)],
    ]
    assert choose(options, 26) is None
    for budget in range(27, 100):
        chosen = choose(options, budget)
        assert chosen is not None
        assert sum(c.nbytes for c in chosen) <= budget
        best = min(
            sum(c.loss for c in p) for p in product(*options) if sum(c.nbytes for c in p) <= budget
        )
        assert sum(c.loss for c in chosen) <= best + 5  # within one tensor's step


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5KiB", 1536), ("2MB", 2_000_000), ("1g", 10**9), ("77B", 77), (".5 kb", 500)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["big", "1.2.3GB", "GiB", "-5MB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(EngineError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["95", "1.5", "123456"])
def test_a_size_without_a_unit_is_refused(text: str) -> None:
    """95 was taken for 95 bytes; it may as well mean 95 MB."""
    with pytest.raises(EngineError, match=f"size {text} has no unit: expected {text}MB"):
        parse_size(text)


def test_the_largest_type_that_fits(model: Path) -> None:
    sizes = {p.result.ftype: p.result.n_bytes for p in plan(model, ["Q5_K_S", "Q5_K_M", "Q2_K"])}
    assert for_size(model, sizes["Q5_K_M"] - 1).planned.result.ftype == "Q5_K_S"
    assert for_size(model, sizes["Q5_K_M"]).planned.result.ftype == "Q5_K_M"
    with pytest.raises(EngineError, match=r"no type is that small.*imatrix opens smaller"):
        for_size(model, sizes["Q2_K"] // 2)


def test_a_mix_by_measured_sensitivity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # fewer groups, so fewer probes
    monkeypatch.setattr("ggsurgery.quantize.target.DEPTH_BELOW", 0)
    attention = ("attn_q", "attn_k", "attn_v", "attn_output")
    kinds = {"attention": attention, "feed-forward": ("ffn_gate", "ffn_up", "ffn_down")}
    monkeypatch.setattr("ggsurgery.quantize.sensitivity.KINDS", kinds)
    # rows of 96 and of 256: both kinds of candidates
    shape = replace(small("S", 2), n_embd=96, tied=False)
    source = write_shapes(tmp_path / "s.gguf", shape, tokens=BYTES, seed=2)
    q5, q4 = (p.result.n_bytes for p in plan(source, ["Q5_K_M", "Q4_K_S"]))
    budget = (q5 + q4) // 2
    decision = for_size(
        source, budget, text=WORDS, n_ctx=64, n_chunks=3, folder=tmp_path, n_threads=2
    )
    assert decision.planned.result.n_bytes <= budget
    groups = {s.group for s in decision.sensitivities}
    assert groups == {"token_embd", "output", *kinds}
    assert all(s.error > 0 for s in decision.sensitivities)
    measured = {label: kl for label, _, kl in decision.compared}
    assert len(measured) == 2
    picked = "mix" if decision.tensor_types else decision.planned.result.ftype
    assert measured[picked] == min(measured.values())
    assert [p.name for p in tmp_path.iterdir()] == ["s.gguf"]  # probes are gone


def test_commands(
    model: Path, cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("quantize", str(model), "--types", "Q4_0,Q4_1", "--out-dir", str(tmp_path), "--json")
    rungs = json.loads(capsys.readouterr().out)
    assert [r["type"] for r in rungs] == ["Q4_0", "Q4_1"]
    assert all(Path(r["file"]).stat().st_size == r["bytes"] for r in rungs)
    run("quantize", rungs[0]["file"], str(tmp_path / "x.gguf"), "--type", "Q2_K")
    out = capsys.readouterr()
    assert "rounded a second time" in out.err
    assert "Q2_K" in out.out
    run("quantize", str(cut), "--type", "Q4_K_M", "--pin", str(model), "--dry-run", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["file"] is None
    assert shown["tensor_types"]["blk.0.attn_norm.weight"] == "f32"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["M", "O"], 2, "exactly one of --type, --types"),
        (["M", "--type", "Q4_0"], 2, "OUT is missing"),
        (["M", "O", "--types", "Q4_0"], 2, "--types needs --out-dir"),
        (["M", "--types", ",", "--out-dir", "D"], 2, "'--types': the list is empty"),
        (["M", "O", "--target-size", "1GB", "--pin", "M"], 2, "--pin goes with"),
        (["M", "O", "--type", "Q4_0", "--tensor-type", "ffn_dwn=q6_k"], 1, "mean ffn_down?"),
        (["M", "O", "--type", "Q4_0", "--target-size", "1GB"], 2, "exactly one of"),
        (["M", "O", "--type", "Q44"], 1, "Did you mean"),
        (["M", "O", "--type", "IQ2_M"], 1, "needs an importance matrix"),
        (["M", "M", "--type", "Q4_0", "--force"], 1, "same file"),
        (["nothing.gguf", "O", "--type", "Q4_0"], 1, "nothing.gguf"),
        (["M", "O", "--type", "Q4_0", "--text", "M"], 2, "--text goes with"),
        (["M", "O", "--type", "Q4_0", "--out-dir", "D"], 2, "--out-dir goes with"),
        (["M", "O", "--target-bpw", "nan"], 2, "--target-bpw"),
        (["M", "O", "--target-bpw", "-1"], 2, "--target-bpw"),
    ],
)
def test_wrong_usage(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    names = {"M": str(model), "O": str(tmp_path / "o.gguf")}
    with pytest.raises(SystemExit) as exit:
        main(["quantize", *(names.get(a, a) for a in arguments)])
    assert exit.value.code == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
