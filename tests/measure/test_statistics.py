"""Intervals and tests against scipy, enumeration and coverage, none of them written here."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ggsurgery.errors import GGSurgeryError
from ggsurgery.measure.results import statistics as st
from ggsurgery.measure.results.comparison import compare, compare_all
from ggsurgery.measure.results.score import Score, mean_score
from tests._needs import needs_package


def test_bootstrap_interval_agrees_with_the_normal_one_for_many_items():
    items = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    low, high = 3.0 - 1.96 * 2 / 2000**0.5, 3.0 + 1.96 * 2 / 2000**0.5
    found = st.interval_of(st.resampled_means(items))
    shift = items.mean() - 3.0
    assert found.low == pytest.approx(low + shift, abs=0.01)
    assert found.high == pytest.approx(high + shift, abs=0.01)
    assert found == st.interval_of(st.resampled_means(items))  # seeded


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = sum(
        0.6 in st.interval_of(st.resampled_means((rng.random(150) < 0.6).astype(float), n=600))
        for _ in range(200)
    )
    assert 0.90 * 200 <= hits <= 0.99 * 200


@pytest.mark.parametrize(("k", "n"), [(0, 17), (15, 17), (17, 17), (1, 3), (250, 400)])
def test_wilson_interval_solves_its_defining_equation(k, n):
    found, p, z = st.wilson_interval(k, n), k / n, 1.959963984540054
    for end in (found.low, found.high):  # |p − end| = z·√(end(1−end)/n) unless clipped
        if 0 < end < 1:
            assert abs(p - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (6, 0), (3, 5), (9, 2), (10, 10)])
def test_mcnemar_by_enumerating_every_outcome_of_fair_coins(only_a, only_b):
    a = [1] * only_a + [0] * only_b + [1, 1, 0]
    b = [0] * only_a + [1] * only_b + [1, 1, 0]
    n = only_a + only_b
    gap = abs(only_a - only_b)
    if n <= 12:
        flips = itertools.product((1, -1), repeat=n)
        expected = sum(abs(sum(f)) >= gap for f in flips) / 2**n
    else:
        expected = 1.0  # an even split is as likely as anything
    assert st.mcnemar(a, b) == pytest.approx(expected)


def test_binomial_agrees_with_scipy():
    stats = needs_package("scipy.stats", extra="bench")
    for k, n in [(0, 5), (3, 20), (180, 400), (4000, 8200)]:
        assert st.binomial_two_sided(k, n) == pytest.approx(stats.binomtest(k, n).pvalue, rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8, 31, 32, 999])
def test_student_s_t_agrees_with_scipy(degrees):
    stats = needs_package("scipy.stats", extra="bench")
    for t in (0.0, 0.1, -1.0, 2.0, 2.5, 5.0, 12.0):
        assert st.t_two_sided(t, degrees) == pytest.approx(
            2 * stats.t.sf(abs(t), degrees), rel=1e-6, abs=1e-14
        )
    assert st.t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_the_paired_test_of_values_is_scipy_s():
    stats = needs_package("scipy.stats", extra="bench")
    rng = np.random.default_rng(3)
    for n in (2, 3, 8, 200):
        base = rng.normal(0, 10, n)
        other = base + 0.3 + rng.normal(0, 0.5, n)
        theirs = stats.ttest_rel(other, base)
        ends = theirs.confidence_interval()
        found = st.paired_test(list(base), list(other))
        assert found.test == "paired t" and found.p_value == pytest.approx(theirs.pvalue, rel=1e-6)
        assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))


@pytest.mark.parametrize("n", [3, 8, 60])
def test_p_under_the_null_is_small_as_often_as_it_says(n):
    """Of eight windows, too, where two standard errors would be passed in 9 % of all cases."""
    rng = np.random.default_rng(4)
    small = sum(
        st.paired_test(list(rng.normal(size=n)), list(rng.normal(size=n))).p_value < 0.05
        for _ in range(1000)
    )
    assert 23 <= small <= 78  # 50 is expected; four standard deviations either way


def test_values_that_differ_alike_are_coins_that_fall_alike():
    assert st.paired_test([0.5] * 3, [0.75] * 3).p_value == 0.25
    assert st.paired_test([0.5] * 4, [0.5] * 4).p_value == 1.0
    assert st.paired_test([0.0] * 3, [1.0] * 3).test == "McNemar (exact)"


def test_of_a_single_value_or_of_no_numbers_nothing_is_said():
    assert st.paired_test([0.5], [0.75]) is None
    for broken in (np.nan, np.inf):
        assert st.paired_test([0.5, 0.6, 0.7], [0.5, broken, 0.7]) is None
    base, other = (Score("perplexity", 9.0, 0.1, 1, {}, (v,)) for v in (2.0, 2.5))
    assert (compare(base, other).p_value, compare(base, other).interval) == (1.0, None)


def test_holm_never_lowers_and_keeps_the_order():
    assert st.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm([0.9, 0.8]) == [1.0, 1.0]


def test_unlike_units_are_refused():
    with pytest.raises(GGSurgeryError, match=r"same units.*3 items.*2 items"):
        st.mcnemar([1, 0, 1], [1, 0])
    with pytest.raises(GGSurgeryError, match="no items"):
        st.resampled_means([])
    with pytest.raises(GGSurgeryError, match="not a proportion"):
        st.wilson_interval(3, 2)


def test_comparison_picks_mcnemar_for_right_and_wrong():
    base = mean_score("acc", [1, 1, 1, 1, 1, 1, 1, 0], {"task": "t"})
    other = mean_score("acc", [0, 0, 0, 0, 0, 0, 1, 0], {"task": "t"})
    found = compare(base, other)
    assert (found.test, found.p_value, found.verdict) == ("McNemar (exact)", 0.03125, "worse")
    near = compare(base, mean_score("acc", [1, 1, 1, 1, 1, 1, 0, 0], {"task": "t"}))
    assert near.verdict == "not distinguishable at n = 8"


def test_comparison_pairs_by_id_whatever_the_order():
    base = mean_score("acc", [1, 1, 0], ids=("a", "b", "c"))
    other = mean_score("acc", [0, 1, 1], ids=("c", "b", "a"))
    assert compare(base, other).p_value == 1.0
    with pytest.raises(GGSurgeryError, match="no question in common"):
        compare(base, mean_score("acc", [1], ids=("z",)))


def test_figures_measured_unlike_are_not_compared():
    def ppl(**settings):
        return Score("perplexity", 9.0, 0.1, 4, settings, (2.0, 2.1))

    a = ppl(text="a.txt", n_ctx=64)
    for b in (ppl(text="b.txt", n_ctx=64), ppl(text="a.txt", n_ctx=128)):
        with pytest.raises(GGSurgeryError, match=r"the two runs differ in (text|n_ctx)"):
            compare(a, b)
    assert compare(a, ppl(n_ctx=64)).difference == 0  # what is not told counts as equal
    bound = Score("kl_mean", 0.1, None, 2, {"lower_bound": True}, (0.1, 0.1))
    with pytest.raises(GGSurgeryError, match="lower_bound"):
        compare(bound, Score("kl_mean", 0.1, None, 2, {}, (0.1, 0.1)))


def test_a_difference_is_over_the_questions_that_both_were_asked():
    base = Score("acc", 0.5, None, 4, {}, (1, 1, 0, 0), ("a", "b", "c", "d"))
    other = Score("acc", 1.0, None, 2, {}, (1, 1), ("a", "b"))
    found = compare(base, other)
    assert (found.base, found.other, found.difference, found.n) == (1, 1, 0, 2)


def test_lower_perplexity_is_better_and_its_interval_is_in_perplexity():
    rng = np.random.default_rng(5)
    nats = rng.normal(3.0, 0.2, 100)
    base = Score("perplexity", float(np.exp(nats.mean())), 0.1, 100, {}, tuple(nats))
    worse = nats + 0.1
    other = Score("perplexity", float(np.exp(worse.mean())), 0.1, 100, {}, tuple(worse))
    found = compare(base, other)
    assert (found.verdict, compare(other, base).verdict) == ("worse", "better")
    assert found.interval is not None
    assert found.difference == pytest.approx(found.interval.low, rel=1e-6)  # a constant shift


def test_without_items_the_errors_decide_and_the_test_says_so():
    a, b = Score("acc", 0.50, 0.02, 600), Score("acc", 0.60, 0.02, 600)
    assert compare(a, b).test == "normal, unpaired"
    assert compare(a, b).p_value == pytest.approx(0.000407, rel=1e-2)  # z = 3.5355
    assert compare(a, Score("acc", 0.9, None, 600)).verdict.startswith("not tested")
    assert [c.label for c in compare_all([a, Score("x", 1, None, 1)], [b])] == ["acc"]
    with pytest.raises(GGSurgeryError, match="two metrics"):
        compare(a, Score("acc_norm", 0.5, 0.1, 3))


@pytest.mark.parametrize(
    ("a", "n", "b", "m"), [(3, 3, 0, 3), (1, 9, 7, 12), (0, 5, 5, 5), (8, 40, 8, 40)]
)
def test_fisher_agrees_with_scipy(a, n, b, m):
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = scipy_stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue
    assert st.fisher_exact(a, n, b, m) == pytest.approx(expected, abs=1e-9)


def test_few_answers_without_items_prove_nothing():
    """0 of 3 against 3 of 3: both standard errors are 0."""
    a, b = mean_score("acc", [0, 0, 0]), mean_score("acc", [1, 1, 1])
    bare = [Score("acc", s.value, s.stderr, s.n) for s in (a, b)]
    found = compare(*bare)
    assert (found.test, found.p_value) == ("Fisher (exact), unpaired", pytest.approx(0.1))


def test_paired_shares_have_a_width_and_cover():
    """Bonett and Price's interval holds the true difference in about 95 % of samples."""
    found = compare(mean_score("acc", [1.0] * 20), mean_score("acc", [1.0] * 20))
    assert found.interval is not None and found.interval.low < 0 < found.interval.high
    rng = np.random.default_rng(0)
    for p_a, p_b in ((0.9, 0.95), (0.5, 0.7)):
        inside = 0
        for _ in range(400):
            a, b = (rng.random(25) < p_a).astype(float), (rng.random(25) < p_b).astype(float)
            inside += (p_b - p_a) in st.paired_shares_interval(a, b)
        assert inside >= 0.93 * 400


def test_the_interval_of_a_share_never_excludes_it():
    for n in (1, 2, 3, 20, 1319):
        for right in (0, n // 2, n):
            found = st.wilson_of_share(right / n, n)
            assert right / n in found and found.low < found.high
