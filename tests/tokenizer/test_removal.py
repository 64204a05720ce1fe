"""Which tokens can leave a vocabulary: as llama.cpp and other tokenizers read the rest."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggsurgery.chat.vocabulary import Vocabulary
from ggsurgery.errors import ArchitectureError, PlanError
from ggsurgery.ggufio.constants import TokenType
from ggsurgery.ggufio.header import read_header
from ggsurgery.surgery.trim_vocab import check_trimmable
from ggsurgery.tokenizer.bpe import byte_alphabet
from ggsurgery.tokenizer.check import SAMPLES, check_tokenizer
from ggsurgery.tokenizer.derivation import by_merges
from ggsurgery.tokenizer.needed import by_kind
from ggsurgery.tokenizer.removal import closure, removal
from ggsurgery.tokenizer.scripts import script_of, token_scripts, tokens_in
from tests._llama_source import llama_source
from tests._needs import ROOT, needs_shared, needs_smollm2
from tests._tiny import MODEL, REPORT_TEXT
from tests.tokenizer import _trimmed
from tests.tokenizer._trained import converted, trained


def vocabulary_file(name: str) -> Path:
    return llama_source() / f"models/ggml-vocab-{name}.gguf"


def texts() -> list[str]:
    """Lines in many scripts (llama.cpp's own trials), prose and code."""
    trials = Path(f"{vocabulary_file('gpt-2')}.inp").read_text("utf-8")
    prose = (ROOT / "README.md").read_text("utf-8").splitlines()[:60]
    return [t for t in (*SAMPLES, *trials.split("\n__ggml_vocab_test__\n"), *prose) if t]


# gpt-2: one merge a token; llama-bpe: whole words without merges, many merges a token;
# nomic-bert-moe: unigram; gemma-4: BPE on plain text with a quarter of a million tokens
@pytest.mark.parametrize(
    "name",
    [
        "gpt-2",
        "qwen2",
        "llama-spm",
        "phi-3",
        pytest.param("llama-bpe", marks=pytest.mark.slow),
        pytest.param("nomic-bert-moe", marks=pytest.mark.slow),
        pytest.param("gemma-4", marks=pytest.mark.slow),
        pytest.param("baichuan", marks=pytest.mark.slow),
        pytest.param("deepseek-llm", marks=pytest.mark.slow),
        pytest.param("command-r", marks=pytest.mark.slow),
    ],
)
def test_random_subsets_of_real_vocabularies(name: str, tmp_path: Path) -> None:
    """Ids are the old ones where all stay, and no text changes, whatever leaves."""
    source = vocabulary_file(name)
    lines = texts()
    found = 0
    for seed, share in enumerate((0.0, 0.2, 0.7)):
        chosen = np.random.default_rng(seed).random(len(_trimmed.vocabulary(source).tokens))
        kept = _trimmed.keeping(source, np.flatnonzero(chosen < share))
        out = _trimmed.write(source, kept, tmp_path / f"{seed}.gguf")
        found += _trimmed.compare(source, out, kept, lines)
    assert found > 20


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sentencepiece_reads_the_trimmed_model_as_llama_cpp(
    model_type: str, tmp_path: Path
) -> None:
    """A vocabulary that the package sentencepiece trained, trimmed, and read by both."""
    options = {} if model_type == "bpe" else {"model_type": "unigram", "vocab_size": 400}
    source = converted(trained(**options), tmp_path / "in.gguf")
    lines = ["a quick brown fox", "def lambda self", "ещё французских булок да", "naïve café 2026"]
    for seed in range(4):
        chosen = np.random.default_rng(seed).random(len(_trimmed.vocabulary(source).tokens)) < 0.5
        kept = _trimmed.keeping(source, np.flatnonzero(chosen))
        out = _trimmed.write(source, kept, tmp_path / f"{seed}.gguf")
        if model_type == "bpe":
            report = check_tokenizer(out, lines)
            assert report.ok, report.findings
            assert report.compared == report.returned == len(lines)
        _trimmed.compare(source, out, kept, lines)


def naive_bpe(word: str, merges: list[str]) -> list[str]:
    """Byte-pair encoding as Sennrich et al. define it: merge by merge, in their order."""
    symbols = list(word)
    for merge in merges:
        left, right = merge.split(" ")
        at = 0
        while at < len(symbols) - 1:
            if (symbols[at], symbols[at + 1]) == (left, right):
                symbols[at : at + 2] = [left + right]
            at += 1
    return symbols


def test_words_that_lose_tokens_split_as_the_merges_say(tmp_path: Path) -> None:
    """llama.cpp's tokens of the trimmed file are those of the left merges, applied one by one."""
    vocabulary = _trimmed.vocabulary(MODEL)
    chosen = np.random.default_rng(3).random(len(vocabulary.tokens)) < 0.4
    kept = _trimmed.keeping(MODEL, np.flatnonzero(chosen))
    out = _trimmed.write(MODEL, kept, tmp_path / "out.gguf")
    header = read_header(out)
    merges, tokens = header.get("tokenizer.ggml.merges"), header.get("tokenizer.ggml.tokens")
    alphabet = byte_alphabet()
    words = {f" {w}" for w in REPORT_TEXT.read_text("utf-8").split() if w.isalpha()}
    split = 0
    with _trimmed.VocabularyFile(out) as llama:
        for word in sorted(words)[:300]:
            symbols = naive_bpe("".join(alphabet[b] for b in word.encode()), merges)
            ids = llama.tokenize(word, add_special=False)
            assert [tokens[i] for i in ids] == symbols, word
            split += len(ids) > 1
    assert split > 100


@given(st.integers(0, 2**32), st.integers(2, 40))
def test_the_removal_order_never_breaks_a_token(seed: int, n_merges: int) -> None:
    """At every size each token's parts are there, and those needed never leave."""
    draw = random.Random(seed)
    tokens, merges = list("abcd"), []
    for _ in range(n_merges):
        pair = draw.choice(tokens), draw.choice(tokens)
        merges.append(" ".join(pair))
        if "".join(pair) not in tokens:
            tokens.append("".join(pair))
    parts = by_merges({t: i for i, t in enumerate(tokens)}, len(tokens), merges)
    needed = {0, 1, 2, 3, draw.randrange(len(tokens))}
    dropped = {i for i, t in enumerate(tokens) if "d" in t}
    counts = [draw.randrange(5) for _ in tokens]
    found = removal(counts, parts, needed, dropped)
    fixed = closure(needed, parts)
    assert set(found.order) == set(range(len(tokens))) - fixed
    assert set(found.order[: found.dropped]) == dropped - fixed
    for size in range(found.least, len(tokens) + 1):
        kept = set(found.kept(size))
        assert len(kept) == size
        assert fixed <= kept
        assert closure(kept, parts) == kept


def test_the_rarest_leaves_first_and_its_count_goes_to_its_parts() -> None:
    tokens = {t: i for i, t in enumerate(["a", "b", "c", "ab", "abc", "bc"])}
    parts = by_merges(tokens, 6, ["a b", "ab c", "b c"])
    found = removal([9, 9, 9, 0, 3, 2], parts, {0, 1, 2})
    # bc occurs twice; ab never by itself, but it is part of abc until that leaves
    assert [list(tokens)[i] for i in found.order] == ["bc", "abc", "ab"]
    assert found.coverage(5) == 1 - 2 / 32
    assert found.size_for(1.0) == 6
    assert found.size_for(1 - 2 / 32) == 5
    assert found.size_for(0.5) == 3


@pytest.mark.parametrize("name", ["bert-bge", "nomic-bert-moe"])
def test_other_tokenizers_are_refused_by_name(name: str) -> None:
    header = read_header(vocabulary_file(name))
    if name == "nomic-bert-moe":
        assert check_trimmable(header) == 250048
    else:
        with pytest.raises(ArchitectureError, match="tokenizer bert cannot be trimmed: WordPiece"):
            check_trimmable(header)


def test_scripts_of_letters() -> None:
    pairs = [("a", "latin"), ("ж", "cyrillic"), ("中", "han"), ("ψ", "greek"), ("あ", "hiragana")]
    assert [script_of(c) for c, _ in pairs] == [s for _, s in pairs]
    assert [script_of(c) for c in "1 .\u0301🙂ª"] == [None] * 6
    vocabulary = _trimmed.vocabulary(vocabulary_file("gpt-2"))
    scripts = token_scripts(vocabulary)
    russian = {vocabulary.tokens[i] for i in tokens_in(["cyrillic"], scripts)}
    assert "Ð¸Ð" not in russian or "Ð¸" in russian
    assert "Ð¸" in russian
    assert "Ð" not in russian  # half a character
    with pytest.raises(PlanError, match=r"no token in the script 'cyrilic'.*cyrillic"):
        tokens_in(["cyrilic"], scripts)


def test_reserved_tokens_may_leave() -> None:
    gemma = _trimmed.vocabulary(vocabulary_file("gemma-4"))
    kept = set(by_kind(gemma))
    reserved = [i for i, t in enumerate(gemma.tokens) if t.startswith("<unused")]
    control = [i for i, k in enumerate(gemma.types) if k == TokenType.CONTROL]
    assert len(reserved) > 5000
    assert not kept & {i for i in reserved if gemma.types[i] != TokenType.USER_DEFINED}
    assert set(control) - set(reserved) <= kept


def test_a_vocabulary_without_bytes_keeps_its_characters() -> None:
    header = read_header(vocabulary_file("llama-spm"))
    vocabulary = Vocabulary.of(header)
    cut = Vocabulary(
        header,
        "llama",
        "",
        tuple("x" + t if t.startswith("<0x") else t for t in vocabulary.tokens),
        vocabulary.types,
    )
    single = {i for i, t in enumerate(vocabulary.tokens) if len(t) == 1}
    assert len(single) > 1000
    assert single <= set(by_kind(cut))
    assert not single <= set(by_kind(vocabulary))


@pytest.mark.slow
def test_a_million_characters_come_back(tmp_path: Path) -> None:
    """English, and all kinds of characters, through a vocabulary cut to a third."""
    source = needs_smollm2()
    text = needs_shared("data", "wikitext2.valid.raw").read_text("utf-8")
    draw = np.random.default_rng(11)
    points = draw.integers(1, 0x110000, 40_000)
    text += "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
    assert len(text) > 1_000_000
    chosen = draw.random(len(_trimmed.vocabulary(source).tokens)) < 0.3
    kept = _trimmed.keeping(source, np.flatnonzero(chosen))
    out = _trimmed.write(source, kept, tmp_path / "out.gguf")
    parts = [text[at : at + 4000] for at in range(0, len(text), 4000)]
    _trimmed.compare(source, out, kept, parts)
