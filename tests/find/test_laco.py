"""LaCo: the published structure, the loop's turns, and the three variants on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader

from ggsurgery.cli import cli
from ggsurgery.errors import ArchitectureError, GGSurgeryError, OutputError, PlanError
from ggsurgery.files.text import read_corpus
from ggsurgery.find.laco import Settings, collapse, cosine, laco, split_text
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.reader import Source
from ggsurgery.measure.windows import Windows
from ggsurgery.plan.types import Plan
from ggsurgery.runtime.engine import Engine
from tests._command import call
from tests._numpy_qwen3 import Qwen3
from tests._shapes import BYTES, small, write_shapes
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT

pytestmark = pytest.mark.slow


def test_structure_of_the_published_prune() -> None:
    """Qwen3-8B-LaCo-Pruned: C 3, L 4, H 28, I 2, limit 30 %, all merges accepted."""
    result = collapse(Plan.identity(36), Settings(highest=28), lambda plan: [0.9680])
    assert [a.base for a in result.accepted] == [25, 23, 21, 19, 17]
    facts = result.to_json()
    assert (facts["merges"], facts["rejected"], facts["iterations"]) == (5, 0, 6)
    assert facts["layers"] == [36, 26] and facts["removed"] == 10
    assert round(100 * facts["removed_share"], 1) == 27.8
    assert result.attempts[5].similarity is None and "limit" in result.attempts[5].note
    assert result.attempts[0].merged == (26, 27)


def test_rejected_merges_step_down_by_one() -> None:
    answers = iter([0.2, 0.2, 0.95, 0.1, 0.95])
    result = collapse(
        Plan.identity(12),
        Settings(merge_layers=2, lowest=3, highest=10, interval=3, max_compression=0.5),
        lambda plan: [next(answers)],
    )
    assert [a.base for a in result.attempts] == [8, 7, 6, 3]
    assert [a.accepted for a in result.attempts] == [False, False, True, False]
    assert len(result.plan.blocks) == 11


def test_similarity_is_the_mean_and_nan_is_no_similarity() -> None:
    parts = [0.9, 0.8, 0.7]
    settings = Settings(merge_layers=2, lowest=3, highest=5, threshold=0.79)
    result = collapse(Plan.identity(8), settings, lambda plan: parts)
    assert result.attempts[0].similarity == pytest.approx(0.8) and result.attempts[0].accepted
    assert result.to_json()["similarity"] == {
        "mean": pytest.approx(0.8),
        "min": 0.7,
        "max": 0.9,
        "texts": 3,
        "values": parts,
    }
    result = collapse(Plan.identity(8), settings, lambda plan: [float("nan")])
    assert not result.accepted and result.to_json()["similarity"] is None
    json.dumps(result.to_json(), allow_nan=False)
    assert "no numbers" in result.attempts[0].note and result.to_json()["rejected"] == 1


def test_layers_that_cannot_become_one_are_a_rejected_attempt() -> None:
    def similarities(plan: Plan) -> list[float]:
        if len(plan.blocks) == 11 and not calls:
            calls.append(plan)
            raise ArchitectureError("layers of different kinds")
        return [1.0]

    calls: list[Plan] = []
    settings = Settings(merge_layers=2, lowest=3, highest=10, max_compression=0.2)
    result = collapse(Plan.identity(12), settings, similarities)
    first, second = result.attempts[:2]
    assert (first.note, first.similarity, first.accepted) == (
        "rejected: layers of different kinds",
        None,
        False,
    )
    assert (second.base, second.accepted) == (7, True)
    assert result.to_json()["rejected"] == 1


def test_fewer_layers_at_the_end_of_the_stack() -> None:
    settings = Settings(merge_layers=4, lowest=4, highest=8, interval=1, max_compression=0.9)
    seen = []
    collapse(
        Plan.identity(6),
        Settings(merge_layers=4, lowest=0, highest=6, max_compression=0.9),
        lambda plan: seen.append(len(plan.blocks)) or [1.0],
    )  # type: ignore[func-returns-value]
    assert seen[0] == 3
    with pytest.raises(PlanError, match="`highest`"):
        collapse(Plan.identity(6), settings, lambda plan: [1.0])


def test_weights_beyond_the_type_are_a_rejected_attempt(tmp_path: Path) -> None:
    """Eq. 1 gives θ₃ + θ₄ − θ₂ = 120000 for layers 2-4 of an F16 file, and the run goes on."""
    wide, model = tmp_path / "bf16.gguf", tmp_path / "f16.gguf"
    write_shapes(wide, small("Small", 6), tokens=BYTES, seed=5)
    call("quantize", wide, model, "--type", "F16")
    with Source(model) as source:
        places = [
            source.position(source.header.by_name[f"blk.{i}.ffn_down.weight"]) for i in (3, 4)
        ]
    with model.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(np.float16(60000).tobytes())
    numbers = ("--merge-layers", 3, "--lowest", 1, "--highest", 5, "--threshold", -1)
    text = tmp_path / "t.txt"
    text.write_text("Some words, and then some more of them. " * 20, encoding="utf-8")
    found = call(
        *("laco", model, tmp_path / "out.gguf", "--dry-run", "--json", "--text", text),
        *("--texts", 2, "--ctx", 32, *numbers, "--interval", 1, "--max-compression", 0.9),
    ).json["laco"]
    first, second = found["attempts"][:2]
    assert (first["base"], first["accepted"], first["similarity"]) == (2, False, None)
    assert first["note"] == "rejected: the computed values are too large for f16"
    assert (second["base"], second["accepted"]) == (1, True)


@pytest.mark.parametrize("n_layers", [3, 6, 10, 30, 36])
def test_the_defaults_fit_every_model(n_layers: int) -> None:
    """H was 28 for all: a model of 10 layers was refused, as was every one below 28."""
    result = collapse(Plan.identity(n_layers), Settings(), lambda plan: [0.0])
    assert result.attempts[0].base == n_layers - 3
    assert result.to_json()["settings"]["highest"] == n_layers
    assert result.to_json()["settings"]["lowest"] == min(4, n_layers - 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_layers": 1}, "`merge_layers`"),
        ({"interval": 0}, "`interval`"),
        ({"max_compression": 1.0}, "`max_compression`"),
        ({"highest": 6}, "`highest` minus"),
        ({"threshold": 2.0}, "`threshold`"),
        ({"factor": 0.5}, "`factor`"),
    ],
)
def test_impossible_settings(change: dict[str, float], message: str) -> None:
    settings = Settings(**{"lowest": 4, "highest": 28, **change})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=message):
        collapse(Plan.identity(36), settings, lambda plan: [1.0])


def test_calibration_texts_are_parts_of_the_text() -> None:
    """None repeats another, wherever the lines end."""
    line = "".join(chr(0x4E00 + i) for i in range(1000))
    for text in (line, line[:900] + "\n" + line[900:], line[:10] + "\n" + line[10:], "ab"):
        for pieces in (1, 2, 3, 10):
            found = split_text(text, pieces)
            assert len(set("".join(found))) == sum(map(len, found)), (len(text), pieces)
            assert 1 <= len(found) <= pieces
    lines = "\n".join(line[i : i + 20] for i in range(0, 1000, 20))
    assert all(
        piece in lines and lines[lines.index(piece) - 1] == "\n"
        for piece in split_text(lines, 10)[1:]
    )


def test_a_text_of_two_tokens_predicts_nothing() -> None:
    with Engine.open(MODEL, n_ctx=64, n_threads=1) as engine:
        longest = 2  # cuts the texts to two tokens
        with pytest.raises(GGSurgeryError, match="three tokens"):
            Windows.of_texts(engine, ["import sys\nimport os\n"], longest)
        assert len(Windows.of_texts(engine, ["", "import sys\nimport os\n"], 64)) == 1


def test_cosine() -> None:
    a = np.array([1.0, 2.0, 3.0], np.float32)
    assert cosine(a, 2 * a) == pytest.approx(1) and cosine(a, -a) == pytest.approx(-1)
    assert cosine(a, 0 * a) == 0


@pytest.mark.parametrize("variant", ["paper", "reference", "damped"])
def test_variants_on_the_tiny_model(variant: str) -> None:
    text = read_corpus(SEARCH_TEXT)
    settings = Settings(
        merge_layers=2,
        lowest=1,
        highest=9,
        interval=1,
        threshold=-1,
        variant=variant,  # type: ignore[arg-type]
    )
    result = laco(MODEL, [text[:600], text[5000:5600]], settings, n_ctx=64, n_threads=1)
    assert len(result.plan.blocks) == N_LAYERS - 3  # 30 % of ten
    assert len(result.accepted) == 3
    assert all(-1 <= s <= 1 for a in result.accepted for s in a.per_text)
    first = result.accepted[0].similarity
    assert first is not None and first > 0.1  # one merge of ten layers keeps something
    assert result.perplexity is not None and 1 < result.perplexity[0] < result.perplexity[1]


@pytest.mark.parametrize("variant", ["paper", "reference", "damped"])
def test_first_similarity_against_numpy(variant: str) -> None:
    """Merged by hand in float64, run by a float64 network, compared as the formula says."""
    text = read_corpus(SEARCH_TEXT)
    pieces = [text[:400], text[6000:6400]]
    settings = Settings(
        merge_layers=3,
        lowest=5,
        highest=9,
        threshold=-1,
        max_compression=0.25,
        variant=variant,  # type: ignore[arg-type]
    )
    result = laco(MODEL, pieces, settings, n_ctx=48, n_threads=1)
    (attempt,) = result.accepted
    assert (attempt.base, attempt.merged) == (6, (7, 8))
    base, merged = Qwen3(MODEL), Qwen3(MODEL)
    for name in [n for n in base.w if n.startswith("blk.6.")]:
        own, *others = (base.w[name.replace("blk.6.", f"blk.{i}.")] for i in (6, 7, 8))
        if variant == "reference":
            merged.w[name] = own if "norm" in name else others[-1]
        else:
            factor = 1.0 if variant == "paper" else 0.5
            merged.w[name] = own + factor * sum(o - own for o in others)
    rest = [i for i in range(N_LAYERS) if i not in (7, 8)]
    with Engine.open(MODEL, n_ctx=64, n_threads=1) as engine:
        rows = [engine.tokenize_array(piece)[:48] for piece in pieces]
    for row, found in zip(rows, attempt.per_text, strict=True):
        a, b = (
            net.last_hidden(row, layers).ravel()
            for net, layers in ((base, range(N_LAYERS)), (merged, rest))
        )
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert found == pytest.approx(expected, abs=2e-3)


def test_command_writes_what_the_loop_found(tmp_path: Path) -> None:
    out, log = tmp_path / "laco.gguf", tmp_path / "laco.json"
    result = CliRunner().invoke(
        cli,
        [
            "laco",
            str(MODEL),
            str(out),
            "--merge-layers",
            "2",
            "--lowest",
            "1",
            "--highest",
            "9",
            "--interval",
            "1",
            "--threshold",
            "-1",
            "--variant",
            "reference",
            "--text",
            str(SEARCH_TEXT),
            "--texts",
            "2",
            "--ctx",
            "64",
            "--log",
            str(log),
            "--threads",
            "1",
        ],
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert "3 merges, 0 rejected, 4 iterations: 10 → 7 layers" in result.stdout
    assert read_header(out).n_layers == 7
    facts = json.loads(log.read_text())
    assert facts["settings"]["method"] == "reference" and facts["similarity"]["texts"] == 2
    # the last merge's base took over the projections of the layer behind it, norms stayed
    base = facts["attempts"][2]["base"]
    ours = {t.name: t.data for t in GGUFReader(out).tensors}
    theirs = {t.name: t.data for t in GGUFReader(MODEL).tensors}
    assert np.array_equal(
        ours[f"blk.{base}.attn_norm.weight"], theirs[f"blk.{base}.attn_norm.weight"]
    )


def test_nothing_kept_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "laco.gguf"
    result = CliRunner().invoke(
        cli,
        [
            "laco",
            str(MODEL),
            str(out),
            "--merge-layers",
            "2",
            "--lowest",
            "6",
            "--highest",
            "9",
            "--threshold",
            "0.9999999",
            "--text",
            str(SEARCH_TEXT),
            "--texts",
            "1",
            "--ctx",
            "32",
            "--threads",
            "1",
            "--json",
        ],
    )
    assert isinstance(result.exception, PlanError) and not out.exists()
    assert "no merge was kept, so nothing was written" in str(result.exception)
    assert "Lower --threshold" in str(result.exception)
    facts = json.loads(result.stdout)
    assert facts["out"] is None and facts["laco"]["merges"] == 0
    arguments = ["laco", str(MODEL), str(out), "--text", str(SEARCH_TEXT), "--log", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, OutputError) and "same name" in str(result.exception)
