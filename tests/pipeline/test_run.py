"""A run goes on where it stopped and redoes what follows from a change, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ggsurgery.cli import cli
from ggsurgery.errors import EngineError, GGSurgeryError, OutputError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.pipeline import run as run_module
from ggsurgery.pipeline.run import Event, Pipeline
from ggsurgery.pipeline.state import NAME, locked
from ggsurgery.runtime.quantize import quantize
from tests._command import heed_signals
from tests._needs import needs_package
from tests._shapes import BYTES, small, write_shapes

pytestmark = pytest.mark.slow

RECIPE = """
name: Small cut
source: {file: in.gguf}
operations:
  - delete: {layer: "1"}
quantize: {types: [Q8_0, Q4_K_M]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shapes(tmp_path / "in.gguf", small("Small", 4), tokens=BYTES, seed=3)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "text.txt").write_text("Some words, said again. " * 60, encoding="utf-8")
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "recipe.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def run(folder: Path) -> list[str]:
    """Run the recipe; the names of the steps that were done (not skipped)."""
    done: list[str] = []

    def tell(event: Event) -> None:
        if event.kind == "done":
            done.append(event.task.name)

    Pipeline(folder / "recipe.yaml", folder / "out").run(tell)
    return done


def test_a_second_run_does_nothing_and_a_change_what_follows(folder: Path) -> None:
    assert run(folder) == ["cut", "quantize Q8_0", "quantize Q4_K_M"]
    assert run(folder) == []
    change(folder, "[Q8_0, Q4_K_M]", "[Q8_0, Q4_K_M, Q2_K]")
    assert run(folder) == ["quantize Q2_K"]
    (folder / "out/Small-cut-Q8_0.gguf").unlink()
    assert run(folder) == ["quantize Q8_0"]
    change(folder, 'layer: "1"', 'layer: "2"')
    assert run(folder) == ["cut", "quantize Q8_0", "quantize Q4_K_M", "quantize Q2_K"]
    write_shapes(folder / "in.gguf", small("Small", 4), tokens=BYTES, seed=4)
    assert run(folder)[0] == "cut"
    (folder / "out" / NAME).write_text("{", encoding="utf-8")  # a damaged state knows nothing
    with pytest.raises(OutputError, match="this run did not make"):
        run(folder)


def test_the_files_are_what_single_commands_make(folder: Path) -> None:
    change(folder, "operations:", "header: {general.license: mit}\noperations:")
    run(folder)
    cut = read_header(folder / "out/Small-cut.gguf")
    assert (cut.n_layers, cut.get("general.license")) == (3, "mit")
    assert cut.get("general.name") == "Small cut"
    alone = folder / "alone.gguf"
    arguments = ["quantize", str(cut.path), str(alone), "--type", "Q4_K_M"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert alone.read_bytes() == (folder / "out/Small-cut-Q4_K_M.gguf").read_bytes()


def test_layers_keep_the_types_of_the_uncut_model(folder: Path) -> None:
    write_shapes(folder / "in.gguf", small("Small", 9), tokens=BYTES, seed=3)
    change(folder, "[Q8_0, Q4_K_M]}", "[Q4_K_M], pin: true}")
    planned = {p.task.name: p.n_bytes for p in Pipeline(folder / "recipe.yaml", "o").plan()}
    run(folder)
    made = read_header(folder / "out/Small-cut-Q4_K_M.gguf")
    assert made.path.stat().st_size == planned["quantize Q4_K_M"]
    uncut = {t.name: t.new for t in quantize(folder / "in.gguf", None, "Q4_K_M").tensors}
    plain = {t.name: t.new for t in quantize(folder / "out/Small-cut.gguf", None, "Q4_K_M").tensors}
    types = {t.name: t.type_name for t in made.tensors}
    kept = [0, *range(2, 9)]
    for new, old in enumerate(kept):
        for kind in ("attn_v", "ffn_down", "attn_q"):
            assert types[f"blk.{new}.{kind}.weight"] == uncut[f"blk.{old}.{kind}.weight"]
    assert types != plain


def test_with_an_imatrix(folder: Path) -> None:
    change(
        folder,
        "quantize: {types: [Q8_0, Q4_K_M]}",
        "imatrix: {text: text.txt, ctx: 128}\nquantize: {types: [IQ2_XS, Q4_K_M]}",
    )
    change(folder, "[IQ2_XS, Q4_K_M]", "[IQ2_XS, Q4_K_M, Q4_0]")  # Q4_0: other types with one
    planned = {p.task.name: p.n_bytes for p in Pipeline(folder / "recipe.yaml", "o").plan()}
    steps = ["quantize IQ2_XS", "quantize Q4_K_M", "quantize Q4_0"]
    assert run(folder) == ["cut", "imatrix", *steps]
    made_sizes = [(folder / f"out/Small-cut-{s.split()[1]}.gguf").stat().st_size for s in steps]
    assert made_sizes == [planned[s] for s in steps]
    made = read_header(folder / "out/Small-cut-IQ2_XS.gguf")
    assert made.get("quantize.imatrix.file") == "Small-cut.imatrix.gguf"
    (folder / "text.txt").write_text("Other words, said often. " * 60, encoding="utf-8")
    assert run(folder) == ["imatrix", *steps]


def test_pins_and_an_imatrix_together(folder: Path) -> None:
    change(folder, "[Q8_0, Q4_K_M]", "[Q4_K_M], pin: true")
    change(folder, "quantize:", "imatrix: {text: text.txt, ctx: 128}\nquantize:")
    planned = {p.task.name: p.n_bytes for p in Pipeline(folder / "recipe.yaml", "o").plan()}
    assert run(folder) == ["cut", "imatrix", "quantize Q4_K_M"]
    made = (folder / "out/Small-cut-Q4_K_M.gguf").stat().st_size
    assert made == planned["quantize Q4_K_M"]


def test_a_lost_cut_is_made_again_alone_and_the_dry_run_says_so(folder: Path) -> None:
    run(folder)
    (folder / "out/Small-cut.gguf").unlink()
    planned = Pipeline(folder / "recipe.yaml", folder / "out").plan()
    missing = [p.task.name for p in planned if not p.done]
    assert run(folder) == missing == ["cut"]


def test_the_release_follows_its_files(folder: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    path = folder / "recipe.yaml"
    (folder / "LICENSE").write_text("Do what you like.", encoding="utf-8")
    extra = "release: {license: LICENSE, memory: false}\n"
    path.write_text(path.read_text(encoding="utf-8") + extra, encoding="utf-8")
    assert run(folder)[-1] == "release"
    assert run(folder) == []
    (folder / "LICENSE").write_text("Do nothing with it.", encoding="utf-8")
    assert run(folder) == ["release"]
    assert (folder / "out/bundle/LICENSE").read_text(encoding="utf-8") == "Do nothing with it."
    path.write_text(path.read_text(encoding="utf-8") + "# a remark\n", encoding="utf-8")
    assert run(folder) == ["release"]
    manifest = json.loads((folder / "out/bundle/manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"].endswith("# a remark\n")


def test_the_licence_may_be_an_identifier(folder: Path) -> None:
    """`license: gemma` was taken for a file's name and refused."""
    needs_package("huggingface_hub", extra="hub")
    path = folder / "recipe.yaml"
    extra = "release: {license: gemma, memory: false}\n"
    path.write_text(path.read_text(encoding="utf-8") + extra, encoding="utf-8")
    assert run(folder)[-1] == "release"
    card = (folder / "out/bundle/README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "gemma"
    assert not (folder / "out/bundle/LICENSE").exists()


def test_a_quantized_source_is_warned_of_as_the_command_does(folder: Path) -> None:
    """It was refused, under the name of a temporary file."""
    (folder / "in.gguf").rename(folder / "float.gguf")
    quantize(folder / "float.gguf", folder / "in.gguf", "Q8_0")
    said: list[str] = []

    def tell(event: Event) -> None:
        said.extend([event.text] if event.kind == "warning" else [])

    pipeline = Pipeline(folder / "recipe.yaml", folder / "out")
    pipeline.run(tell)
    assert len(said) == 1
    assert said[0].startswith(f"{folder}/in.gguf is quantized already (q8_0): ")
    assert read_header(folder / "out/Small-cut-Q4_K_M.gguf").n_layers == 3
    change(folder, "{types:", "{allow_requantize: false, types:")
    with pytest.raises(EngineError) as refused:
        run(folder)
    assert str(refused.value).startswith(f"{folder}/in.gguf: token_embd.weight: ")
    assert "are quantized already: expected f32, f16 or bf16, found q8_0" in str(refused.value)


EVALUATE = """
evaluate:
  perplexity: {text: text.txt, ctx: 64, chunks: 2}
  kl: {text: text.txt, ctx: 64, chunks: 2}
  choices:
    - {data: quiz.jsonl, limit: 3}
    - {data: shots.jsonl, from: quiz.jsonl, shots: 1}
  suite: {limit: 1}
release: {memory: false}
"""
QUESTION = '{"id": "%d", "query": "Two and two are", "choices": ["four", "five"], "answer": 0}\n'


def test_every_measurement_is_a_step_of_its_own(folder: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    for name in ("quiz", "shots"):
        quiz = "".join(QUESTION % i for i in range(4))
        (folder / f"{name}.jsonl").write_text(quiz, encoding="utf-8")
    change(folder, "quantize: {types: [Q8_0, Q4_K_M]}", EVALUATE)
    kinds = ["perplexity", "kl", "choices-quiz", "choices-shots", "suite"]
    names = ["source", "cut"]
    measured = [f"{k} {n}" for k in kinds for n in names if (k, n) != ("kl", "source")]
    assert run(folder) == ["cut", *measured, "controls cut", "release"]
    assert run(folder) == []
    pipeline = Pipeline(folder / "recipe.yaml", folder / "out")
    found = pipeline.results("cut")
    assert found is not None and found.suite is not None
    assert {"perplexity", "kl_mean", "quiz acc", "shots acc_norm"} <= {
        s.label for s in found.scores
    }
    assert [s.n for s in found.scores if s.metric == "acc"] == [3, 4]
    (entry,) = json.loads((folder / "out/bundle/manifest.json").read_text("utf-8"))["files"]
    assert len(entry["results"]["scores"]) == len(found.scores)
    assert entry["results"]["comparisons"][0]["label"] == "surgery"
    card = (folder / "out/bundle/README.md").read_text(encoding="utf-8")
    for section in (
        "## Perplexity",
        "## Divergence from the original",
        "## Score of 100",
        "## Was it worth it?\n\n- `Small-cut-BF16.gguf`: Verdict: ",
    ):
        assert section in card
    assert {c["kind"] for c in found.controls} == {"same bytes", "random layers", "last layers"}
    assert all(c["score"] is not None for c in found.controls)
    table = (
        CliRunner()
        .invoke(cli, ["run", str(folder / "recipe.yaml"), "--out", str(folder / "out")])
        .stdout
    )
    assert "KL" in table and "score of 100" in table and "quiz acc" in table
    assert "Small-cut.gguf: Verdict: " in table
    change(folder, "suite: {limit: 1}", "suite: {limit: 1, random: 1}")
    assert run(folder) == ["controls cut", "release"]
    found = pipeline.results("cut")
    assert found is not None and len([c for c in found.controls if c["layers"]]) == 2
    change(folder, "random: 1", "controls: false")  # what is not asked for is no longer told
    assert run(folder) == ["release"]
    assert "worth it" not in (folder / "out/bundle/README.md").read_text(encoding="utf-8")
    change(folder, "kl: {text: text.txt, ctx: 64", "kl: {text: text.txt, ctx: 32")
    assert run(folder) == ["kl cut", "release"]
    (folder / "quiz.jsonl").write_text("".join(QUESTION % i for i in range(5)), encoding="utf-8")
    assert run(folder) == [f"choices-{q} {n}" for q in ("quiz", "shots") for n in names] + [
        "release"
    ]
    change(
        folder, "  suite: {limit: 1, controls: false}\n", ""
    )  # what is no longer asked for is no longer told
    assert run(folder) == ["release"]
    assert "Score of 100" not in (folder / "out/bundle/README.md").read_text(encoding="utf-8")


def test_benchmarks_of_the_harness(folder: Path) -> None:
    needs_package("lm_eval", extra="bench")
    (folder / "q").mkdir()
    quiz = "".join(QUESTION % i for i in range(2))
    (folder / "q/arc_easy_test.jsonl").write_text(quiz, encoding="utf-8")
    change(
        folder,
        "quantize: {types: [Q8_0, Q4_K_M]}",
        "evaluate: {bench: {tasks: [arc_easy], data: q}}",
    )
    assert run(folder) == ["cut", "bench source", "bench cut"]
    found = Pipeline(folder / "recipe.yaml", folder / "out").results("cut")
    assert found is not None
    assert [s.n for s in found.scores if s.label == "arc_easy acc"] == [2]
    assert run(folder) == []
    (folder / "q/arc_easy_test.jsonl").write_text(quiz + QUESTION % 3, encoding="utf-8")
    assert run(folder) == ["bench source", "bench cut"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("kl: {text: no.txt}", r"no file no\.txt"),
        ("choices: [{data: text.txt}]", r"text\.txt: line 1"),
        ("choices: [{data: q.jsonl, style: odd}]", "choices.style: expected one of"),
        ("choices: [{data: q.jsonl, shots: 2}]", "shots and evaluate.choices.from go"),
        ("choices: [{data: q.jsonl}, {data: q.jsonl}]", r"asks q\.jsonl twice"),
        ("bench: {tasks: [piqa], data: nowhere}", "no folder nowhere"),
        ("suite: {length: short}", "suite.length: expected one of default, long"),
    ],
)
def test_bad_measurements_are_told_before_the_work(
    folder: Path, section: str, message: str
) -> None:
    (folder / "q.jsonl").write_text(QUESTION % 1, encoding="utf-8")
    change(folder, "quantize:", f"evaluate: {{{section}}}\nquantize:")
    with pytest.raises(GGSurgeryError, match=message):
        run(folder)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("recommended: Q2_K", "release.recommended: expected one of quantize.types: Q8_0, Q4_K_M"),
        ("license: no.txt", r"release\.license: no\.txt is neither a file nor a known licence"),
        ("results: [no.json]", r"no file no\.json"),
        ("family: qwen-3", "Did you mean qwen3"),
        ("parameters: {temperatur: 1}", "no PARAMETER temperatur"),
    ],
)
def test_a_release_that_cannot_be_made_is_told_before_the_work(
    folder: Path, section: str, message: str
) -> None:
    change(folder, "quantize:", f"release: {{{section}}}\nquantize:")
    with pytest.raises(GGSurgeryError, match=message):
        run(folder)
    assert not (folder / "out").exists()


def test_laco_finds_the_operations(folder: Path) -> None:
    laco = """laco:
  {text: text.txt, texts: 2, ctx: 32, merge_layers: 2, lowest: 1, highest: 4, threshold: 1.0}"""
    change(folder, 'operations:\n  - delete: {layer: "1"}', laco)
    pipeline = Pipeline(folder / "recipe.yaml", folder / "out")
    assert {p.at_most for p in pipeline.plan()} == {True}
    with pytest.raises(PlanError, match="LaCo kept no merge"):
        pipeline.run()
    change(folder, "threshold: 1.0", "threshold: -1")
    assert run(folder) == ["laco", "cut", "quantize Q8_0", "quantize Q4_K_M"]
    found = json.loads((folder / "out/results/laco.json").read_text(encoding="utf-8"))
    made = read_header(folder / "out/Small-cut.gguf")
    assert found["layers"] == [4, 3] and made.n_layers == 3
    planned = Pipeline(folder / "recipe.yaml", folder / "out").plan()
    assert all(p.done and not p.at_most for p in planned)
    assert planned[1].n_bytes == made.path.stat().st_size
    assert run(folder) == []
    change(folder, "highest: 4", "highest: 5")
    with pytest.raises(PlanError, match="at most 4, the number of layers"):
        run(folder)


def test_a_type_that_needs_an_imatrix_is_told_before_the_work(folder: Path) -> None:
    change(folder, "[Q8_0, Q4_K_M]", "[Q8_0, IQ1_S]")
    with pytest.raises(EngineError, match="IQ1_S only with an importance matrix"):
        run(folder)
    change(folder, "IQ1_S", "Q4_K_X")
    with pytest.raises(EngineError, match="Did you mean Q4_K_S"):
        run(folder)
    assert not (folder / "out").exists()


def test_sizes_are_known_before_and_checked_against_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = {p.task.name: p.n_bytes for p in Pipeline(folder / "recipe.yaml", "o").plan()}
    usage = shutil.disk_usage(folder)
    tight = usage._replace(free=sum(n or 0 for n in planned.values()) - 1)
    with monkeypatch.context() as patched:
        patched.setattr(run_module.shutil, "disk_usage", lambda path: tight)
        with pytest.raises(OutputError, match="not enough room on the disk for all files"):
            run(folder)
    assert not (folder / "out").exists()
    run(folder)
    made = {p.name: p.stat().st_size for p in (folder / "out").glob("*.gguf")}
    assert made == {
        "Small-cut.gguf": planned["cut"],
        "Small-cut-Q8_0.gguf": planned["quantize Q8_0"],
        "Small-cut-Q4_K_M.gguf": planned["quantize Q4_K_M"],
    }


def test_a_file_of_somebody_else_is_not_replaced(folder: Path) -> None:
    (folder / "out").mkdir()
    theirs = folder / "out/Small-cut-Q8_0.gguf"
    theirs.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="this run did not make"):
        run(folder)
    assert theirs.read_text(encoding="utf-8") == "mine"


def test_two_runs_do_not_share_a_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    with locked(folder / "out"), pytest.raises(OutputError, match="another run is at work"):
        run(folder)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on(folder: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "ggsurgery", "run", "recipe.yaml", "--out", "out"]
    child = subprocess.Popen(
        command,
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    assert child.stderr is not None
    for line in child.stderr:
        if ": cut, " in line:
            break
    os.killpg(child.pid, how)
    _, rest = child.communicate(timeout=60)
    assert "Traceback" not in rest
    code = child.returncode
    assert code == (-9 if how is signal.SIGKILL else 130)
    finished = set(json.loads((folder / "out" / NAME).read_text(encoding="utf-8"))["steps"])
    assert "cut" in finished
    time.sleep(0.1)
    assert run(folder) == [n for n in ("quantize Q8_0", "quantize Q4_K_M") if n not in finished]
    assert not list((folder / "out").glob("*tmp*"))
    assert run(folder) == []
