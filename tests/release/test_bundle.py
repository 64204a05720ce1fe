"""The bundle: everything in it computed, nothing in it invented, all of it checked."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from ggsurgery.chat.families import family
from ggsurgery.cli import cli
from ggsurgery.errors import FormatError, GGSurgeryError, OutputError
from ggsurgery.measure.results.facts import model_facts
from ggsurgery.measure.results.result_files import Results
from ggsurgery.measure.results.score import Score
from ggsurgery.release.bundle import build_bundle
from ggsurgery.release.push import check_bundle
from ggsurgery.release.request import Request, recommended, release_files
from ggsurgery.runtime.quantize import quantize
from tests._command import call, error_line
from tests._gguf import tiny_llama
from tests._needs import needs_package
from tests._shapes import BYTES, TINY, TOKENS, small, write_shapes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small Qwen3 model in three types."""
    folder = tmp_path_factory.mktemp("release")
    jinja = family("qwen3").jinja
    source = write_shapes(
        folder / "s.gguf",
        small("Small Qwen", 3),
        tokens=BYTES,
        chat_template=jinja,
        seed=5,
        license="apache-2.0",
    )
    found = {"BF16": source}
    for ftype in ("Q8_0", "Q4_K_M"):
        found[ftype] = folder / f"s-{ftype}.gguf"
        quantize(source, found[ftype], ftype)
    return found


def measured(path: Path, perplexity: float, **accuracies: float) -> Results:
    """Results as an evaluation writes them, with figures chosen here to see them come out."""
    facts = {"n_ctx": 256, "text": "test.txt"}
    scores = [Score("perplexity", perplexity, 0.25, 1000, facts)]
    for task, value in accuracies.items():
        scores.append(Score("acc", value, 0.01, 400, {"task": task}))
    return Results(model_facts(path), tuple(scores))


def test_a_bare_bundle_claims_nothing_that_was_not_measured(
    files: dict[str, Path], tmp_path: Path
) -> None:
    needs_package("huggingface_hub", extra="hub")
    made = build_bundle(Request(tuple(files.values())), tmp_path / "out")
    names = {p.name for p in made.files}
    stem = "Small-Qwen"
    assert names == {
        f"{stem}-BF16.gguf",
        f"{stem}-Q8_0.gguf",
        f"{stem}-Q4_K_M.gguf",
        "Modelfile",
        "Modelfile.BF16",
        "Modelfile.Q8_0",
        "Modelfile.Q4_K_M",
        "README.md",
        "NOTES.md",
        "SHA256SUMS",
        "manifest.json",
    }
    assert made.recommended == f"{stem}-Q4_K_M.gguf"
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert "model-index" not in front
    assert (front["license"], front["library_name"]) == ("apache-2.0", "gguf")
    for absent in ("## Perplexity", "## Benchmarks", "## Similarity", "RAM", "base_model"):
        assert absent not in card
    assert "Perplexity was not measured." in card
    assert "quality was not measured" in card
    assert "3 layers" in card


def test_figures_come_out_as_they_went_in(files: dict[str, Path], tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    original = measured(files["BF16"], 26.19, PIQA=0.7954, BoolQ=0.8309, MMLU=0.7689)
    original = replace(original, model=replace(original.model, layers=4, parameters=1_000_000))
    worse = measured(files["Q4_K_M"], 71.48, PIQA=0.6567, BoolQ=0.6177, MMLU=0.2512)
    q8 = measured(files["Q8_0"], 60.0)
    request = Request(
        (files["Q8_0"], files["Q4_K_M"]),
        base_model="org/base",
        original=original,
        results=(worse, q8),
        languages=("en",),
        recommended="Q4_K_M",
        memory={"s-Q8_0.gguf": {"bytes": 3 << 20, "n_ctx": 2048}},
        said={"question": "Why?", "text": "Because\nof it."},
        recipe="name: x\n",
    )
    build_bundle(request, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "| PIQA acc | Q4_K_M | 400 | 79.54 ± 1.00 % | 65.67 ± 1.00 % | 82.6 % | Good |" in card
    assert "| 83.09 ± 1.00 % | 61.77 ± 1.00 % | 74.3 % | Acceptable |" in card
    assert "| 76.89 ± 1.00 % | 25.12 ± 1.00 % | 32.7 % | Not recommended |" in card
    assert "| original | 26.1900 ± 0.2500 | 1.000 |" in card
    assert "| Small-Qwen-Q4_K_M.gguf | 71.4800 ± 0.2500 | 2.729 |" in card
    assert "| Layers | 4 | 3 | -25.00 % |" in card
    assert "3.0 MiB" in card and "context of 2,048 tokens" in card
    assert "> Because of it." in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "org/base"
    (index,) = front["model-index"]
    values = {r["dataset"]["name"]: r["metrics"][0]["value"] for r in index["results"]}
    assert values == {"test.txt": 71.48, "PIQA": 0.6567, "BoolQ": 0.6177, "MMLU": 0.2512}
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["recipe"] == "name: x\n"
    assert manifest["chat"]["family"] == "qwen3"
    assert manifest["tokenizer"]["ok"] is True
    assert manifest["chat"]["ollama_capabilities"] == ["completion", "tools", "thinking"]
    assert manifest["original"]["scores"][0]["value"] == 26.19
    assert str(tmp_path) not in json.dumps([f["file"] for f in manifest["files"]])


def test_several_results_of_one_file_add_up(files: dict[str, Path], tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    path, base = files["Q8_0"], model_facts(files["BF16"])
    moved = replace(model_facts(path), file=f"elsewhere/{path.name}")
    facts = {"text": "t.txt"}
    kl = (
        Score("kl_mean", 0.25, 0.01, 500, facts),
        Score("kl_p99", 2.5, None, 500, facts),
        Score("top1_agreement", 0.75, 0.02, 500, facts),
    )
    guessed = {"task": "ARC", "chance": 0.25}
    request = Request(
        (path,),
        original=Results(base, (Score("acc", 0.5, 0.02, 400, guessed),)),
        results=(
            measured(path, 12.0),
            Results(moved, kl),
            Results(model_facts(path), (Score("acc", 0.28, 0.02, 400, guessed),)),
            measured(files["Q4_K_M"], 9.0),
        ),
    )
    made = build_bundle(request, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "| Small-Qwen-Q8_0.gguf | 12.0000 ± 0.2500 | – |" in card
    assert "| Small-Qwen-Q8_0.gguf | 0.2500 ± 0.0100 | 2.5000 | 75.00 ± 2.00 % |" in card
    assert (
        "| ARC acc | Q8_0 | 400 | 50.00 ± 2.00 % | 28.00 ± 2.00 % | 56.0 % | Near random |" in card
    )
    (warning,) = made.warnings
    assert warning == "results of s-Q4_K_M.gguf are of no file of this release and are left out"


@pytest.fixture(scope="module")
def collapsed(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A model that LaCo has cut, and what it says of it."""
    folder = tmp_path_factory.mktemp("laco")
    text = folder / "text.txt"
    text.write_text("Some words, said again.\n" * 200, encoding="utf-8")
    return CliRunner().invoke(
        cli,
        [
            "laco",
            str(files["BF16"]),
            str(folder / "cut.gguf"),
            "--merge-layers",
            "2",
            "--lowest",
            "0",
            "--highest",
            "3",
            "--threshold",
            "-1",
            "--max-compression",
            "0.4",
            "--variant",
            "reference",
            "--texts",
            "3",
            "--ctx",
            "32",
            "--text",
            str(text),
            "-o",
            str(folder / "laco.json"),
            "--json",
        ],
        catch_exceptions=False,
    )


def test_what_laco_did_stands_on_the_card(
    collapsed: Result, files: dict[str, Path], tmp_path: Path
) -> None:
    needs_package("huggingface_hub", extra="hub")
    cut = Path(json.loads(collapsed.stdout)["out"])
    log = cut.with_name("laco.json")
    facts = json.loads(log.read_text(encoding="utf-8"))
    result = run(cut, "--out", tmp_path / "out", "--results", log, "--no-memory")
    assert result.exit_code == 0, result.output
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "| layers that become one | C | 2 |" in card
    assert "| layers to lose at most |  | 40 % |" in card
    assert "Variant `reference`" in card
    assert f"| Merges kept | {facts['merges']} |" in card
    assert "| Layers | 3 → 2 |" in card and "| Layers removed | 1 (33.3 %) |" in card
    s = facts["similarity"]
    assert f"| {s['mean']:.4f} | {s['min']:.4f} | {s['max']:.4f} | 3 |" in card
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["laco"] == facts
    other = run(files["Q8_0"], "--out", tmp_path / "o", "--results", log, "--no-memory")
    assert "statistics of LaCo are of another model" in str(other.exception)
    del facts["settings"]["interval"]
    log.write_text(json.dumps(facts), encoding="utf-8")
    damaged = run(cut, "--out", tmp_path / "o", "--results", log, "--no-memory")
    assert "damaged statistics of LaCo: KeyError at 'interval'" in str(damaged.exception)
    assert not (tmp_path / "o").exists()


def test_a_hopeless_loss_is_said_plainly(files: dict[str, Path], tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    said = "not usable without further training"
    for perplexity, expected in ((25.0, False), (31.0, True)):
        request = Request(
            (files["Q8_0"],),
            original=measured(files["BF16"], 10.0),
            results=(measured(files["Q8_0"], perplexity),),
        )
        build_bundle(request, tmp_path / "out", force=True)
        card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
        assert (said in card) is expected
        assert f"perplexity is {perplexity / 10:.2f} times as high" in card


@pytest.mark.parametrize(
    ("named", "fields"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("gemma", {"license": "gemma"}),
        (
            "bsd-1-clause",
            {
                "license": "other",
                "license_name": "bsd-1-clause",
                "license_link": "https://spdx.org/licenses/BSD-1-Clause.html",
            },
        ),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "mit-or-apache-2.0"}),
    ],
)
def test_a_licence_by_its_identifier(
    files: dict[str, Path], tmp_path: Path, named: str, fields: dict[str, str]
) -> None:
    """SPDX's and the hub's identifiers; the hub takes `other` with a name for the rest."""
    needs_package("huggingface_hub", extra="hub")
    out = tmp_path / "out"
    said = call("release", files["Q8_0"], "--out", out, "--license", named, "--no-memory").err
    card = (out / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert {k: v for k, v in front.items() if k.startswith("license")} == fields
    assert not (out / "LICENSE").exists()
    assert ("the files' headers name apache-2.0" in said) == (named != "Apache-2.0")


def test_a_licence_that_is_neither_file_nor_identifier(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("release", files["Q8_0"], "--out", tmp_path / "out", "--no-memory", "--license")
    assert "Did you mean gemma?" in error_line(*arguments, "gema")
    assert "neither a file nor a known licence" in error_line(*arguments, "LICENSE.txt")
    (tmp_path / "gemma").write_text("My own terms.", encoding="utf-8")  # a file comes first
    needs_package("huggingface_hub", extra="hub")
    call(*arguments, "gemma")
    assert (tmp_path / "out/LICENSE").read_text(encoding="utf-8") == "My own terms."


def test_checksums_are_those_of_coreutils(files: dict[str, Path], tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    licence = tmp_path / "MIT.txt"
    licence.write_text("Permission is hereby granted", encoding="utf-8")
    out = tmp_path / "out"
    build_bundle(Request((files["Q8_0"],), license=licence), out)
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, text=True, check=True
    )
    assert done.stdout.count(": OK") == len(list(out.iterdir())) - 1
    assert (out / "LICENSE").read_text(encoding="utf-8").startswith("Permission")
    assert 'LICENSE """Permission' in (out / "Modelfile").read_text(encoding="utf-8")
    assert len(check_bundle(out)) == len(list(out.iterdir())) - 1
    (out / "README.md").write_text("changed", encoding="utf-8")
    with pytest.raises(FormatError, match=r"README\.md: the file is not the one"):
        check_bundle(out)
    (out / "README.md").unlink()
    with pytest.raises(FormatError, match="missing"):
        check_bundle(out)
    with pytest.raises(FormatError, match="no bundle"):
        check_bundle(tmp_path)


def test_a_folder_of_somebody_else_stays(files: dict[str, Path], tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    request = Request((files["Q8_0"],))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(OutputError):
            build_bundle(request, theirs, force=force)
    assert [p.name for p in theirs.iterdir()] == ["thesis.txt"]
    ours = tmp_path / "ours"
    build_bundle(request, ours)
    with pytest.raises(OutputError, match="`force`"):
        build_bundle(request, ours)
    build_bundle(replace(request, name="Another"), ours, force=True)
    assert (ours / "Another-Q8_0.gguf").is_file()
    assert not list(tmp_path.glob(".*ggsurgery*"))
    assert files["Q8_0"].is_file()


def test_what_is_no_release_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    other = write_shapes(tmp_path / "o.gguf", small("Other", 2), tokens=BYTES, seed=6)
    with pytest.raises(FormatError, match="files are of different models"):
        release_files(Request((files["Q8_0"], other)))
    with pytest.raises(FormatError, match="two files of the type Q8_0"):
        release_files(Request((files["Q8_0"], files["Q8_0"])))
    with pytest.raises(FormatError, match="no file of the type Q2_K"):
        recommended(release_files(Request((files["Q8_0"],))), "Q2_K")
    with pytest.raises(GGSurgeryError, match="Did you mean qwen3"):
        build_bundle(Request((files["Q8_0"],), family="qwen-3"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_of_another_file_of_the_name_are_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    found = measured(files["Q8_0"], 10.0)
    for change in ({"bytes": 5}, {"checksum": "sampled-sha256:0"}):
        stale = replace(found, model=replace(found.model, **change))
        with pytest.raises(FormatError, match="results are of another file of this name"):
            release_files(Request((files["Q8_0"],), results=(stale,)))


def test_figures_measured_unlike_do_not_stand_side_by_side(files: dict[str, Path]) -> None:
    original = measured(files["BF16"], 10.0)
    other = (Score("perplexity", 9.0, 0.25, 1000, {"n_ctx": 512, "text": "test.txt"}),)
    few = (Score("perplexity", 9.0, 0.25, 100, {"n_ctx": 256, "text": "test.txt"}),)
    for scores, message in ((other, "n_ctx: 256 and 512"), (few, "n: 1000 and 100")):
        results = Results(model_facts(files["Q8_0"]), scores)
        with pytest.raises(FormatError, match=f"s-Q8_0.gguf: perplexity .* {message}"):
            release_files(Request((files["Q8_0"],), original=original, results=(results,)))


def test_a_split_file_and_a_name_twice_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    first = tiny_llama(tmp_path / "m.gguf", 3, split=10)
    with pytest.raises(FormatError, match=r"a split file.*--layers 0-2"):
        release_files(Request((first,)))
    twin = tmp_path / "s-Q8_0.gguf"
    twin.write_bytes(files["Q4_K_M"].read_bytes())
    with pytest.raises(FormatError, match="two files of one name"):
        release_files(Request((files["Q8_0"], twin)))


def test_what_people_put_into_a_bundle_is_not_lost(files: dict[str, Path], tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    out = tmp_path / "out"
    build_bundle(Request((files["Q8_0"],)), out)
    (out / "q8.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OutputError, match=r"q8\.json: .*would be lost"):
        build_bundle(Request((files["Q8_0"],)), out, force=True)
    assert (out / "q8.json").is_file()


def test_few_bits_are_counted_and_not_read_off_the_name(
    files: dict[str, Path], tmp_path: Path
) -> None:
    needs_package("huggingface_hub", extra="hub")
    odd = small("Small Qwen", 3)
    source = write_shapes(tmp_path / "n.gguf", replace(odd, n_embd=288, n_ff=288), tokens=BYTES)
    made = []
    for ftype in ("Q8_0", "Q2_K"):  # rows of 288 cannot be q2_k: over five bits per weight
        made.append(tmp_path / f"n-{ftype}.gguf")
        quantize(source, made[-1], ftype)
    build_bundle(Request(tuple(made)), tmp_path / "out")
    assert "take a larger" not in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_an_error_of_the_tokenizer_check_costs_no_bundle(tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    broken = write_shapes(tmp_path / "b.gguf", TINY, tokens=TOKENS)  # most bytes have no token
    made = build_bundle(Request((broken,)), tmp_path / "out")
    (error,) = made.errors
    assert error.startswith("tokenizer, round trip: ")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "A check of the files found an error: tokenizer, round trip: " in card
    assert len(check_bundle(tmp_path / "out")) == len(made.files) - 1
    result = run(broken, "--out", tmp_path / "two", "--no-memory")
    assert (result.exit_code, (tmp_path / "two/README.md").is_file()) == (1, True)
    assert "warning: tokenizer, round trip" in result.stderr
    result = run(broken, "--out", tmp_path / "three", "--no-memory", "--no-check-tokenizer")
    assert result.exit_code == 0
    manifest = json.loads((tmp_path / "three/manifest.json").read_text(encoding="utf-8"))
    assert "tokenizer" not in manifest


def test_the_recommendation_follows_the_results(files: dict[str, Path]) -> None:
    request = Request((files["BF16"], files["Q8_0"], files["Q4_K_M"]))
    near = (measured(files["BF16"], 10.0), measured(files["Q8_0"], 10.1))
    small_loss = replace(request, results=(*near, measured(files["Q4_K_M"], 10.4)))
    assert recommended(release_files(small_loss))[0].ftype == "Q4_K_M"
    large_loss = replace(request, results=(*near, measured(files["Q4_K_M"], 11.0)))
    best, why = recommended(release_files(large_loss))
    assert best.ftype == "Q8_0"
    assert "within 5 %" in why


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["release", *map(str, arguments)])


def test_the_command(files: dict[str, Path], tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    out = tmp_path / "out"
    result = run(files["Q8_0"], "--out", out, "--parameter", "temperature=0.1", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["ollama_capabilities"] == ["completion", "tools", "thinking"]
    assert "PARAMETER temperature 0.1" in (out / "Modelfile").read_text(encoding="utf-8")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"][0]["memory"]["bytes"] > 1 << 20  # measured by loading it
    assert run(files["Q8_0"], "--out", out, "--no-memory").exception is not None
    assert isinstance(run("no-such.gguf", "--out", out).exception, FormatError)
    for wrong in ("x", "top_k=many", "=1"):
        assert run(files["Q8_0"], "--out", out, "--parameter", wrong).exit_code != 0
    assert run(files["Q8_0"], "--out", out, "--parameter", "x").exit_code == 2
    assert "n_ctx=1024" in (out / "README.md").read_text(encoding="utf-8")  # the model's own
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Café".encode("latin-1"))
    again = run(files["Q8_0"], "--out", tmp_path / "o", "--license", latin, "--no-memory")
    assert "latin.txt: not a UTF-8 text" in str(again.exception)
