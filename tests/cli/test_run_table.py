"""The closing table of `run`."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ggsurgery.chat.families import family
from ggsurgery.cli.run import _table
from ggsurgery.measure.results.facts import ModelFacts
from ggsurgery.measure.results.result_files import Results
from ggsurgery.measure.results.score import Score
from ggsurgery.present.numbers import human_bytes
from ggsurgery.tokenizer.bpe import byte_alphabet

from .._command import call
from .._gguf import big_llama, tiny_llama
from .._needs import needs_package
from .._shapes import BYTES, small, write_shapes


def test_a_column_for_everything_that_was_measured(tmp_path: Path) -> None:
    source = big_llama(tmp_path / "in.gguf", 2, 1 << 12)
    made = Path(shutil.copy(source, tmp_path / "cut.gguf"))
    facts = {"task": "quiz"}
    measured = {
        "source": (Score("perplexity", 10.0, 0.5, 99), Score("acc", 0.5, 0.1, 25, facts)),
        "cut": (
            Score("perplexity", 15.0, 0.5, 99),
            Score("kl_mean", 0.25, 0.01, 99),
            Score("acc", 0.25, 0.1, 25, facts),
            Score("acc_norm", 0.75, 0.1, 25, facts),
        ),
    }
    pipeline: Any = SimpleNamespace(
        files={"source": source, "cut": made},
        results=lambda name: Results(ModelFacts(name, name), measured[name]),
    )
    head, _, first, second = _table(pipeline).splitlines()
    columns = ["file", "size", "bits/weight", "perplexity", "ratio", "KL", "quiz acc_norm"]
    assert re.split(r" {2,}", head) == columns
    assert "in.gguf (original)" in first and re.split(r" {2,}", first)[3:] == [
        "10.000 ± 0.500",
        "1.000",
        "–",
        "–",
    ]
    assert re.split(r" {2,}", second)[3:] == [
        "15.000 ± 0.500",
        "1.500",
        "0.2500 ± 0.0100",
        "0.750 ± 0.100",
    ]


def test_a_split_source_has_the_size_of_all_shards(tmp_path: Path) -> None:
    first = tiny_llama(tmp_path / "m.gguf", 3, split=10)
    pipeline: Any = SimpleNamespace(files={"source": first}, results=lambda name: None)
    size = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert human_bytes(size) in _table(pipeline)


def test_what_to_do_next_can_be_pasted(tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    write_shapes(tmp_path / "in.gguf", small("Small", 2), tokens=BYTES, seed=3)
    recipe = tmp_path / "my recipe.yaml"
    recipe.write_text("source: {file: x.gguf}\nrelease: {memory: false}\n", encoding="utf-8")
    out = tmp_path / "out here"
    said = call("run", recipe, "--source", tmp_path / "in.gguf", "--out", out).out
    assert f"cd '{out}/bundle' && ollama create" in said
    (again,) = (line for line in said.splitlines() if "finished steps are reused" in line)
    command = again.partition("   again:")[0]
    assert shlex.split(command)[1:] == [
        "run",
        str(recipe),
        "--source",
        str(tmp_path / "in.gguf"),
        "--out",
        str(out),
    ]


def without_cyrillic(path: Path) -> Path:
    """A model whose vocabulary lacks a byte: an error of the tokenizer check, not of the model."""
    lead = byte_alphabet()[0xD0]
    tokens = ["zzz" if token == lead else token for token in BYTES]
    return write_shapes(path, small("Small", 2), tokens=tokens, seed=3)


RECIPE = """name: Cut
source: {file: in.gguf}
evaluate: {perplexity: {text: text.txt, ctx: 32, chunks: 2}}
release: {memory: false}
"""


def test_an_error_of_a_check_keeps_table_and_bundle(tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    without_cyrillic(tmp_path / "in.gguf")
    (tmp_path / "text.txt").write_text("Some words, said again. " * 20, encoding="utf-8")
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(RECIPE, encoding="utf-8")
    for _ in range(2):  # the second time every step is up to date, and the error still there
        said = call("run", recipe, "--out", out, code=1)
        assert "perplexity" in said.out and "in.gguf (original)" in said.out
        assert "Next:" in said.out
        assert "warning: tokenizer, round trip: " in said.err
        assert (out / "bundle/README.md").is_file()
    found = call("run", recipe, "--out", out, "--json", code=1).json
    assert found["release"]["errors"][0].startswith("tokenizer, round trip: ")
    recipe.write_text(RECIPE.replace("false}", "false, check_tokenizer: false}"), encoding="utf-8")
    said = call("run", recipe, "--out", out)
    assert "tokenizer, round trip" not in said.err + said.out


def test_a_step_that_fails_keeps_the_table_of_what_was_measured(tmp_path: Path) -> None:
    needs_package("huggingface_hub", extra="hub")
    write_shapes(
        tmp_path / "in.gguf",
        small("Small", 2),
        tokens=BYTES,
        seed=3,
        chat_template=family("qwen3").jinja,
    )
    (tmp_path / "text.txt").write_text("Some words, said again. " * 20, encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("false}", "false, family: gemma3}"), encoding="utf-8")
    said = call("run", recipe, "--out", tmp_path / "out", code=1)
    assert "in.gguf (original)" in said.out and "± " in said.out
    assert "the file's chat template prints other prompts than this family" in said.err
