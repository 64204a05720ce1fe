"""KL against float64 arithmetic, base files against the two-model figure, bad input by name."""

from __future__ import annotations

import numpy as np
import pytest

from ggsurgery.errors import EngineError, FormatError, GGSurgeryError, OutputError
from ggsurgery.measure.base_file import BaseFile
from ggsurgery.measure.metrics.kl import kl_divergence, kl_from_file, write_base_file
from ggsurgery.measure.windows import Windows, window_logits
from ggsurgery.runtime.scoring import log_softmax_at
from tests.measure.fakes import N_VOCAB, ByteModel, exact_log_softmax

TOKENS = np.random.default_rng(9).integers(0, 256, 64 * 5 + 7).astype(np.int32)


def by_hand(base: ByteModel, other: ByteModel, n_ctx: int) -> np.ndarray:
    """KL of every scored position in float64, window by window."""
    found = []
    for start in range(0, len(TOKENS) // n_ctx * n_ctx, n_ctx):
        inputs = TOKENS[start : start + n_ctx]
        base.reset(), other.reset()
        p = exact_log_softmax(base.decode(inputs, logits="all"))
        q = exact_log_softmax(other.decode(inputs, logits="all"))
        kl = (np.exp(p) * (p - q)).sum(axis=1)
        found.append(kl[n_ctx // 2 : n_ctx - 1])
    return np.concatenate(found)


def test_kl_equals_float64_arithmetic():
    base, other = ByteModel(1), ByteModel(2)
    found = kl_divergence(base, other, TOKENS)
    expected = by_hand(ByteModel(1), ByteModel(2), 64)
    assert found.kl == pytest.approx(expected, rel=1e-5)
    scores = {s.metric: s for s in found.scores({})}
    assert scores["kl_mean"].value == pytest.approx(expected.mean(), rel=1e-5)
    assert scores["kl_median"].value == pytest.approx(np.median(expected), rel=1e-5)
    assert scores["kl_p99"].value == pytest.approx(np.quantile(expected, 0.99), rel=1e-5)
    assert scores["kl_mean"].n == len(expected) == 5 * 31
    assert scores["kl_mean"].stderr == pytest.approx(
        expected.std(ddof=1) / len(expected) ** 0.5, rel=1e-5
    )
    assert len(scores["kl_mean"].items) == 5


def test_a_model_does_not_differ_from_itself():
    found = kl_divergence(ByteModel(1), ByteModel(1), TOKENS, limit=2)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.same_top.tolist() == [1.0] * 62


def test_the_losses_behind_the_ratio_are_those_of_perplexity_to_the_last_digit(tmp_path):
    """One log-softmax: float64 where it weighs, in both commands."""
    base, other = ByteModel(1), ByteModel(2)
    cut = Windows.of_tokens(TOKENS, 64)
    losses = [
        np.concatenate([-log_softmax_at(window_logits(m, w), w.targets) for w in cut])
        for m in (base, other)
    ]
    found = kl_divergence(base, other, TOKENS)
    assert found.nll_base.tolist() == losses[0].tolist()
    assert found.nll_other.tolist() == losses[1].tolist()
    write_base_file(str(tmp_path / "b"), base, TOKENS, k=8)
    assert kl_from_file(BaseFile(tmp_path / "b"), other).nll_other.tolist() == losses[1].tolist()
    exact = np.concatenate(
        [-exact_log_softmax(window_logits(base, w))[np.arange(31), w.targets] for w in cut]
    )
    assert found.nll_base == pytest.approx(exact, rel=1e-6)


def test_one_window_is_enough(tmp_path):
    """For KL, for perplexity and for candidates alike."""
    both = kl_divergence(ByteModel(1), ByteModel(2), TOKENS[:64])
    write_base_file(str(tmp_path / "one"), ByteModel(1), TOKENS[:64], k=255)
    assert len(BaseFile(tmp_path / "one").tokens) == 64 == 2 * len(both.kl) + 2
    assert kl_from_file(BaseFile(tmp_path / "one"), ByteModel(2)).kl == pytest.approx(
        both.kl, rel=1e-4, abs=1e-5
    )


def test_minus_infinity_logits_have_no_mass_and_no_effect():
    base, other = ByteModel(1), ByteModel(2)
    base.first[:, 200] = -np.inf
    other.first[:, 201] = -np.inf
    base.first[:, 201] = -np.inf
    assert np.isfinite(kl_divergence(base, other, TOKENS, limit=1).kl).all()


def test_windows_replace_the_first_token_by_bos_but_score_the_text():
    given = list(Windows.of_tokens(TOKENS, 64, bos=256))
    assert [w.inputs[0] for w in given] == [256] * 5
    assert given[1].targets.tolist() == TOKENS[64 + 33 : 128].tolist()
    assert len(Windows.of_tokens(TOKENS, 64, 3)) == 3


def test_a_full_base_file_gives_the_same_kl(tmp_path):
    path = tmp_path / "base.kl"
    write_base_file(str(path), ByteModel(1), TOKENS, k=N_VOCAB - 1)
    both = kl_divergence(ByteModel(1), ByteModel(2), TOKENS)
    from_file = kl_from_file(BaseFile(path), ByteModel(2))
    assert from_file.kl == pytest.approx(both.kl, rel=1e-4, abs=1e-5)
    assert from_file.nll_base == pytest.approx(both.nll_base, rel=1e-5)
    assert from_file.same_top.tolist() == both.same_top.tolist()
    assert from_file.scores({})[0].provenance["lower_bound"] is True


def test_a_base_file_keeps_the_base_models_bos(tmp_path):
    path = tmp_path / "base.kl"
    for with_bos in (True, False):
        base, other = ByteModel(1, add_bos=with_bos), ByteModel(2, add_bos=not with_bos)
        write_base_file(str(path), base, TOKENS, k=N_VOCAB - 1, force=True)
        both = kl_divergence(base, other, TOKENS)
        assert kl_from_file(BaseFile(path), other).kl == pytest.approx(both.kl, rel=1e-4, abs=1e-5)


def test_one_window_is_enough_for_a_base_file_of_a_long_text(tmp_path):
    write_base_file(str(tmp_path / "one"), ByteModel(1), TOKENS, k=255, limit=1)
    one = kl_from_file(BaseFile(tmp_path / "one"), ByteModel(2))
    both = kl_divergence(ByteModel(1), ByteModel(2), TOKENS, limit=1)
    assert one.kl == pytest.approx(both.kl, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("k", [1, 8, 64])
def test_a_short_base_file_gives_a_lower_bound_that_rises_with_k(tmp_path, k):
    both = kl_divergence(ByteModel(1), ByteModel(2), TOKENS).kl
    write_base_file(str(tmp_path / "a"), ByteModel(1), TOKENS, k=k)
    write_base_file(str(tmp_path / "b"), ByteModel(1), TOKENS, k=2 * k)
    less = kl_from_file(BaseFile(tmp_path / "a"), ByteModel(2)).kl
    more = kl_from_file(BaseFile(tmp_path / "b"), ByteModel(2)).kl
    assert (less <= more + 1e-5).all()
    assert (more <= both + 1e-5).all()
    assert more.mean() > 0.2 * both.mean()


def test_base_file_is_not_overwritten_and_not_left_half_written(tmp_path):
    path = tmp_path / "base.kl"
    write_base_file(str(path), ByteModel(1), TOKENS, k=4, limit=2)
    with pytest.raises(OutputError):
        write_base_file(str(path), ByteModel(1), TOKENS, k=4, limit=2)
    broken = ByteModel(1)
    broken.broken_at = 0
    with pytest.raises(EngineError):
        write_base_file(str(tmp_path / "c"), broken, TOKENS, k=4)
    assert [p.name for p in tmp_path.iterdir()] == ["base.kl"]


def test_damaged_base_files_are_refused(tmp_path):
    path = tmp_path / "base.kl"
    write_base_file(str(path), ByteModel(1), TOKENS, k=4, limit=2)
    raw = path.read_bytes()
    cases = {
        "not a base file": b"GGUF" + raw[4:],
        "header of the base file is damaged": raw[:12] + b"[]" + raw[14:],
        "cut short": raw[:-1],
        "n_ctx or k out of range": raw.replace(b'"k": 4', b'"k": 9999'),
        "expected 1 to 2147483647, found 0": raw.replace(b'"n_ctx": 64', b'"n_ctx": 0'),
    }
    for message, changed in cases.items():
        data = changed
        if len(data) != len(raw) and message != "cut short":  # the header's length changed
            size = int.from_bytes(raw[8:12], "little") + len(data) - len(raw)
            data = data[:8] + size.to_bytes(4, "little") + data[12:]
        path.write_bytes(data)
        with pytest.raises(FormatError, match=message):
            BaseFile(path)
    bad = bytearray(raw)
    bad[-(31 * (4 * 8 + 8)) :][:4] = b"\xff\xff\xff\x7f"
    place = len(raw) - 31 * (4 * 8 + 8)
    bad[place : place + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(bytes(bad))
    with pytest.raises(FormatError, match="window 1 holds a wrong token"):
        BaseFile(path).records(1)


def test_another_vocabulary_is_refused_with_its_first_difference(tmp_path):
    other = ByteModel(2)
    other.piece = lambda t, special=False: b"X" if t == 65 else bytes([t % 256])  # type: ignore
    with pytest.raises(EngineError, match=r"differ first at token 65: expected 'A', found 'X'"):
        kl_divergence(ByteModel(1), other, TOKENS)
    shorter = ByteModel(2)
    shorter.n_vocab = 200
    with pytest.raises(EngineError, match=r"up to token 199.*261 tokens.*200 tokens"):
        kl_divergence(ByteModel(1), shorter, TOKENS)
    write_base_file(str(tmp_path / "b"), ByteModel(1), TOKENS, k=2, limit=2)
    with pytest.raises(EngineError, match="not the base file's"):
        kl_from_file(BaseFile(tmp_path / "b"), other)


def test_unlike_contexts_are_refused(tmp_path):
    with pytest.raises(GGSurgeryError, match="one context length"):
        kl_divergence(ByteModel(1), ByteModel(2, n_ctx=32), TOKENS)
    write_base_file(str(tmp_path / "b"), ByteModel(1), TOKENS, k=2, limit=2)
    with pytest.raises(GGSurgeryError, match=r"another context length.*--ctx 64"):
        kl_from_file(BaseFile(tmp_path / "b"), ByteModel(2, n_ctx=32))


def test_too_short_a_text_says_how_much_there_is_and_is_needed():
    with pytest.raises(GGSurgeryError, match=r"at least 64 tokens.*found 63 tokens.*at most 63"):
        Windows.of_tokens(TOKENS[:63], 64)
    with pytest.raises(GGSurgeryError, match="found 0 tokens"):
        kl_divergence(ByteModel(1), ByteModel(2), np.empty(0, np.int32))


def test_nan_logits_name_the_layer_where_they_begin():
    broken = ByteModel(1)
    broken.broken_at = 2
    window = next(iter(Windows.of_tokens(TOKENS, 64)))
    with pytest.raises(EngineError, match=r"bytes\.gguf: .*window 0.*first in graph node l_out-2"):
        window_logits(broken, window)
    broken.broken_at = 99
    with pytest.raises(EngineError, match="only in the logits"):
        window_logits(broken, window)
