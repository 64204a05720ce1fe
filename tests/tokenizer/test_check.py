"""The tokenizer check on real vocabularies, and on ones with a known fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from click.testing import CliRunner
from gguf.constants import TokenType

from ggsurgery.chat.vocabulary import Vocabulary
from ggsurgery.cli import cli
from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.runtime.vocab_only import VocabularyFile
from ggsurgery.surgery.prepare import prepare
from ggsurgery.tokenizer.bpe import byte_alphabet
from ggsurgery.tokenizer.check import SAMPLES, check_tokenizer
from ggsurgery.tokenizer.spm import processor
from tests._command import error_line
from tests._llama_source import llama_source
from tests._needs import ROOT, needs_shared
from tests._shapes import BYTES, TINY, TOKENS, small, write_shapes
from tests._tiny import MODEL
from tests.tokenizer._trained import converted, trained


def vocabulary_file(name: str) -> Path:
    return llama_source() / f"models/ggml-vocab-{name}.gguf"


def makers_ids(name: str) -> list[tuple[str, list[int]]]:
    """Texts and the ids that the maker's own tokenizer gave (llama.cpp's conversion wrote them)."""
    base = str(vocabulary_file(name))
    texts = Path(base + ".inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(base + ".out").read_text("utf-8").splitlines()
    return [(t, [int(i) for i in row.split()]) for t, row in zip(texts, lines, strict=False)]


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_the_rebuilt_model_gives_the_makers_ids(name: str) -> None:
    rebuilt = processor(Vocabulary.of(read_header(vocabulary_file(name))))
    known = makers_ids(name)
    assert len(known) > 40
    # texts with special tokens in them are read by the maker's added tokens, not by the model
    plain = [(t, ids) for t, ids in known if "<" not in t]
    assert len(plain) > 40
    wrong = [t for t, ids in plain if rebuilt.EncodeAsIds(t) != ids]
    assert wrong == []


def agrees(name: str, lines: list[str], count: int) -> None:
    report = check_tokenizer(vocabulary_file(name), lines)
    assert report.ok, report.findings
    assert report.compared == report.returned == len(lines) == count


@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "baichuan"])
def test_sentencepiece_agrees_with_llama_cpp(name: str) -> None:
    agrees(name, (ROOT / "tests/data/sentences.txt").read_text("utf-8").splitlines(), 58)


@pytest.mark.external
@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "baichuan"])
def test_sentencepiece_agrees_with_llama_cpp_on_flores(name: str) -> None:
    paths = [needs_shared("data", f"flores200_dev_{s}.txt") for s in ("eng_Latn", "rus_Cyrl")]
    agrees(name, [line for p in paths for line in p.read_text("utf-8").splitlines()], 1994)


#: Runs of spaces and line breaks of every length, within words and at both ends.
SPACED = (
    *SAMPLES,
    *(f"{' ' * n}x{' ' * n}y{' ' * n}" for n in range(20)),
    *("\n" * n + "self" + "\n" * n for n in range(12)),
    "def f(x):\n        return  x\n\n\n    \t y  # New York, New  York <b>the fox</b>",
    " ",
    "",
    "\n",
    " \n  \n   \n",
)


def test_a_vocabulary_like_gemmas_has_the_ids_of_its_own_model(tmp_path: Path) -> None:
    """User-defined pieces hold plain spaces in a GGUF: three tokenizers, the same ids."""
    model = trained()
    path = converted(model, tmp_path / "gemma.gguf")
    vocabulary = Vocabulary.of(read_header(path))
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    wanted = [original.EncodeAsIds(line) for line in SPACED]
    assert {vocabulary.ids[" " * 4], vocabulary.ids["\n" * 3]} <= {i for ids in wanted for i in ids}
    with VocabularyFile(path) as llama:
        assert [llama.tokenize(line, add_special=False) for line in SPACED] == wanted
    rebuilt = processor(vocabulary)
    assert [rebuilt.EncodeAsIds(line) for line in SPACED] == wanted
    report = check_tokenizer(path, SPACED)
    assert (report.findings, report.compared) == ((), len(SPACED))


def test_pieces_that_sentencepiece_cannot_hold_are_a_finding(tmp_path: Path) -> None:
    """A normal piece ▁▁ beside the user-defined "  ": llama.cpp takes both, SentencePiece one."""
    more = [("\u2581" * 2, TokenType.NORMAL)]
    path = converted(trained(), tmp_path / "gemma.gguf", more=more)
    report = check_tokenizer(path)
    assert report.ok and report.compared == 0
    (finding,) = report.findings
    assert (finding.level, finding.check) == ("warning", "sentencepiece")
    assert finding.message.startswith("not compared: sentencepiece refuses this vocabulary")


@pytest.mark.parametrize("name", ["llama-bpe", "gpt-2"])
def test_bpe_vocabularies_of_real_models_are_whole(name: str) -> None:
    report = check_tokenizer(vocabulary_file(name))
    assert report.ok, report.findings
    assert (report.compared, report.returned) == (0, report.lines)


def test_the_byte_alphabet_is_gpt_2s() -> None:
    known = Vocabulary.of(read_header(vocabulary_file("gpt-2"))).ids
    alphabet = byte_alphabet()
    assert len(set(alphabet.values())) == 256
    assert all(character in known for character in alphabet.values())


def edited(source: Path, out: Path, key: str, value: object) -> Path:
    kind = None if not isinstance(value, list) else "array[string]"
    one = step("set", key=f"tokenizer.ggml.{key}", value=value, type=kind)
    with prepare(Recipe((one,)), [source]) as operation:
        operation.write(out)
    return out


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "in.gguf", small("Small", 1), tokens=BYTES, seed=1)


def messages(path: Path) -> dict[str, str]:
    return {f.check: f"{f.level}: {f.message}" for f in check_tokenizer(path).findings}


def test_a_merge_of_unknown_pieces(model: Path, tmp_path: Path) -> None:
    assert messages(model) == {}
    bad = edited(model, tmp_path / "bad.gguf", "merges", ["a b", "b zz", "broken", "a b"])
    vocabulary = Vocabulary.of(read_header(bad))
    from ggsurgery.tokenizer.bpe import check_bpe

    found = [f"{f.level}: {f.message}" for f in check_bpe(vocabulary)]
    assert found == [
        "error: 1 are not two pieces: 'broken' …",
        "error: 1 of 4 contain a piece that is not a token: 'b zz' …",
        "warning: 1 duplicate(s)",
    ]


def test_special_ids_beyond_or_ordinary(model: Path, tmp_path: Path) -> None:
    ordinary = edited(model, tmp_path / "a.gguf", "eos_token_id", BYTES.index("ab"))
    assert messages(ordinary)["special ids"].endswith("names 'ab', an ordinary token")
    beyond = edited(model, tmp_path / "b.gguf", "padding_token_id", 9999)
    assert "padding_token_id is 9999, beyond the vocabulary" in messages(beyond)["special ids"]


def test_bytes_without_a_token(tmp_path: Path) -> None:
    model = write_shapes(tmp_path / "m.gguf", TINY, tokens=TOKENS)
    assert "241 bytes have no token" in messages(model)["bytes"]
    assert messages(model)["round trip"].startswith("error")


def test_files_without_vocabulary(tmp_path: Path) -> None:
    model = write_shapes(tmp_path / "m.gguf", TINY)
    with pytest.raises(FormatError, match="no vocabulary"):
        check_tokenizer(model)
    garbage = tmp_path / "x.gguf"
    garbage.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(FormatError, match="GGUF version not supported"):
        VocabularyFile(garbage)


def test_the_command(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("one\nzwei\nтри\n", encoding="utf-8")
    arguments = ["tokenizer", "check", str(model), "--text", str(text)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "came back unchanged: 3 of 3 lines" in result.stdout
    bad = edited(model, tmp_path / "bad.gguf", "padding_token_id", 9999)
    result = CliRunner().invoke(cli, ["tokenizer", "check", str(bad), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


def test_verify_deep_reports_the_same(model: Path, tmp_path: Path) -> None:
    bad = edited(model, tmp_path / "bad.gguf", "eos_token_id", BYTES.index("ab"))
    shallow = CliRunner().invoke(cli, ["verify", str(bad)])
    deep = CliRunner().invoke(cli, ["verify", "--deep", str(bad)])
    assert "tokenizer: special ids" not in shallow.stdout
    assert "warning: tokenizer: special ids: tokenizer.ggml.eos_token_id names 'ab'" in deep.stdout


def test_an_empty_text_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text("\n\n", encoding="utf-8")
    said = error_line("tokenizer", "check", MODEL, "--text", tmp_path / "e.txt")
    assert "e.txt: no text in it" in said
