"""perplexity, doctor and imatrix as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggsurgery.cli import main
from ggsurgery.ggufio.imatrix import read_imatrix
from ggsurgery.measure.metrics.perplexity import perplexity_of_file
from ggsurgery.runtime import binding

WORDS = "It was a bright cold day, and the clocks of the town were striking all at once. " * 40


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(WORDS)
    return path


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert (ended.value.code or 0) == code


def test_perplexity(small: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("perplexity", small, "--text", text, "--ctx", 64, "--chunks", 3, "--json")
    shown = json.loads(capsys.readouterr().out)
    expected = perplexity_of_file(small, WORDS, n_ctx=64, n_chunks=3)
    assert shown["value"] == pytest.approx(expected.value, rel=1e-9)
    assert (shown["n"], shown["n_chunks"], shown["text"]["file"]) == (93, 3, "words.txt")
    assert len(shown["items"]) == 3
    run("perplexity", small, small, "--text", text, "--ctx", 64, "--chunks", 2)
    table = capsys.readouterr().out
    assert table.count("1.0000") == 2  # ratio to the first file


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (b"short", (), "expected at least 512 tokens (one window), found 1"),
        (b"", (), "found 0"),
        (b"\xff\xfe", (), "not a UTF-8 text"),
    ],
)
def test_perplexity_says_what_is_wrong(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    more: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "t").write_bytes(content)
    run("perplexity", small, "--text", tmp_path / "t", *more, code=1)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_context_beyond_training_is_warned_of(
    small: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text.write_text(WORDS * 7)
    run("perplexity", small, "--text", text, "--ctx", 2100, "--chunks", 1)
    assert "more than the context the model was trained with (2,048" in capsys.readouterr().err


def test_it_is_warned_of_before_the_work(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stops right afterwards has said it."""
    (tmp_path / "short.txt").write_text("short")
    run("perplexity", small, "--text", tmp_path / "short.txt", "--ctx", 2100, code=1)
    assert "more than the context" in capsys.readouterr().err
    run("kl", small, small, "--text", tmp_path / "short.txt", "--ctx", 2100, code=1)
    assert "more than the context" in capsys.readouterr().err
    line = json.dumps({"id": "1", "query": WORDS * 7, "choices": ["a", "b"], "answer": 0})
    (tmp_path / "long.jsonl").write_text(line + "\n")
    run("choices", small, "--data", tmp_path / "long.jsonl", "--ctx", 1000, code=1)
    error = capsys.readouterr().err
    assert "more than the context the model was trained with (2,048)" in error
    assert "too small for the longest question" in error


def test_a_model_that_llama_cpp_refuses(
    small: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(small.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    run("perplexity", broken, "--text", text, "--ctx", 64, code=1)
    error = capsys.readouterr().err
    assert "broken.gguf: llama.cpp cannot load it" in error
    assert "blk.1.ffn_up.weight" in error


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    run("doctor", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["llama_cpp_python"].startswith(binding.installed_version())
    assert isinstance(shown["extra_buffers_survive"], bool)
    assert shown["threads"] >= 1
    run("doctor")
    assert "extra buffers survive" in capsys.readouterr().out


def test_imatrix(
    small: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cut, remapped = tmp_path / "im.gguf", tmp_path / "cut.gguf", tmp_path / "cut-im.gguf"
    run("imatrix", small, out, "--text", text, "--ctx", 64, "--chunks", 3)
    assert "21 tensors over 3 windows of 64 tokens" in capsys.readouterr().err
    assert read_imatrix(out).datasets == ("words.txt",)  # no folder of this machine
    run("delete", "--layer", 1, small, cut)
    run("imatrix", "remap", out, remapped, "--cut", cut, "--uncut", small)
    before, after = read_imatrix(out).entries, read_imatrix(remapped).entries
    assert len(after) == 14
    name = "ffn_down.weight"
    assert (after[f"blk.1.{name}"].sums == before[f"blk.2.{name}"].sums).all()
    run("quantize", cut, tmp_path / "q.gguf", "--type", "IQ3_XXS", "--imatrix", remapped)
    capsys.readouterr()
    run("imatrix", "show", out, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in shown["layers"]] != []
    assert len(shown["tensors"]) == 21
    totals = [row["total"] for row in shown["tensors"]]
    assert totals == sorted(totals, reverse=True)
    run("imatrix", "show", "--layers", out)
    assert len(capsys.readouterr().out.splitlines()) == 2 + 3


def test_imatrix_says_what_is_wrong(
    small: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("imatrix", small, small, "--text", text, "--force", code=1)
    assert "same file" in capsys.readouterr().err
    run("imatrix", small, tmp_path / "o", "--text", text, code=1)
    assert "expected at least 1024 tokens" in capsys.readouterr().err
    run("imatrix", "remap", small, tmp_path / "o", code=2)
    run("imatrix", "show", small, code=1)
    assert "not an importance matrix" in capsys.readouterr().err
    run("imatrix", "--help")
    assert "remap" in capsys.readouterr().out
    assert not (tmp_path / "o").exists()
