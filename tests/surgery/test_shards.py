"""--split-max-size: the files, names and entries of llama-gguf-split, whose merge takes ours."""

from __future__ import annotations

import filecmp
import subprocess
from pathlib import Path

import pytest
from gguf import GGUFReader

from ggsurgery.files.shard_names import shard_names
from ggsurgery.ggufio.header import read_header

from .._command import call, error_line
from .._gguf import peer_metadata, peer_tensors, tiny_llama
from .._llama_tools import llama_tool
from .._shapes import BYTES, small, write_shapes
from ..fixtures.llama import refusal

SIZE = 100_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "in.gguf", 6)


def parts(folder: Path, stem: str) -> list[Path]:
    return sorted(folder.glob(f"{stem}-*-of-*.gguf"))


def tensors_of(paths: list[Path]) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """All tensors by the package gguf, which reads each file by itself."""
    found = {}
    for path in paths:
        found |= peer_tensors(path)
    return found


def test_each_file_holds_what_fits(tmp_path: Path, model: Path) -> None:
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    call("delete", "--layer", "1", model, whole)
    said = call("delete", "--layer", "1", "--split-max-size", f"{SIZE}B", model, out)
    files = parts(tmp_path, "out")
    assert [path.name for path in files] == shard_names(out.stem, len(files))
    assert len(files) > 2 and not out.exists()
    assert said.err.startswith(f"{files[0]}: layers 6 → 5")
    assert tensors_of(files) == peer_tensors(whole)
    for number, path in enumerate(files):
        entries = peer_metadata(path)
        assert entries["split.no"] == number and entries["split.count"] == len(files)
        assert entries["split.tensors.count"] == len(peer_tensors(whole))
        kinds = {f.name: f.types for f in GGUFReader(path).fields.values()}
        assert [int(kinds[f"split.{n}"][0]) for n in ("no", "count", "tensors.count")] == [2, 2, 5]
        assert number == 0 or len([k for k in entries if not k.startswith("GGUF.")]) == 3
        used = sum(-(-t.n_bytes // 32) * 32 for t in GGUFReader(path).tensors)
        assert used <= SIZE or len(GGUFReader(path).tensors) == 1
    header = read_header(files[1])
    assert header.n_layers == 5 and len(header.paths) == len(files)
    assert refusal(files[0]) == ""  # llama.cpp loads it


def test_llama_gguf_split_merges_our_files_and_splits_alike(tmp_path: Path, model: Path) -> None:
    tool = llama_tool("llama-gguf-split")
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    write_shapes(tmp_path / "big.gguf", small("Small", 6), tokens=BYTES, seed=1)
    call("delete", "--layer", "1", tmp_path / "big.gguf", whole)
    call("delete", "--layer", "1", "--split-max-size", "1M", tmp_path / "big.gguf", out)
    ours = parts(tmp_path, "out")
    subprocess.run(
        [tool, "--merge", ours[0], tmp_path / "merged.gguf"], check=True, capture_output=True
    )
    assert peer_tensors(tmp_path / "merged.gguf") == peer_tensors(whole)
    merged = peer_metadata(tmp_path / "merged.gguf")
    theirs = {k: v for k, v in merged.items() if not k.startswith(("split.", "GGUF."))}
    expected = {k: v for k, v in peer_metadata(whole).items() if not k.startswith("GGUF.")}
    assert theirs == expected
    subprocess.run(
        [tool, "--split", "--split-max-size", "1M", whole, tmp_path / "peer"],
        check=True,
        capture_output=True,
    )
    peer = parts(tmp_path, "peer")
    assert [list(peer_tensors(p)) for p in peer] == [list(peer_tensors(p)) for p in ours]
    for a, b in zip(peer, ours, strict=True):
        assert peer_metadata(a) == peer_metadata(b)
        assert filecmp.cmp(a, b, shallow=False)


def test_every_command_that_writes_a_model_splits(tmp_path: Path, model: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("- delete: 1\n")
    commands = {
        "a": ["swap", "--layers", "1,2", model],
        "b": ["keep", "--layers", "0-2", model],
        "c": ["merge", "--layers", "1-2", model],
        "d": ["apply", recipe, model],
        "e": ["prune", "--sparsity", "0.3", model],
        "g": ["blend", model, model],
        "h": ["meta", "set", "general.license", "mit", model],
        "i": ["bridge", "--layer", "1", "--at", "2", model],
    }
    for stem, command in commands.items():
        out = tmp_path / f"{stem}.gguf"
        call(*command, tmp_path / "whole.gguf", "--force")
        call(*command, "--split-max-size", f"{SIZE}B", out)
        files = parts(tmp_path, stem)
        assert len(files) > 1, stem
        assert tensors_of(files) == peer_tensors(tmp_path / "whole.gguf"), stem
        assert not out.exists()


def test_quantize_splits_what_llama_cpp_wrote(tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "in.gguf", small("Small", 4), tokens=BYTES, seed=1)
    call("quantize", source, tmp_path / "whole.gguf", "--type", "Q4_K_M")
    made = call(
        "quantize",
        source,
        tmp_path / "out.gguf",
        "--type",
        "Q4_K_M",
        "--split-max-size",
        "300KB",
        "--json",
    ).json
    files = parts(tmp_path, "out")
    assert made["file"] == str(files[0])
    assert tensors_of(files) == peer_tensors(tmp_path / "whole.gguf")
    assert not (tmp_path / "out.gguf").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert refusal(files[0]) == ""


def test_a_ladder_splits_each_file_and_skips_those_that_are_there(tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "in.gguf", small("Small", 4), tokens=BYTES, seed=1)
    folder = tmp_path / "ladder"
    command = ("quantize", source, "--types", "Q8_0,Q4_0", "--out-dir", folder)
    call(*command)
    whole = {name: folder / f"in-{name}.gguf" for name in ("Q8_0", "Q4_0")}
    split = (*command, "--split-max-size", "300KB")
    made = call(*split, "--json").json
    for name, found in zip(whole, made, strict=True):
        files = parts(folder, f"in-{name}")
        assert found["file"] == str(files[0]) and len(files) > 1
        assert tensors_of(files) == peer_tensors(whole[name])
        assert refusal(files[0]) == ""
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    said = call(*split).err
    assert "up to date, skipped: in-Q8_0-00001-of-" in said
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    files[-1].unlink()  # a part is missing: nobody knows what the others are
    assert f"{files[0].name}: the output exists" in call(*split, code=1).err
    call(*split, "--force")
    assert parts(folder, "in-Q4_0") == files
    other = (*command, "--split-max-size", "200KB")
    assert "the output exists" in call(*other, code=1).err  # parts of another size are in the way


def test_a_split_output_is_replayed_file_by_file(tmp_path: Path, model: Path) -> None:
    size = ("--split-max-size", f"{SIZE}B")
    call("delete", "--layer", "1", *size, model, tmp_path / "out.gguf")
    first = parts(tmp_path, "out")[0]
    said = call("replay", *size, first, model, tmp_path / "again.gguf")
    assert "identical" in said.err
    for a, b in zip(parts(tmp_path, "out"), parts(tmp_path, "again"), strict=True):
        assert filecmp.cmp(a, b, shallow=False)


def test_nothing_is_replaced_and_nothing_half_written(tmp_path: Path, model: Path) -> None:
    command = ("delete", "--layer", "1", "--split-max-size", f"{SIZE}B", model)
    call(*command, tmp_path / "out.gguf")
    files = parts(tmp_path, "out")
    before = [p.read_bytes() for p in files]
    files[2].write_bytes(b"mine")
    assert f"{files[0].name}: the output exists" in error_line(*command, tmp_path / "out.gguf")
    for path in files[:2] + files[3:]:
        path.unlink()
    assert "the output exists" in error_line(*command, tmp_path / "out.gguf")
    assert parts(tmp_path, "out") == [files[2]]
    call(*command, "--force", tmp_path / "out.gguf")
    assert [p.read_bytes() for p in files] == before


@pytest.mark.parametrize("size", ["0", "5", "x", "-1M", "0M"])
def test_wrong_sizes(tmp_path: Path, model: Path, size: str) -> None:
    arguments = ("delete", "--layer", "1", "--split-max-size", size, model, tmp_path / "o.gguf")
    assert "--split-max-size" in call(*arguments, code=2).err
