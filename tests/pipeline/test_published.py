"""The recipes of published systems, on files of the exact shapes and on small models.

Expected integers: counted by hand from the published shapes (hidden, FFN, heads, rows of the
vocabulary), or published themselves (the ten-layer cut).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.files.resources import shipped
from ggsurgery.find.laco import collapse
from ggsurgery.ggufio.header import read_header
from ggsurgery.pipeline.document import load_document
from ggsurgery.pipeline.run import Pipeline
from ggsurgery.plan.types import Plan
from ggsurgery.surgery.prepare import prepare
from tests._shapes import BYTES, QWEN3_1_7B, QWEN3_8B, RUADAPT_4B, Shape, small, write_shapes

NO_MEMORY = "release:\n  memory: false"


def layer(shape: Shape) -> int:
    """Parameters of one layer: q and output, k and v, three FFN matrices, four norms."""
    d, q, kv = shape.n_embd, shape.n_head * shape.head, shape.n_head_kv * shape.head
    return 2 * d * q + 2 * d * kv + 3 * d * shape.n_ff + 2 * d + 2 * shape.head


#: Recipe → shapes, layers before and after, parameters before and after.
SYSTEMS = {
    "qwen3-tiny-v1": (QWEN3_1_7B, 28, 27, 1_720_574_976, 1_670_238_976),
    "qwen3-tiny-v2": (QWEN3_1_7B, 28, 30, 1_720_574_976, 1_821_246_976),
    "qwen3-8b-laco": (QWEN3_8B, 36, 26, 8_190_735_360, 6_261_271_040),
    "ruadapt-10l": (RUADAPT_4B, 36, 10, 4_007_937_536, 1_383_736_320),
}


def test_the_expected_integers_follow_from_the_shapes() -> None:
    assert layer(RUADAPT_4B) == 100_930_816
    assert layer(QWEN3_8B) == 192_946_432
    for shape, before, after, n_before, n_after in SYSTEMS.values():
        rows = 1 if shape.tied else 2
        shell = rows * shape.n_vocab * shape.n_embd + shape.n_embd
        assert n_before == shell + before * layer(shape)
        assert n_after == shell + after * layer(shape)
    assert SYSTEMS["qwen3-8b-laco"][4] == 26 * 192_946_432 + 2 * 622_329_856 + 4096


@pytest.mark.parametrize("name", SYSTEMS)
def test_shape_exact(name: str, tmp_path: Path) -> None:
    shape, before, after, n_before, n_after = SYSTEMS[name]
    source = write_shapes(tmp_path / "in.gguf", shape)
    assert source.stat().st_blocks * 512 < 10_000_000  # a hole, not gigabytes
    document = load_document(shipped("models") / f"{name}.yaml")
    recipe = document.recipe
    if name == "qwen3-8b-laco":  # published: every merge was kept
        recipe = collapse(
            Plan.identity(before), document.file.laco.numbers, lambda _: [0.968]
        ).recipe
    with prepare(recipe, [source]) as operation:
        assert operation.headers[0].n_parameters == n_before
        assert operation.layout.n_parameters == n_after
        assert (operation.headers[0].n_layers, operation.plan.n_layers) == (before, after)
    arguments = ["run", str(document.path), "--source", str(source), "--dry-run", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    steps = json.loads(result.stdout)["steps"]
    sizes = {s["step"]: s["bytes"] for s in steps}
    assert {s["at_most"] for s in steps} == {name == "qwen3-8b-laco"}
    if name == "qwen3-8b-laco":  # what will be merged is not known yet: sizes without a cut
        n_after = n_before
    assert sizes["cut"] > 2 * n_after
    assert n_after * 8.5 / 8 < sizes["quantize Q8_0"] < n_after * 8.6 / 8 + 10_000
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_on_a_small_model_from_source_to_bundle(name: str, tmp_path: Path) -> None:
    _, before, after, _, _ = SYSTEMS[name]
    source = write_shapes(tmp_path / "in.gguf", small(name, before), tokens=BYTES, seed=1)
    text = (shipped("models") / f"{name}.yaml").read_text(encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    text = text.replace("demo.txt", "short.txt")
    # Random weights share less with what they are merged into than trained ones.
    text = text.replace("tiny-qwen3/heldout_search.txt", "short.txt")
    text = text.replace("threshold: 0.85", "threshold: 0.5")
    if name != "qwen3-tiny-v1":  # one of them with all that it asks for
        text = text.replace("Q6_K, Q4_K_M, Q3_K_M, ", "").replace("release:", NO_MEMORY)
    recipe.write_text(text, encoding="utf-8")
    (tmp_path / "short.txt").write_text("Some words, said again. " * 30, encoding="utf-8")
    pipeline = Pipeline(recipe, tmp_path / "out", source=source)
    results = pipeline.run()
    made = read_header(pipeline.places.cut)
    assert made.n_layers == after
    assert results["cut"]["layers"] == [before, after]
    bundle = pipeline.places.bundle
    types = load_document(recipe).section("quantize")["types"]
    assert {p.name for p in bundle.glob("*.gguf")} == {
        f"{pipeline.places.name}-{t}.gguf" for t in types
    }
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["layers"] == after
    for file in manifest["files"]:
        (score,) = file["results"]["scores"]
        assert score["metric"] == "perplexity"
        assert score["n"] > 100
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert f"{before} → {after} layers" in card
    if name == "ruadapt-10l":
        assert "No benchmark of knowledge" in card
    if name == "qwen3-8b-laco":
        kept = [a["base"] for a in manifest["laco"]["attempts"] if a["accepted"]]
        assert kept == [25, 23, 21, 19, 17]
        for line in (
            "| layers that become one | C | 3 |",
            "| Merges kept | 5 |",
            "| Iterations | 6 |",
            "| Layers removed | 10 (27.8 %) |",
            "## Similarity",
        ):
            assert line in card
