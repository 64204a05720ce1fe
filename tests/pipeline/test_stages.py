"""The sections `heal` and `distil` of a recipe: the files of the single commands, replayed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ggsurgery.errors import FormatError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.measure.results.recovery import read_recovery
from ggsurgery.pipeline.document import load_document
from ggsurgery.pipeline.run import Pipeline
from ggsurgery.surgery.provenance import read_provenance
from tests._command import call
from tests._needs import needs_torch
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT

pytestmark = pytest.mark.slow

CUT = 'operations: [{delete: {layer: "4-5"}}]'
HEAL = "heal: {text: text.txt, tokens: 3072, ctx: 64, ridge: 0.05, sweep: 1, threads: 1}"
RECIPE = f"""
name: Small healed
source: {{file: in.gguf}}
{CUT}
header: {{general.license: mit}}
{HEAL.replace(", threads: 1", "")}
"""
OPTIONS = ("--text", "text.txt", "--tokens", 3072, "-c", 64, "--ridge", 0.05, "--sweep", 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(MODEL, tmp_path / "in.gguf")
    shutil.copy(SEARCH_TEXT, tmp_path / "text.txt")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_healed_model_is_that_of_the_command(folder: Path) -> None:
    pipeline = Pipeline("r.yaml", "out")
    planned = {p.task.name: p for p in pipeline.plan()}
    assert list(planned) == ["cut", "heal"]
    results = pipeline.run()
    losses = results["heal"]["held_out_nll"]
    assert losses["healed"] < losses["bare"] and results["heal"]["windows"]["fit"] == 48
    made, bare, arrays = (
        Path("out") / f"Small-healed{end}" for end in (".gguf", "-bare.gguf", ".heal.npz")
    )
    assert planned["cut"].n_bytes == bare.stat().st_size
    total = made.stat().st_size + arrays.stat().st_size
    assert (most := planned["heal"].n_bytes) is not None and total <= most < total + 10_000
    assert planned["heal"].at_most and not planned["cut"].at_most
    assert pipeline.files["cut"] == made
    call("heal", *OPTIONS, "--name", "Small healed", "in.gguf", bare, "alone.gguf")
    assert Path("alone.gguf").read_bytes() == made.read_bytes()
    header = read_header(made)
    assert header.get("general.license") == "mit" and header.n_layers == N_LAYERS - 2
    steps = [s.operation for s in read_provenance(header).recipe.steps]
    assert steps == ["delete", "heal", "set"]
    call("replay", made, "in.gguf", "again.gguf", "--sidecar", arrays)
    call("replay", made, "in.gguf", "fitted.gguf", "--text", "text.txt")
    for name in ("again.gguf", "fitted.gguf"):
        assert Path(name).read_bytes() == made.read_bytes()
    Path("r.yaml").write_text(RECIPE.replace("ridge: 0.05", "ridge: 0.1"))
    assert [p.task.name for p in Pipeline("r.yaml", "out").plan() if not p.done] == ["heal"]


def test_types_and_sidecars_as_asked(folder: Path) -> None:
    more = "sweep: 0, ridge: 0.05, out_type: f32, sidecar: false"
    heal = f"heal: {{text: text.txt, tokens: 3072, ctx: 64, {more}}}"
    evaluate = "evaluate: {perplexity: {text: text.txt, ctx: 64, windows: 4}}"
    Path("r.yaml").write_text(f"source: {{file: in.gguf}}\n{CUT}\n{heal}\n{evaluate}\n")
    pipeline = Pipeline("r.yaml", "out")
    planned = {p.task.name: p.n_bytes for p in pipeline.plan()}
    pipeline.run()
    recovery = read_recovery(Path("out/results/recovery.json"))
    assert [rung.name for rung in recovery.rungs] == ["uncut", "bare", "healed", "control"]
    uncut, bare, healed, control = recovery.rungs
    for rung, name in ((uncut, "in.gguf"), (bare, "out/r-bare.gguf"), (healed, "out/r.gguf")):
        found = call("perplexity", name, "--text", "text.txt", "-c", 64, "--windows", 4, "--json")
        assert json.loads(found.out)["value"] == rung.perplexity
    assert control.what == "Q8_0" and control.n_bytes < bare.n_bytes < uncut.n_bytes
    call("report", "out/results/recovery.json", "-o", "page.html")
    assert "What each step won back" in Path("page.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in Path("out").glob("r*.*")) == ["r-bare.gguf", "r.gguf"]
    types = {t.name: t.type for t in read_header("out/r.gguf").tensors}
    assert types["blk.3.ffn_down.weight"] == 0 and types["blk.2.ffn_down.weight"] != 0
    assert Path("out/r.gguf").stat().st_size <= (planned["heal"] or 0)


def test_merges_and_laco_are_healed_at_their_seams(folder: Path) -> None:
    merge = 'operations: [{merge: {layers: "4-6"}}]'
    laco = "laco: {text: short.txt, texts: 2, ctx: 64, threshold: 0.1, lowest: 4, merge_layers: 2}"
    Path("short.txt").write_text(SEARCH_TEXT.read_text(encoding="utf-8")[:2000])
    heal = "heal: {text: text.txt, tokens: 2048, ctx: 64, sweep: 0, any_cut: true}"
    for found_by in (merge, laco):
        Path("r.yaml").write_text(f"source: {{file: in.gguf}}\n{found_by}\n{heal}\n")
        results = Pipeline("r.yaml", f"out-{found_by[:4]}").run()
        header = read_header(f"out-{found_by[:4]}/r.gguf")
        assert [s.operation for s in read_provenance(header).recipe.steps][-1] == "heal"
        carriers = [cut["carrier"] for cut in results["heal"]["cuts"]]
        assert carriers == [4] if found_by is merge else carriers
        assert carriers


def test_healed_then_trained(folder: Path) -> None:
    needs_torch()
    more = "trainable: down, lr: 0.0001, sidecar: true, threads: 1"
    distil = f"distil: {{text: text.txt, tokens: 2048, ctx: 64, {more}}}\n"
    Path("r.yaml").write_text(RECIPE + distil)
    pipeline = Pipeline("r.yaml", "out")
    planned = {p.task.name: p.n_bytes or 0 for p in pipeline.plan()}
    results = pipeline.run()
    before, after = results["distil"]["held_out"]
    assert after < before
    stem = Path("out/Small-healed")
    files = {
        end: stem.with_name(f"Small-healed{end}")
        for end in ("-bare.gguf", "-healed.gguf", ".gguf", ".heal.npz", ".distil.npz")
    }
    assert all(path.is_file() for path in files.values())
    size = files[".gguf"].stat().st_size + files[".distil.npz"].stat().st_size
    assert size <= planned["distil"] < size + 30_000
    sidecar = ("--sidecar", files[".distil.npz"])
    call("replay", files[".gguf"], files["-healed.gguf"], "again.gguf", *sidecar)


def test_refusals_before_the_work(folder: Path) -> None:
    def refused(section: str, match: str, kind: type[Exception] = FormatError) -> None:
        Path("r.yaml").write_text(f"source: {{file: in.gguf}}\n{section}\n")
        with pytest.raises(kind, match=match):
            Pipeline("r.yaml", "out")
        assert not Path("out").exists()

    text = "text: text.txt"
    refused(f"{CUT}\nheal: {{{text}, rigde: 1}}", r"line 3: unknown key heal\.rigde.*mean ridge")
    refused(f"{CUT}\nheal: {{{text}, ridge: -1}}", r"impossible `?heal\.ridge")
    refused(f"{CUT}\nheal: {{{text}, ctx: 512, tokens: 256}}", r"fewer tokens than one window")
    refused(f"{CUT}\nheal: {{{text}, out_type: q9}}", r"unknown tensor type 'q9'")
    refused(f"{CUT}\nheal: {{text: none.txt}}", r"no file none\.txt")
    refused(f"operations: []\nheal: {{{text}}}", "nothing to heal", PlanError)
    pruned = "operations: [{prune: {sparsity: 0.5}}]"
    refused(f"{pruned}\nheal: {{{text}}}", "can be healed", PlanError)
    refused(f"{CUT}\ndistil: {{{text}, trainable: some}}", r"unknown distil\.trainable")


def test_both_sections_are_in_the_document(folder: Path) -> None:
    found = load_document("r.yaml").file
    assert found.heal is not None and found.heal.sweep == 1 and found.heal.sidecar


def test_the_narrow_model_is_that_of_the_command(folder: Path) -> None:
    width = "prune-width: {text: text.txt, ffn: 0.25, tokens: 2048, ctx: 64, ridge: 0.05}"
    Path("r.yaml").write_text(f"name: Narrow\nsource: {{file: in.gguf}}\n{width}\n")
    pipeline = Pipeline("r.yaml", "out")
    (planned,) = pipeline.plan()
    results = pipeline.run()
    assert results["cut"]["width"]["channels"] == {"before": 256, "after": 192}
    made, arrays = Path("out/Narrow.gguf"), Path("out/Narrow.cut.npz")
    assert planned.at_most and planned.n_bytes is not None
    assert abs(planned.n_bytes - made.stat().st_size) < 10_000
    options = ("--ffn", 0.25, "--text", "text.txt", "--tokens", 2048, "-c", 64, "--ridge", 0.05)
    call("prune-width", *options, "--name", "Narrow", "in.gguf", "alone.gguf")
    assert Path("alone.gguf").read_bytes() == made.read_bytes()
    call("replay", made, "in.gguf", "again.gguf", "--sidecar", arrays)
    assert Path("again.gguf").read_bytes() == made.read_bytes()
    assert all(p.done for p in Pipeline("r.yaml", "out").plan())
    Path("r.yaml").write_text(
        f"source: {{file: in.gguf}}\n{width}\n{HEAL.replace(', threads: 1', '')}"
    )
    with pytest.raises(FormatError, match="either prune-width or heal"):
        Pipeline("r.yaml", "out")
