"""Importance matrices: collected as llama-imatrix collects, readable by llama.cpp, remapped."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.errors import EngineError, FormatError, OutputError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from ggsurgery.plan import ops
from ggsurgery.plan.types import Blend, BlockRef, Plan, Take
from ggsurgery.quantize.imatrix_stats import layer_statistics, tensor_statistics
from ggsurgery.quantize.remap import remap
from ggsurgery.runtime.imatrix_collect import collect
from ggsurgery.surgery.lineage import plan_of
from tests._command import call
from tests._gguf import tiny_llama
from tests._llama_tools import llama_tool
from tests._needs import needs_smollm2
from tests._small_models import write_small_model
from tests._tiny import SEARCH_TEXT

WORDS = "It was a bright cold day, and the clocks of the town were striking all at once. " * 40


@pytest.fixture(scope="module", params=["dense", "experts"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / f"{request.param}.gguf"
    experts = 4 if request.param == "experts" else 0
    return write_small_model(
        path, width=96, n_layers=3, n_experts=experts, vocabulary_of=needs_smollm2()
    )


def theirs(model: Path, text: Path, out: Path, n_ctx: int, n_chunks: int) -> Imatrix:
    command = [
        llama_tool("llama-imatrix"),
        "-m",
        str(model),
        "-f",
        text.name,
        "-o",
        str(out),
        "-c",
        str(n_ctx),
        "--chunks",
        str(n_chunks),
    ]
    subprocess.run(command, capture_output=True, check=True, cwd=text.parent)
    return read_imatrix(out)


def agree(ours: Imatrix, reference: Imatrix) -> None:
    assert ours.entries.keys() == reference.entries.keys()
    assert (ours.n_chunks, ours.chunk_size) == (reference.n_chunks, reference.chunk_size)
    assert ours.datasets == reference.datasets
    for name, entry in reference.entries.items():
        assert ours.entries[name].sums.shape == entry.sums.shape
        np.testing.assert_array_equal(ours.entries[name].counts, entry.counts)
        np.testing.assert_allclose(ours.entries[name].sums, entry.sums, rtol=1e-4, err_msg=name)


def test_equal_to_llama_imatrix(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text(WORDS)
    reference = theirs(model, text, tmp_path / "ref.gguf", 128, 3)
    agree(collect(model, WORDS, n_ctx=128, n_chunks=3, dataset="t.txt"), reference)


@pytest.mark.slow
def test_equal_to_llama_imatrix_on_smollm2(tmp_path: Path) -> None:
    text = tmp_path / "valid.txt"
    words = SEARCH_TEXT.read_text(encoding="utf-8")[:20_000]
    text.write_text(words, encoding="utf-8")
    reference = theirs(needs_smollm2(), text, tmp_path / "ref.gguf", 512, 2)
    agree(
        collect(needs_smollm2(), words.removesuffix("\n"), n_chunks=2, dataset="valid.txt"),
        reference,
    )


def test_llama_quantize_reads_what_we_write(model: Path, tmp_path: Path) -> None:
    found = collect(model, WORDS, n_ctx=128, n_chunks=2, dataset="words")
    write_imatrix(found, tmp_path / "im.gguf")
    again = read_imatrix(tmp_path / "im.gguf")
    agree(again, found)
    command = [
        llama_tool("llama-quantize"),
        "--imatrix",
        str(tmp_path / "im.gguf"),
        str(model),
        str(tmp_path / "q.gguf"),
        "IQ4_NL",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"loaded {len(found.entries)} importance matrix entries" in done.stdout
    assert "did not find weights for blk" not in done.stdout + done.stderr


def test_statistics_of_llama_imatrix(model: Path, tmp_path: Path) -> None:
    found = collect(model, WORDS, n_ctx=128, n_chunks=2)
    write_imatrix(found, tmp_path / "im.gguf")
    command = [
        llama_tool("llama-imatrix"),
        "-m",
        str(model),
        "--show-statistics",
        "--in-file",
        str(tmp_path / "im.gguf"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = done.stdout + done.stderr
    row = re.compile(
        r"(\d+)\t(\w+) *\t +([\d.]+)\t +([\d.]+)\t +([\d.]+)\t +([\d.]+)\t +([\d.]+)\t"
        r" +([\d.]+)%\t +(\d+)\t +([\d.]+)\t +([\d.]+)%\t +([\d.]+)%\t +([\d.]+)"
    )
    rows = {f"blk.{m[1]}.{m[2]}.weight": m for m in row.finditer(printed)}
    ours = tensor_statistics(found)
    assert rows.keys() == {s.name for s in ours}
    for s in ours:
        m = rows[s.name]
        expected = [float(m[i]) for i in (3, 5, 6, 7, 10)]
        values = [s.total, s.maximum, s.mean, s.deviation, s.entropy]
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=0.006)
        assert s.columns == int(m[9])
        assert 100 * s.zd == pytest.approx(float(m[12]), abs=0.006)
        assert (s.cossim or 0.0) == pytest.approx(float(m[13]), abs=1e-4)
    layers = re.findall(r"(?:^|\s)(\d+)\t +([\d.]+)\t +([\d.]+)%\t *([\d.]+)\n", printed)
    mine = layer_statistics(ours)
    assert len(layers) == len(mine) == 3
    for one, (number, total, zd, cossim) in zip(mine, layers, strict=True):
        assert one.layer == int(number)
        assert one.total == pytest.approx(float(total), rel=1e-3)
        assert 100 * one.zd == pytest.approx(float(zd), abs=1e-3)
        assert one.cossim == pytest.approx(float(cossim), abs=1e-4)


def matrix(n_layers: int, start: int = 0) -> Imatrix:
    """Layer i has sums of 10 i and counts of i + 1: easy to recognise."""
    entries = {"output.weight": Entry(np.full((1, 4), 7.0, np.float32), np.array([9]))}
    for i in range(n_layers):
        value = float(10 * (i + start))
        entries[f"blk.{i}.attn_q.weight"] = Entry(
            np.full((1, 4), value, np.float32), np.array([i + 1])
        )
    return Imatrix(entries, ("t",), 1, 1)


def values(m: Imatrix) -> list[float]:
    n = len(m.entries) - 1
    return [float(m.entries[f"blk.{i}.attn_q.weight"].sums[0, 0]) for i in range(n)]


def test_entries_follow_the_layers() -> None:
    plan = ops.duplicate(ops.swap(ops.delete(Plan.identity(6), [1]), 0, 4), [2])
    found = remap([matrix(6)], plan)
    assert values(found) == [50, 20, 30, 30, 40, 0]
    assert found.entries["output.weight"].sums[0, 0] == 7


def test_the_whole_way_from_the_uncut_model_is_followed(tmp_path: Path) -> None:
    uncut = tiny_llama(tmp_path / "uncut.gguf", 6)
    swapped, cut, licensed = (tmp_path / f"{n}.gguf" for n in ("swapped", "cut", "licensed"))
    call("swap", "--layers", "1,4", uncut, swapped)
    call("meta", "set", "general.license", "mit", swapped, licensed)
    call("delete", "--layer", "3", licensed, cut)
    assert values(remap([matrix(6)], plan_of(cut, read_header(uncut)))) == [0, 40, 20, 10, 50]
    assert values(remap([matrix(6)], plan_of(cut, read_header(swapped)))) == [0, 10, 20, 40, 50]
    call("delete", "--layer", "0", uncut, tmp_path / "other.gguf")
    with pytest.raises(PlanError, match=r"not made from other.gguf.*found delete 0"):
        plan_of(cut, read_header(tmp_path / "other.gguf"))


def test_merged_layers_pool_their_parents() -> None:
    blend = Blend((Take(BlockRef(0, 1)), Take(BlockRef(0, 3))), "rdsc")
    found = remap([matrix(4)], Plan((Take(BlockRef(0, 0)), blend)))
    entry = found.entries["blk.1.attn_q.weight"]
    assert entry.sums.tolist() == [[40.0] * 4]
    assert entry.counts.tolist() == [6]
    np.testing.assert_allclose(entry.means(), 40 / 6, rtol=1e-6)


def test_two_sources_need_two_matrices() -> None:
    plan = Plan((Take(BlockRef(0, 0)), Take(BlockRef(1, 1))), n_sources=2)
    assert values(remap([matrix(2), matrix(2, start=5)], plan)) == [0, 60]
    with pytest.raises(PlanError, match="expected 2 files, found 1"):
        remap([matrix(2)], plan)


def test_a_matrix_of_another_model_is_refused() -> None:
    with pytest.raises(PlanError, match="no entry for layer 3: expected layers 0 to 2"):
        remap([matrix(3)], Plan.identity(5))


def test_unseen_experts_count_as_one() -> None:
    entry = Entry(np.array([[4.0, 8.0], [0.0, 0.0]], np.float32), np.array([4, 0]))
    assert entry.means().tolist() == [1, 2, 1, 1]


def test_the_older_form(tmp_path: Path) -> None:
    name = b"blk.0.attn_q.weight"
    data = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii3f", 2, 3, 2, 4, 6)
    data += struct.pack("<ii", 5, 4) + b"text"
    (tmp_path / "old.dat").write_bytes(data)
    found = read_imatrix(tmp_path / "old.dat")
    assert found.entries[name.decode()].means().tolist() == [1, 2, 3]
    assert (found.n_chunks, found.datasets) == (5, ("text",))
    for cut in (3, 8, 20, 31, 40):
        (tmp_path / "cut.dat").write_bytes(data[:cut])
        with pytest.raises(FormatError, match=r"cut\.dat: not an importance matrix"):
            read_imatrix(tmp_path / "cut.dat")


def test_bad_input(tmp_path: Path) -> None:
    model = write_small_model(
        tmp_path / "m.gguf", width=96, n_layers=1, vocabulary_of=needs_smollm2()
    )
    with pytest.raises(FormatError, match=r"m\.gguf: not an importance matrix: expected tensors"):
        read_imatrix(model)
    with pytest.raises(FormatError, match="cannot be read"):
        read_imatrix(tmp_path / "nothing")
    with pytest.raises(EngineError, match=r"too short.*at least 1024 tokens, found 2"):
        collect(model, "two words")
    write_imatrix(matrix(1), tmp_path / "im.gguf")
    with pytest.raises(OutputError, match="exists"):
        write_imatrix(matrix(1), tmp_path / "im.gguf")
    data = bytearray(model.read_bytes())
    from ggsurgery.ggufio.reader import Source

    with Source(model) as source:
        at = source.position(source.header.by_name["blk.0.attn_norm.weight"])
    data[at : at + 4] = np.float32(np.inf).tobytes()
    (tmp_path / "inf.gguf").write_bytes(data)
    with pytest.raises(EngineError, match=r"blk\.0\.attn_\w+\.weight: the input .* not finite"):
        collect(tmp_path / "inf.gguf", WORDS, n_ctx=64, n_chunks=1)
