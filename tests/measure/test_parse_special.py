"""`--parse-special`: special tokens in a text are tokens, as with llama.cpp's option."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggsurgery.files.text import read_corpus
from ggsurgery.find.laco import Settings, laco, split_text
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.imatrix import read_imatrix
from ggsurgery.measure.base_file import BaseFile
from ggsurgery.measure.metrics.perplexity import perplexity, perplexity_of_file
from ggsurgery.measure.results.result_files import load_results
from ggsurgery.measure.setup import Setup
from ggsurgery.quantize.sensitivity import base_predictions
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.vocab_only import VocabularyFile
from ggsurgery.surgery.provenance import read_provenance
from tests._command import call
from tests._llama_tools import llama_tool
from tests._shapes import BYTES, small, write_shapes
from tests.release._vocabulary import Tokenizer

TEXT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello you.<|im_end|>\n" * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("special") / "m.gguf"
    return write_shapes(path, small("Special", 2), tokens=BYTES, seed=5)


@pytest.fixture(scope="module")
def text(model: Path) -> Path:
    path = model.with_name("chat.txt")
    path.write_text(TEXT, encoding="utf-8")
    return path


def printed(*arguments: object) -> Any:
    return call(*arguments, "--json").json


def test_perplexity_is_that_of_llama_cpps_tokens(model: Path, text: Path) -> None:
    words = TEXT.removesuffix("\n")
    ids = Tokenizer(model).prompt(words)  # llama.cpp's own ids, parse_special
    assert BYTES.index("<|im_start|>") in ids
    plain = printed("perplexity", model, "--text", text, "--ctx", 64)
    special = printed("perplexity", model, "-f", text, "-c", 64, "-t", 1, "--parse-special")
    assert special["n_tokens"] == len(ids) < plain["n_tokens"]
    with Engine.open(model, n_ctx=64, n_seq=32, n_threads=1, unified=False) as engine:
        wanted = perplexity(engine, ids, 64)
    assert special["value"] == pytest.approx(wanted.value, rel=1e-5)
    assert special["value"] != pytest.approx(plain["value"], rel=1e-3)
    assert special["provenance"]["parse_special"] is True
    assert "parse_special" not in plain["provenance"]
    one, other = (
        perplexity_of_file(model, words, n_ctx=64, parse_special=p).score for p in (False, True)
    )
    assert str(one.unlike(other)).startswith(("n_tokens", "parse_special"))


def test_the_imatrix_is_llama_imatrixs(model: Path, text: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    call("imatrix", model, ours, "-f", text, "-c", 128, "-t", 2, "--parse-special")
    subprocess.run(
        [
            llama_tool("llama-imatrix"),
            "-m",
            model,
            "-f",
            text,
            "-o",
            theirs,
            "-c",
            "128",
            "--parse-special",
        ],
        check=True,
        capture_output=True,
    )
    mine, reference = read_imatrix(ours), read_imatrix(theirs)  # BF16, batches of unlike size
    assert mine.n_chunks == reference.n_chunks
    for name, entry in reference.entries.items():
        np.testing.assert_array_equal(mine.entries[name].counts, entry.counts)
        np.testing.assert_allclose(mine.entries[name].sums, entry.sums, rtol=1e-2, err_msg=name)


def test_kl_of_both_ways(model: Path, text: Path, tmp_path: Path) -> None:
    def positions(*arguments: object) -> int:
        return int(printed("kl", *arguments)["scores"][0]["n"])

    base = tmp_path / "base.kl"
    call("kl", model, "-f", text, "-c", 32, "--parse-special", "--save-base", base)
    special = positions(model, model, "-f", text, "-c", 32, "--parse-special")
    assert positions(model, "--base-file", base) == special
    assert special < positions(model, model, "-f", text, "-c", 32)
    found = printed("kl", model, "--base-file", base)["scores"][0]["provenance"]
    assert found["parse_special"] is True
    refused = call("kl", model, "--base-file", base, "--parse-special", code=2)
    assert "--base-file holds its own text and context" in refused.err


def test_candidates_are_measured_on_the_same_tokens(model: Path, text: Path) -> None:
    setups = [
        Setup(model, text=text, n_ctx=32, n_windows=None, parse_special=p) for p in (False, True)
    ]
    plain, special = (setup.windows() for setup in setups)
    assert BYTES.index("<|im_start|>") in special.targets[0]
    assert len(special) < len(plain)
    facts = [setup.facts() for setup in setups]
    assert facts[1] == facts[0] | {"parse_special": True}  # journals of before stay as they are
    for arguments in (("scan", model), ("influence", model), ("prune-depth", model)):
        more = ("x.gguf", "--dry-run", "--layers", 1) if arguments[0] == "prune-depth" else ()
        found = call(
            *arguments, *more, "-f", text, "-c", 32, "--windows", 2, "-t", 1, "--parse-special"
        )
        assert found.out


def test_recipes_take_it(model: Path, text: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    asked = f"{{text: {text}, ctx: 64, parse_special: true}}"
    recipe.write_text(
        f"name: S\nsource: {{file: {model}}}\nimatrix: {asked}\n"
        f"evaluate:\n  perplexity: {asked}\n  kl: {asked}\n",
        encoding="utf-8",
    )
    call("run", recipe, "--out", tmp_path / "out")
    for kind, label in (("perplexity", "perplexity"), ("kl", "kl_mean")):
        (found,) = load_results(tmp_path / f"out/results/cut.{kind}.json")
        score = found.score(label)
        assert score is not None and score.provenance["parse_special"] is True


def test_laco_compares_the_states_of_the_special_tokens(model: Path, text: Path) -> None:
    common = ("laco", model, "x.gguf", "--dry-run", "-f", text, "--texts", 2, "-c", 32, "-t", 1)
    numbers = ("--merge-layers", 2, "--lowest", 0, "--threshold", -1, "--max-compression", 0.6)
    plain = printed(*common, *numbers)["laco"]["similarity"]
    special = printed(*common, *numbers, "--parse-special")["laco"]["similarity"]
    found = laco(
        model,
        split_text(TEXT.removesuffix("\n"), 2),
        Settings(merge_layers=2, lowest=0, threshold=-1, max_compression=0.6),
        n_ctx=32,
        parse_special=True,
        n_threads=1,
    ).to_json()["similarity"]
    assert special["values"] == pytest.approx(found["values"])
    assert special["values"] != pytest.approx(plain["values"], abs=1e-4)


def test_a_cut_is_healed_on_the_special_tokens_and_replayed(
    model: Path, text: Path, tmp_path: Path
) -> None:
    common = (
        "heal",
        model,
        "--layer",
        1,
        "-f",
        text,
        "-c",
        32,
        "--tokens",
        64,
        "--few-tokens",
        "--force",
    )
    plain, special = tmp_path / "plain.gguf", tmp_path / "special.gguf"
    call(*common, plain)
    call(*common, "--parse-special", special)
    (fit,) = (dict(s.arguments)["fit"] for s in read_provenance(read_header(special)).recipe.steps)
    assert fit["parse_special"] is True
    (other,) = (dict(s.arguments)["fit"] for s in read_provenance(read_header(plain)).recipe.steps)
    assert "parse_special" not in other
    assert fit["arrays"] != other["arrays"]
    call("replay", special, model, tmp_path / "again.gguf", "--text", text)
    assert (tmp_path / "again.gguf").read_bytes() == special.read_bytes()


def test_a_target_is_measured_on_the_special_tokens(
    model: Path, text: Path, tmp_path: Path
) -> None:
    bases = []
    for special in (False, True):
        base = tmp_path / f"base-{special}"
        base_predictions(model, TEXT, base, 32, 4, special)
        bases.append(set(BaseFile(base).tokens.tolist()))
    assert BYTES.index("<|im_start|>") in bases[1] - bases[0]
    arguments = ("quantize", model, tmp_path / "o.gguf", "--target-bpw", 7, "--dry-run")
    short = tmp_path / "short.txt"
    short.write_text(TEXT[: len(TEXT) // 4], encoding="utf-8")
    with VocabularyFile(model) as vocabulary:
        found = vocabulary.tokenize_array(read_corpus(short), parse_special=True)
        assert len(found) < 512 < len(vocabulary.tokenize_array(read_corpus(short)))
    said = call(*arguments, "--text", short, "--parse-special", code=1)
    assert f"found {len(found)} tokens" in said.err
    said = call(*arguments, "--parse-special", code=2)
    assert "--parse-special goes with --text" in said.err


def test_a_recipe_of_laco_takes_it(model: Path, text: Path, tmp_path: Path) -> None:
    def similarity(name: str, more: str) -> Any:
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(
            f"name: S\nsource: {{file: {model}}}\nlaco: {{text: {text}, texts: 2, ctx: 32, "
            f"merge_layers: 2, lowest: 0, threshold: -1, max_compression: 0.6{more}}}\n",
            encoding="utf-8",
        )
        call("run", recipe, "--out", tmp_path / name)
        return json.loads((tmp_path / name / "results/laco.json").read_text())["similarity"]

    plain, special = similarity("a", ""), similarity("b", ", parse_special: true")
    assert plain["values"] != pytest.approx(special["values"], abs=1e-4)
