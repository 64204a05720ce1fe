"""An importance matrix gives each layer its own importances, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ggsurgery.cli import cli
from ggsurgery.errors import FormatError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from ggsurgery.ggufio.reader import Source
from ggsurgery.quantize.remap import matching
from ggsurgery.runtime.imatrix_collect import collect
from ggsurgery.runtime.quantize import quantize
from ggsurgery.surgery.imatrix_lineage import MODEL, OPERATIONS, recorded
from tests._needs import needs_smollm2
from tests._small_models import write_small_model

N = 5
WORDS = "It was a bright cold day, and the clocks of the town were striking all at once. " * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "base.gguf"
    return write_small_model(path, width=256, n_layers=N, vocabulary_of=needs_smollm2())


@pytest.fixture(scope="module")
def foreign(model: Path) -> Path:
    """As llama-imatrix writes it: without a trace of its model; every layer has its own."""
    rng = np.random.default_rng(3)
    entries = {}
    for tensor in read_header(model).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            sums = rng.gamma(0.3, size=(1, tensor.shape[0])).astype(np.float32) + 1e-3
            entries[tensor.name] = Entry(sums, np.array([64], np.int64))
    out = model.with_name("foreign.imatrix.gguf")
    write_imatrix(Imatrix(entries, ("t.txt",), 1, 64), out)
    return out


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def operated(model: Path, folder: Path, *steps: tuple[object, ...]) -> Path:
    """The model after operations, one file after the other."""
    path = model
    for number, step in enumerate(steps):
        out = folder / f"{number}.gguf"
        done = run(*step, path, out)
        assert done.exit_code == 0, (done.output, done.exception)
        path = out
    return path


def layer_bytes(path: Path, layer: int) -> dict[str, bytes]:
    with Source(path) as source:
        found = source.header.layer_tensors(layer)
        return {suffix: bytes(source.data(t)) for suffix, t in found.items()}


def same_layers(cut: Path, base: Path, order: list[int]) -> bool:
    """Whether the quantized file holds the quantized base's layers, in that order."""
    assert read_header(cut).n_layers == len(order)
    return all(layer_bytes(cut, i) == layer_bytes(base, j) for i, j in enumerate(order))


#: Operations, and the base's layers that the result is made of.
LINEAGES: dict[str, tuple[list[tuple[object, ...]], list[int]]] = {
    "swap": ([("swap", "--layers", "1,3")], [0, 3, 2, 1, 4]),
    "move": ([("move", "--layer", "0", "--to", "4")], [1, 2, 3, 4, 0]),
    "keep": ([("keep", "--layers", "4,0,2")], [4, 0, 2]),
    "delete": ([("delete", "--layer", "1")], [0, 2, 3, 4]),
    "duplicate": ([("duplicate", "--layer", "1")], [0, 1, 1, 2, 3, 4]),
    "delete, duplicate": (
        [("delete", "--layer", "1"), ("duplicate", "--layer", "0")],
        [0, 0, 2, 3, 4],
    ),
}


@pytest.fixture(scope="module")
def ours(model: Path, foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same entries with the trace that our collector leaves."""
    text = collect(model, WORDS, n_ctx=64, n_chunks=1)
    known = read_imatrix(foreign)
    out = tmp_path_factory.mktemp("ours") / "ours.imatrix.gguf"
    own = {k: text.metadata[k] for k in ("ggsurgery.imatrix.model", "ggsurgery.imatrix.operations")}
    write_imatrix(Imatrix(known.entries, ("t.txt",), 1, 64, metadata=own), out)
    return out


@pytest.fixture(scope="module")
def quantized(model: Path, foreign: Path) -> Path:
    out = model.with_name("base-IQ4_XS.gguf")
    quantize(model, out, "IQ4_XS", imatrix=foreign, pure=True)
    return out


@pytest.mark.parametrize("name", LINEAGES)
def test_entries_follow_the_layers_of_a_traced_matrix(
    name: str, model: Path, ours: Path, quantized: Path, tmp_path: Path
) -> None:
    """The oracle: llama.cpp quantizes each layer to the bytes that it has in the base."""
    steps, order = LINEAGES[name]
    cut, out = operated(model, tmp_path, *steps), tmp_path / "q.gguf"
    done = run("quantize", cut, out, "--type", "IQ4_XS", "--pure", "--imatrix", ours)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "its entries followed the layers through" in done.stderr
    assert same_layers(out, quantized, order)


@pytest.mark.parametrize("name", ["keep", "delete", "duplicate"])
def test_the_number_of_layers_tells_where_it_can(
    name: str, model: Path, foreign: Path, quantized: Path, tmp_path: Path
) -> None:
    steps, order = LINEAGES[name]
    cut, out = operated(model, tmp_path, *steps), tmp_path / "q.gguf"
    done = run("quantize", cut, out, "--type", "IQ4_XS", "--pure", "--imatrix", foreign)
    assert done.exit_code == 0, (done.output, done.exception)
    assert same_layers(out, quantized, order)


@pytest.mark.parametrize("name", ["swap", "move", "delete, duplicate"])
def test_where_nothing_tells_the_user_has_to(
    name: str, model: Path, foreign: Path, quantized: Path, tmp_path: Path
) -> None:
    steps, order = LINEAGES[name]
    cut, out = operated(model, tmp_path, *steps), tmp_path / "q.gguf"
    command = ("quantize", cut, out, "--type", "IQ4_XS", "--pure", "--imatrix", foreign)
    refused = run(*command)
    assert isinstance(refused.exception, PlanError) and not out.exists()
    assert "--imatrix-of base or --imatrix-of this" in str(refused.exception)
    assert run(*command, "--imatrix-of", "base").exit_code == 0
    assert same_layers(out, quantized, order)
    assert run(*command, "--imatrix-of", "this", "--force").exit_code == 0
    assert not same_layers(out, quantized, order)
    with pytest.raises(PlanError, match="imatrix_of"):  # the library refuses, too
        quantize(cut, tmp_path / "l.gguf", "IQ4_XS", imatrix=foreign)


def test_a_ladder_and_a_target_take_the_same_care(
    model: Path, ours: Path, foreign: Path, quantized: Path, tmp_path: Path
) -> None:
    steps, order = LINEAGES["swap"]
    cut = operated(model, tmp_path, *steps)
    many = ("--types", "IQ4_XS", "--out-dir", tmp_path / "l", "--pure")
    done = run("quantize", cut, *many, "--imatrix", ours)
    assert done.exit_code == 0, (done.output, done.exception)
    (rung,) = (tmp_path / "l").glob("*.gguf")
    assert same_layers(rung, quantized, order)
    again = run("quantize", cut, *many, "--imatrix", ours)
    assert again.exit_code == 0 and rung.name in again.stderr
    for way in (many, (tmp_path / "t.gguf", "--target-bpw", "5")):
        refused = run("quantize", cut, *way, "--imatrix", foreign)
        assert isinstance(refused.exception, PlanError)


def test_prune_by_wanda_refuses_what_would_have_to_follow(
    model: Path, ours: Path, foreign: Path, tmp_path: Path
) -> None:
    swapped = operated(model, tmp_path, *LINEAGES["swap"][0])
    out, moved = tmp_path / "p.gguf", tmp_path / "moved.gguf"
    command = ("prune", "--sparsity", ".5", "--scope", "row", "--score", "wanda", "--imatrix")
    for matrix, message in ((ours, f"imatrix remap {ours.name}"), (foreign, "imatrix_of")):
        refused = run(*command, matrix, swapped, out)
        assert isinstance(refused.exception, PlanError) and message in str(refused.exception)
        assert not out.exists()
    assert run("imatrix", "remap", ours, moved, "--uncut", model, "--cut", swapped).exit_code == 0
    done = run(*command, moved, swapped, out)
    assert done.exit_code == 0, (done.output, done.exception)
    # the oracle: the base pruned with its own matrix, and swapped then
    (tmp_path / "right").mkdir()
    right = operated(model, tmp_path / "right", (*command, ours), *LINEAGES["swap"][0])
    assert all(layer_bytes(out, i) == layer_bytes(right, i) for i in range(N))
    assert run(*command, foreign, swapped, out, "--force", "--imatrix-of", "this").exit_code == 0
    assert not all(layer_bytes(out, i) == layer_bytes(right, i) for i in range(N))


def test_a_recipe_is_refused_as_the_command_is(model: Path, ours: Path, tmp_path: Path) -> None:
    swapped = operated(model, tmp_path, *LINEAGES["swap"][0])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"operations:\n  - prune: {{sparsity: 0.5, score: wanda, imatrix: {ours}}}\n")
    refused = run("apply", recipe, swapped, tmp_path / "o.gguf")
    assert isinstance(refused.exception, PlanError), refused.output
    assert "imatrix remap" in str(refused.exception)


def test_collected_and_remapped_matrices_keep_their_trace(model: Path, tmp_path: Path) -> None:
    swapped = operated(model, tmp_path, *LINEAGES["swap"][0])
    text = tmp_path / "t.txt"
    text.write_text(WORDS)
    base, of_cut, moved = (tmp_path / f"{n}.imatrix.gguf" for n in ("base", "cut", "moved"))
    for source, out in ((model, base), (swapped, of_cut)):
        done = run("imatrix", source, out, "--text", text, "--ctx", 64, "--chunks", 2)
        assert done.exit_code == 0, (done.output, done.exception)
    assert recorded(read_imatrix(base)) == ()
    assert [r.describe() for r, _ in recorded(read_imatrix(of_cut)) or ()] == ["swap 1,3"]
    with Source(swapped) as source:
        assert read_imatrix(of_cut).metadata[MODEL].value == source.checksum()
    out = tmp_path / "q.gguf"
    for matrix in (of_cut, moved):
        if matrix == moved:
            run("imatrix", "remap", base, moved, "--uncut", model, "--cut", swapped)
            assert recorded(read_imatrix(moved)) == recorded(read_imatrix(of_cut))
        done = run("quantize", swapped, out, "--type", "IQ4_XS", "--imatrix", matrix, "--force")
        assert done.exit_code == 0 and "followed" not in done.stderr, done.output
    wrong = run("quantize", model, out, "--type", "IQ4_XS", "--imatrix", of_cut, "--force")
    assert "is of another model" in str(wrong.exception)


def test_masks_move_no_layer(model: Path, foreign: Path, tmp_path: Path) -> None:
    pruned = operated(model, tmp_path, ("prune", "--sparsity", "0.1"))
    done = run("quantize", pruned, tmp_path / "q.gguf", "--type", "IQ4_XS", "--imatrix", foreign)
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["sums", "counts"])
def test_importances_that_cannot_be_are_refused_by_name(
    value: float, place: str, foreign: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(foreign.read_bytes())
    header = read_header(bad)
    tensor = header.by_name["blk.2.ffn_up.weight" + (".in_sum2" if place == "sums" else ".counts")]
    with bad.open("r+b") as file:
        file.seek(header.data_offset[0] + tensor.offset + (4 * 7 if place == "sums" else 0))
        file.write(np.float32(value).tobytes())
    with pytest.raises(FormatError, match=r"blk\.2\.ffn_up\.weight"):
        read_imatrix(bad)


def test_a_legacy_file_with_a_negative_importance(tmp_path: Path) -> None:
    name = b"blk.0.ffn_up.weight"
    data = b"".join(
        [
            np.int32(1).tobytes(),
            np.int32(len(name)).tobytes(),
            name,
            np.int32(1).tobytes(),
            np.int32(4).tobytes(),
            np.array([1, 2, -3, 4], np.float32).tobytes(),
        ]
    )
    path = tmp_path / "old.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"input column 2.*blk\.0\.ffn_up\.weight|blk\.0"):
        read_imatrix(path)


def test_a_damaged_trace_is_named(foreign: Path, model: Path, tmp_path: Path) -> None:
    from gguf.constants import GGUFValueType

    from ggsurgery.ggufio.types import Value

    known = read_imatrix(foreign)
    own = {OPERATIONS: Value.of(json.dumps([["no recipe"]]), GGUFValueType.STRING)}
    out = tmp_path / "odd.gguf"
    write_imatrix(Imatrix(known.entries, metadata=own), out)
    with pytest.raises(FormatError, match=r"odd\.gguf.*ggsurgery\.imatrix\.operations"):
        quantize(model, None, "IQ4_XS", imatrix=out, dry_run=True)


def test_columns_follow_the_channels(
    model: Path, foreign: Path, ours: Path, tmp_path: Path
) -> None:
    narrow = ("prune-width", "--ffn", 0.5, "--score", "random", "--no-refit")
    cut = operated(model, tmp_path, ("delete", "--layer", "1"), narrow)
    kept = [0, 2, 3, 4]
    with Source(model) as base, Source(cut) as made:
        for matrix in (foreign, ours):
            before = read_imatrix(matrix).entries
            found, said = matching(matrix, cut)
            assert said is not None and "keep_channels" in said
            for place, layer in enumerate(kept):
                down = f"blk.{place}.ffn_down.weight"
                rows = base.header.layer_tensors(layer)["ffn_gate.weight"]
                whole = np.frombuffer(base.data(rows), np.float16).reshape(512, -1)
                left = made.header.layer_tensors(place)["ffn_gate.weight"]
                stays = np.frombuffer(made.data(left), np.float16).reshape(256, -1)
                numbers = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in stays]
                old = before[f"blk.{layer}.ffn_down.weight"].sums[0]
                np.testing.assert_array_equal(found.entries[down].sums[0], old[numbers])
    own = tmp_path / "own.imatrix.gguf"
    write_imatrix(found, own)
    assert matching(own, cut)[1] is None  # it has the columns of the narrow file already
    refused = run("prune", "--sparsity", 0.5, "--score", "wanda", "--imatrix", ours, cut, "no.gguf")
    assert refused.exit_code == 1
    assert "has other columns under the same numbers" in str(refused.exception)


def test_columns_follow_the_heads(model: Path, foreign: Path, ours: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text('operations: [{keep_kv_groups: {groups: {"0-4": "1"}, of: 2}}]')
    cut = operated(model, tmp_path, ("apply", recipe))
    for matrix in (foreign, ours):
        found, said = matching(matrix, cut)
        assert said is not None
        for layer in range(N):
            name = f"blk.{layer}.attn_output.weight"
            before, after = read_imatrix(matrix).entries[name].sums, found.entries[name].sums
            np.testing.assert_array_equal(after, before[:, 128:])
    out = tmp_path / "q.gguf"
    done = run("quantize", cut, out, "--type", "Q4_K_M", "--imatrix", foreign)
    assert done.exit_code == 0, (done.output, done.exception)
