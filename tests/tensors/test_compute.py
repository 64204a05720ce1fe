"""Expressions evaluated from files, against float64 on values that gguf-py decoded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as T

from ggsurgery.errors import FormatError, PlanError
from ggsurgery.ggufio.reader import Source
from ggsurgery.plan.edits import params
from ggsurgery.tensors import evaluate, kernels, two_pass
from ggsurgery.tensors.expr import Apply, Combine, Expr, Given, Read, Slice
from ggsurgery.tensors.kernels import BF16, F16, F32
from ggsurgery.tensors.kth_smallest import kth_smallest
from ggsurgery.tensors.shape import n_rows, shape_of
from tests.tensors._files import values_of, weights, write_file

ROUNDING = {F32: 2.0**-24, F16: 2.0**-11, BF16: 2.0**-8}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks even in small tensors."""
    monkeypatch.setattr(two_pass, "BLOCK", 1500)


def model(path: Path, kind: int, shape: tuple[int, ...] = (9, 512)) -> Source:
    return write_file(
        path / "model.gguf", {f"blk.{n}.w": (weights(shape, n), kind) for n in range(4)}, 4
    )


def read(source: Source, n: int) -> Read:
    return Read(0, source.header.by_name[f"blk.{n}.w"])


def run(expr: Expr, kind: int, source: Source, threads: int = 2, **more: Any) -> np.ndarray:
    blocks = list(evaluate.evaluate(expr, kind, [source], threads=threads, **more))
    raw = np.concatenate([np.frombuffer(b, np.uint8) for b in blocks])
    shape = shape_of(expr)
    assert raw.size == kernels.row_bytes(kind, shape[0]) * n_rows(shape)
    return raw


def linear(inputs: list[Expr], factors: list[float]) -> Combine:
    return Combine(tuple(inputs), "linear", params(weights=tuple(factors)))


@pytest.mark.parametrize(
    "kind",
    [F32, F16, BF16, *(T.Q8_0, T.Q4_0, T.Q5_1, T.Q4_K, T.Q6_K, T.IQ4_XS, T.MXFP4)],
    ids=lambda k: T(k).name,
)
class TestEveryType:
    def test_linear_into_f32(self, tmp_path: Path, kind: int) -> None:
        source = model(tmp_path, kind)
        expr = linear([read(source, n) for n in range(3)], [-1, 1, 1])
        found = run(expr, F32, source).view(np.float32).reshape(9, 512)
        parts = [values_of(source, f"blk.{n}.w") for n in range(3)]
        exact = -parts[0] + parts[1] + parts[2]
        assert np.abs(found - exact).max() <= 4 * 2.0**-24 * sum(np.abs(p) for p in parts).max()

    def test_linear_into_its_own_type(self, tmp_path: Path, kind: int) -> None:
        source = model(tmp_path, kind)
        expr = linear([read(source, 0), read(source, 1)], [0.25, 0.75])
        as_f32 = run(expr, F32, source).view(np.float32)
        found = run(expr, kind, source)
        np.testing.assert_array_equal(found, kernels.encode(kind, as_f32, 512))

    def test_one_parent_of_weight_1_gives_its_bytes(self, tmp_path: Path, kind: int) -> None:
        source = model(tmp_path, kind)
        given = np.frombuffer(source.data(source.header.by_name["blk.2.w"]), np.uint8)
        np.testing.assert_array_equal(run(read(source, 2), kind, source), given)

    def test_threads_do_not_matter(self, tmp_path: Path, kind: int) -> None:
        source = model(tmp_path, kind)
        expr = linear([read(source, 0), read(source, 3)], [0.5, 0.5])
        one, three = (run(expr, kind, source, threads=n) for n in (1, 3))
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("kind", [F32, F16, BF16, T.Q8_0], ids=lambda k: T(k).name)
def test_slerp_against_float64(tmp_path: Path, kind: int) -> None:
    source = model(tmp_path, kind)
    a, b = values_of(source, "blk.0.w"), values_of(source, "blk.1.w")
    angle = np.arccos((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    exact = np.sin(0.7 * angle) / np.sin(angle) * a + np.sin(0.3 * angle) / np.sin(angle) * b
    expr = Combine((read(source, 0), read(source, 1)), "slerp", params(weight=0.3))
    found = run(expr, F32, source).view(np.float32).reshape(a.shape)
    assert np.abs(found - exact).max() < 1e-8


@pytest.mark.parametrize("threads", [1, 3])
def test_moments_do_not_depend_on_the_order_of_the_blocks(tmp_path: Path, threads: int) -> None:
    source = model(tmp_path, F32, (600, 512))
    a, b = read(source, 0), read(source, 1)
    reader = evaluate.RowReader([source])
    parts = [
        kernels.backend().moments(F32, reader.raw(a, rows), reader.raw(b, rows))
        for rows in two_pass.row_blocks(a)
    ]
    exact = tuple(math.fsum(column) for column in zip(*parts, strict=True))
    assert two_pass.Resolver(reader, threads).moments(a, b) == exact


def test_slerp_of_equal_tensors_is_the_tensor(tmp_path: Path) -> None:
    source = model(tmp_path, F32)
    expr = Combine((read(source, 0), read(source, 0)), "slerp", params(weight=0.5))
    found = run(expr, F32, source).view(np.float32)
    np.testing.assert_array_equal(found, values_of(source, "blk.0.w").ravel().astype(np.float32))


def test_ties_against_a_plain_version(tmp_path: Path) -> None:
    source = model(tmp_path, F32)
    base, *models = (values_of(source, f"blk.{n}.w") for n in range(4))
    kept = []
    for m in models:
        task = (m - base).astype(np.float32)
        limit = np.sort(np.abs(task).ravel())[task.size - round(0.3 * task.size)]
        kept.append(np.where(np.abs(task) >= limit, task, 0))
    w = [0.5, 1.0, 0.25]
    sign = np.sign(sum(f * k for f, k in zip(w, kept, strict=True)))
    agree = [(np.sign(k) == sign) & (k != 0) for k in kept]
    above = sum(f * k * a for f, k, a in zip(w, kept, agree, strict=True))
    below = sum(f * a for f, a in zip(w, agree, strict=True))
    exact = base + 0.9 * np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    expr = Combine(
        tuple(read(source, n) for n in range(4)),
        "ties",
        params(weights=tuple(w), density=0.3, scale=0.9),
    )
    found = run(expr, F32, source).view(np.float32).reshape(base.shape)
    np.testing.assert_allclose(found, exact, atol=2e-8)


def test_dare_drops_as_many_and_does_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model(tmp_path, F32, (64, 512))
    options = params(weights=(1.0,), density=0.2, scale=1.0, seed=7)
    expr = Combine((read(source, 0), read(source, 1)), "dare", options)
    found = run(expr, F32, source).view(np.float32)
    base, other = (values_of(source, f"blk.{n}.w").ravel() for n in (0, 1))
    kept = found != base.astype(np.float32)
    assert abs(kept.mean() - 0.2) < 5 * np.sqrt(0.16 / kept.size)
    np.testing.assert_allclose(found[kept], (base + 5 * (other - base))[kept], atol=3e-7)
    monkeypatch.setattr(two_pass, "BLOCK", 4097)
    np.testing.assert_array_equal(run(expr, F32, source, threads=1).view(np.float32), found)
    again = params(weights=(1.0,), density=0.2, scale=1.0, seed=8)
    other_seed = run(Combine(expr.inputs, "dare", again), F32, source).view(np.float32)
    assert (other_seed != found).any()


@pytest.mark.parametrize("kind", [F16, T.Q4_0, T.Q4_K], ids=lambda k: T(k).name)
def test_slices_keep_the_bytes_where_they_can(tmp_path: Path, kind: int) -> None:
    source = model(tmp_path, kind, (9, 1024))
    values = values_of(source, "blk.0.w")
    rows = Slice(read(source, 0), 1, ((1, 3), (7, 9)))
    decoded = kernels.decode(kind, run(rows, kind, source)).reshape(4, 1024)
    np.testing.assert_array_equal(decoded, values[[1, 2, 7, 8]])
    columns = Slice(read(source, 0), 0, ((256, 512), (0, 256)))
    decoded = kernels.decode(kind, run(columns, kind, source)).reshape(9, 512)
    np.testing.assert_array_equal(decoded, np.concatenate([values[:, 256:512], values[:, :256]], 1))


def test_slice_within_a_block_is_encoded_anew(tmp_path: Path) -> None:
    source = model(tmp_path, T.Q8_0, (9, 512))
    expr = Slice(read(source, 0), 0, ((16, 48),))
    found = kernels.decode(T.Q8_0, run(expr, T.Q8_0, source)).reshape(9, 32)
    exact = values_of(source, "blk.0.w")[:, 16:48]
    assert np.abs(found - exact).max() <= np.abs(exact).max() / 127
    assert run(expr, F32, source).view(np.float32).reshape(9, 32) == pytest.approx(exact)


def test_slice_of_experts(tmp_path: Path) -> None:
    source = model(tmp_path, F32, (3, 4, 64))
    expr = Apply(Slice(read(source, 0), 2, ((2, 3), (0, 1))), "scale", params(factor=2.0))
    found = run(expr, F32, source).view(np.float32).reshape(2, 4, 64)
    np.testing.assert_allclose(found, 2 * values_of(source, "blk.0.w")[[2, 0]], rtol=1e-7)


def test_given_values(tmp_path: Path) -> None:
    source = model(tmp_path, F16)
    delta = weights((9, 512), 50)
    expr = linear([read(source, 0), Given("heal", (512, 9))], [1, 1])
    found = run(expr, F32, source, given={"heal": delta}).view(np.float32).reshape(9, 512)
    np.testing.assert_allclose(found, values_of(source, "blk.0.w") + delta, atol=1e-8)
    with pytest.raises(PlanError, match="values are missing that a method computed"):
        run(expr, F32, source)


@pytest.mark.parametrize("kind", [F32, F16, BF16, T.Q8_0], ids=lambda k: T(k).name)
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2000, 4607, 4608])
def test_mask_counts_are_exact(tmp_path: Path, kind: int, largest: bool, count: int) -> None:
    source = write_file(
        tmp_path / "m.gguf", {"blk.0.w": (np.sign(w := weights((9, 512), 0)) + w.round(2), kind)}
    )
    options = params(sparsity=count / 4608, largest=largest or None)
    expr = Apply(read(source, 0), "mask", options)
    before = values_of(source, "blk.0.w").ravel()
    found = run(expr, F32, source).view(np.float32)
    assert (found == 0).sum() == count
    kept = found != 0
    np.testing.assert_array_equal(found[kept], before[kept].astype(np.float32))
    if 0 < count < 4608:
        gone, stays = np.abs(before[~kept]), np.abs(before[kept])
        assert gone.min() >= stays.max() if largest else gone.max() <= stays.min()
    if kind in kernels.FLOAT_SIZES:  # the quick path gives the same
        again = kernels.decode(kind, run(expr, kind, source))
        np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("largest", [False, True])
def test_masks_by_rows_and_patterns(tmp_path: Path, largest: bool) -> None:
    source = model(tmp_path, F16)
    flag = params(largest=largest or None)
    rows = Apply(read(source, 0), "mask_rows", (*flag, ("sparsity", 0.25)))
    found = run(rows, F32, source).view(np.float32).reshape(9, 512)
    assert ((found == 0).sum(axis=1) == 128).all()
    pattern = Apply(read(source, 0), "mask_pattern", (*flag, ("m", 4), ("n", 2)))
    found = run(pattern, F32, source).view(np.float32).reshape(9, 128, 4)
    assert ((found == 0).sum(axis=2) == 2).all()
    before = np.abs(values_of(source, "blk.0.w")).reshape(9, 128, 4)
    gone = np.where(found == 0, before, np.inf if largest else -np.inf)
    stays = np.where(found == 0, -np.inf if largest else np.inf, before)
    if largest:
        assert (gone.min(axis=2) >= stays.max(axis=2)).all()
    else:
        assert (gone.max(axis=2) <= stays.min(axis=2)).all()


@pytest.mark.parametrize("kind", [F32, F16, BF16, T.Q8_0], ids=lambda k: T(k).name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, kind: int, bad: float) -> None:
    tensors = {f"blk.{n}.w": (weights((9, 512), n), kind) for n in range(2)}
    path = write_file(tmp_path / "m.gguf", tensors, 2).header.path
    source = Source(path)
    at = source.position(source.header.by_name["blk.0.w"])
    with path.open("r+b") as file:  # of Q8_0 the scale of the first block, which is F16
        file.seek(at)
        one = np.array([bad], np.float32).view(np.uint8)
        file.write(kernels.encode(F16 if kind == T.Q8_0 else kind, one.view("<f4"), 1).tobytes())
    both = [read(source, 0), read(source, 1)]
    for expr in (
        linear([*both], [0.5, 0.5]),
        Apply(both[0], "scale", params(factor=0.0)),
        Apply(both[0], "mask", params(sparsity=0.5, largest=True)),
        Combine(tuple(both), "ties", params(weights=(1.0,), density=0.1, scale=1.0)),
    ):
        for out in (kind, T.Q8_0, F32):
            with pytest.raises(FormatError, match=r"m\.gguf: blk\.0\.w \(.*NaN or infinity"):
                run(expr, out, source)


@pytest.mark.parametrize("source_kind", [F32, F16, BF16], ids=lambda k: T(k).name)
@pytest.mark.parametrize(
    ("factor", "kind", "said"),
    [
        (3e5, F16, "expected at most 65504, found 300000. Choose bf16"),
        (1e39, F16, "expected at most 65504, found NaN or infinity. Choose a smaller factor"),
        (1e39, F32, "expected at most 3.40282e+38, found NaN or infinity. Choose a smaller"),
        (1e39, BF16, "expected at most 3.38953e+38, found NaN or infinity. Choose a smaller"),
        (3e7, T.Q8_0, "too large for q8_0: found 3e+07. Choose bf16"),
    ],
)
def test_values_too_large_for_their_type_are_refused(
    tmp_path: Path, source_kind: int, factor: float, kind: int, said: str
) -> None:
    values = weights((9, 512), 0)
    values[4, 5] = -1.0
    source = write_file(tmp_path / "m.gguf", {"blk.0.w": (values, source_kind)})
    expr = Apply(read(source, 0), "scale", params(factor=factor))
    with pytest.raises(PlanError) as caught:
        run(expr, kind, source)
    assert said in str(caught.value) and "blk.0.w" in str(caught.value)
    if factor < 1e38:
        assert np.isfinite(run(expr, F32, source).view(np.float32)).all()
        assert np.isfinite(kernels.decode(BF16, run(expr, BF16, source))).all()


def test_the_largest_numbers_of_half_precision_are_written(tmp_path: Path) -> None:
    source = write_file(tmp_path / "m.gguf", {"blk.0.w": (np.full((2, 64), 65504.0), F32)})
    for factor in (1.0, 65519 / 65504):  # rounds to 65504; from 65520 on it is infinity
        found = run(Apply(read(source, 0), "scale", params(factor=factor)), F16, source)
        assert (kernels.decode(F16, found) == 65504).all()
    with pytest.raises(PlanError, match="found 65520"):
        run(Apply(read(source, 0), "scale", params(factor=65520 / 65504)), F16, source)


@pytest.mark.parametrize("kinds", [(F32,), (F16,), (BF16,), (F32, F16, BF16, T.Q8_0)])
@pytest.mark.parametrize("rank", [1, 10, 5000, 9216])
def test_threshold_is_the_order_statistic(tmp_path: Path, kinds: Any, rank: int) -> None:
    tensors = {f"blk.{i}.w": (weights((18, 512), i) * 10.0**i, k) for i, k in enumerate(kinds)}
    source = write_file(tmp_path / "m.gguf", tensors, 4)
    everything = np.sort(
        np.concatenate([np.abs(values_of(source, n)).ravel() for n in tensors])
    ).astype(np.float32)
    resolver = two_pass.Resolver(evaluate.RowReader([source]), 2)
    found = resolver.threshold([read(source, i) for i in range(len(kinds))], rank)
    assert found.value == everything[rank - 1]
    assert found.below == (everything < found.value).sum()
    assert found.equal == (everything == found.value).sum()
    assert found.total == everything.size


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_a_wrong_sample_costs_a_pass_and_not_the_result(tmp_path: Path, wrong: float) -> None:
    source = model(tmp_path, F32)
    resolver = two_pass.Resolver(evaluate.RowReader([source]), 2)
    sample = [np.full((32, 256), wrong, np.float32)]
    found = kth_smallest(resolver._pieces([read(source, 0)]), 1234, threads=2, sample=sample)
    exact = np.sort(np.abs(values_of(source, "blk.0.w")).ravel())
    assert found.value == exact[1233]


def test_a_sample_narrows_the_search(tmp_path: Path) -> None:
    source = model(tmp_path, F16, (3000, 512))
    monkey = two_pass.PIECES
    try:
        two_pass.PIECES = 1000
        resolver = two_pass.Resolver(evaluate.RowReader([source]), 2)
        sample = resolver._sample([read(source, 0)])
        assert sum(len(s) for s in sample) >= 1000
        found = resolver.threshold([read(source, 0)], 700_000)
    finally:
        two_pass.PIECES = monkey
    exact = np.sort(np.abs(values_of(source, "blk.0.w")).ravel())
    assert found.value == exact[699_999]


def test_shapes_that_differ_are_named(tmp_path: Path) -> None:
    source = write_file(
        tmp_path / "m.gguf",
        {"blk.0.w": (weights((4, 64), 0), F32), "blk.1.w": (weights((5, 64), 1), F32)},
        2,
    )
    with pytest.raises(PlanError, match=r"blk\.0\.w and blk\.1\.w.*different shapes"):
        run(linear([read(source, 0), read(source, 1)], [0.5, 0.5]), F32, source)


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    source = model(tmp_path, F16)
    with (tmp_path / "model.gguf").open("r+b") as file:
        file.truncate(source.position(source.header.by_name["blk.3.w"]) + 100)
    with pytest.raises(FormatError, match="the file ended while it was read"):
        run(Apply(read(source, 3), "scale", params(factor=2.0)), F16, source)


def test_unknown_method(tmp_path: Path) -> None:
    source = model(tmp_path, F16)
    with pytest.raises(PlanError, match="unknown method 'cube'"):
        run(Apply(read(source, 0), "cube"), F16, source)
