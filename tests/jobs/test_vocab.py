"""vocab count, trim, map, and tokenizer check --original, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggsurgery.errors import OutputError
from ggsurgery.files.text import read_corpus
from ggsurgery.ggufio.header import read_header
from ggsurgery.jobs.vocab import CountVocabRequest, TrimVocabRequest
from ggsurgery.runtime.vocab_only import VocabularyFile
from ggsurgery.surgery.vocab_map import VocabMap, map_of_file
from tests._command import call, error_line
from tests._llama_source import llama_source
from tests._tiny import MODEL, REPORT_TEXT, SEARCH_TEXT


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vocab") / "small.gguf"
    call("vocab", "trim", "--keep", 640, "--text", SEARCH_TEXT, MODEL, out)
    return out


def test_counts_are_those_of_llama_cpp() -> None:
    found = CountVocabRequest(file=MODEL, text=[SEARCH_TEXT, REPORT_TEXT]).run()
    with VocabularyFile(MODEL) as llama:
        ids = [
            i
            for path in (SEARCH_TEXT, REPORT_TEXT)
            for i in llama.tokenize(read_corpus(path), add_special=False)
        ]
    counts = found.usage.order.counts
    assert [int(counts[i]) for i in (300, 400, 500)] == [ids.count(i) for i in (300, 400, 500)]
    assert found.usage.n_tokens == len(ids)
    curve = dict(found.curve())
    size = min(n for n, share in curve.items() if share == 1)
    assert set(ids) <= set(found.usage.order.kept(size))
    shown = call("vocab", "count", MODEL, "--text", SEARCH_TEXT, "--text", REPORT_TEXT)
    assert "latin" in shown.out
    document = json.loads(call("vocab", "count", MODEL, "--text", SEARCH_TEXT, "--json").out)
    assert document["vocabulary"] == 1024


def test_a_failure_leaves_the_earlier_model_and_its_map(tmp_path: Path, monkeypatch) -> None:
    out, words = tmp_path / "out.gguf", ("vocab", "trim", "--text", SEARCH_TEXT)
    call(*words, "--keep", 640, MODEL, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*_: object, **__: object) -> None:
        raise OutputError("the disk ran full", file=out)

    monkeypatch.setattr("ggsurgery.cli.vocab.operate", fails)
    call(*words, "--keep", 704, "--force", MODEL, out, code=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_trimmed_file(trimmed: Path) -> None:
    assert read_header(trimmed).by_name["token_embd.weight"].shape == (256, 640)
    kept = map_of_file(trimmed)
    rows = [row.split("\t") for row in call("vocab", "map", trimmed).out.splitlines()]
    assert [(int(new), int(old)) for new, old, _ in rows] == list(enumerate(kept.old_ids))
    assert call("verify", "--deep", trimmed).out
    said = call("tokenizer", "check", trimmed, "--original", MODEL, "--text", REPORT_TEXT)
    assert "no errors" in said.out
    assert json.loads(call("vocab", "map", trimmed, "--json").out)["sha256"] == kept.sha256
    again = trimmed.with_name("again.gguf")
    call("replay", trimmed, MODEL, again)
    assert again.read_bytes() == trimmed.read_bytes()


def test_another_map_is_found_out(trimmed: Path, tmp_path: Path) -> None:
    kept = map_of_file(trimmed)
    VocabMap(kept.before, kept.old_ids[:-1]).save(tmp_path / "other.json")
    line = error_line("vocab", "map", trimmed, "--map", tmp_path / "other.json")
    assert "the map's checksum differs" in line
    assert "was not trimmed" in error_line("vocab", "map", write_again(tmp_path))


def write_again(folder: Path) -> Path:
    call("meta", "set", "general.license", "mit", MODEL, folder / "other.gguf")
    return folder / "other.gguf"


def test_a_dry_run_writes_nothing_and_says_what_would_change(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    options = ("--keep", 512, "--text", REPORT_TEXT, "--dry-run")
    document = json.loads(call("vocab", "trim", *options, "--json", MODEL, out).out)
    assert document["vocabulary"] == [1024, 512]
    before, after = document["text_tokens"]
    assert before < after < 2 * before
    assert 0.5 < document["whole"] < 1
    assert document["read_per_token"][0] - document["read_per_token"][1] == 512 * 256 * 2
    assert list(tmp_path.iterdir()) == []
    assert "expected speed" in call("vocab", "trim", *options, MODEL, out).err


def test_the_coverage_is_kept(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text(REPORT_TEXT.read_text("utf-8")[:2000])
    for coverage in (0.9, 0.99, 1.0):
        found = TrimVocabRequest(file=MODEL, text=[text], coverage=coverage).run()
        assert found.whole is not None
        assert found.whole >= coverage
        assert found.kept.after % 64 == 0
    assert found.tokens is not None
    assert found.tokens[0] == found.tokens[1]


def test_wrong_requests_give_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    text = ("--text", REPORT_TEXT)
    none = call("vocab", "trim", MODEL, out, code=2).err
    assert "one of --keep, --coverage and --drop-scripts is needed" in none
    assert "need a --text" in call("vocab", "trim", "--keep", 600, MODEL, out, code=2).err
    low = error_line("vocab", "trim", "--keep", 10, *text, MODEL, out)
    assert "--keep is below what the vocabulary needs" in low
    assert "or more, found 10" in low
    assert "nothing to trim" in error_line("vocab", "trim", "--keep", 4000, *text, MODEL, out)
    latin = error_line("vocab", "trim", "--drop-scripts", "latin", *text, MODEL, out)
    assert "the texts are written in a script to drop (latin)" in latin
    unknown = error_line("vocab", "trim", "--drop-scripts", "lattin", *text, MODEL, out)
    assert "Did you mean latin?" in unknown
    bert = llama_source() / "models/ggml-vocab-bert-bge.gguf"
    assert "tokenizer bert cannot be trimmed" in error_line("vocab", "count", bert, *text)
    assert list(tmp_path.iterdir()) == []
