"""All ways to measure a candidate give the figure of the file that would be written."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from ggsurgery.errors import ArchitectureError
from ggsurgery.files.text import read_corpus
from ggsurgery.measure.metrics.perplexity import perplexity
from ggsurgery.measure.variants import Candidates
from ggsurgery.measure.variants.session import Route
from ggsurgery.measure.variants.states import boundaries
from ggsurgery.measure.windows import Windows
from ggsurgery.plan.recipe import Recipe, Step, step
from ggsurgery.plan.types import Plan
from ggsurgery.runtime import worker
from ggsurgery.runtime.engine import Engine
from ggsurgery.surgery.prepare import prepare
from tests._scales import with_scales_of
from tests._small_models import write_small_model
from tests._tiny import MODEL, N_LAYERS, SEARCH_TEXT
from tests.fixtures.families import recipes
from tests.fixtures.make import outline, weights, write

N_CTX, N_WINDOWS = 64, 2


def random_recipe(rng: random.Random) -> Recipe:
    """One to three operations of every kind that has no file of its own."""
    steps: list[Step] = []
    n = N_LAYERS
    for _ in range(rng.randint(1, 3)):
        a = rng.randrange(n - 3)
        kind = rng.choice(["delete", "swap", "duplicate", "merge", "interpolate", "bridge"])
        match kind:
            case "delete":
                steps.append(step("delete", layer=str(rng.randrange(n))))
                n -= 1
            case "swap":
                steps.append(step("swap", layers=f"{a},{a + rng.randint(1, 3)}"))
            case "duplicate":
                steps.append(step("duplicate", layer=str(a)))
                n += 1
            case "merge":
                method = rng.choice(["rdsc", "reference", "mean"])
                steps.append(step("merge", layers=f"{a}-{a + 2}", method=method))
                n -= 2
            case "interpolate":
                steps.append(step("interpolate", layers=f"{a},{a + 2}", weight=0.25))
                n += 1
            case "bridge":
                steps.append(step("bridge", layer=a, at=rng.randrange(n)))
                n += 1
    return Recipe(tuple(steps))


@pytest.fixture(scope="module")
def windows() -> Windows:
    with Engine.open(MODEL, n_ctx=64, n_threads=1) as engine:
        return Windows.of_text(engine, read_corpus(SEARCH_TEXT), N_CTX, N_WINDOWS)


def written(recipe: Recipe, folder: Path, windows: Windows) -> float:
    """Perplexity of the file that `apply` would write, by the command's own function."""
    out = folder / "out.gguf"
    with prepare(recipe, [MODEL]) as operation:
        operation.write(out, force=True)
    text = [int(t) for row in windows.targets for t in row]
    with Engine.open(out, n_ctx=N_CTX, n_threads=1) as engine:
        return perplexity(engine, text, N_CTX).value


@pytest.mark.parametrize("route", ["live", "file"])
@pytest.mark.parametrize("scales", [{4: 8.0}, {3: 0.25, 4: 8.0}])
def test_candidates_of_a_model_with_scales_are_those_of_the_model_without(
    tmp_path: Path, windows: Windows, scales: dict[int, float], route: Route
) -> None:
    scaled = with_scales_of(MODEL, tmp_path / "scaled.gguf", scales)
    recipes = [
        step("merge", layers="3-5", method="mean"),
        step("merge", layers="3-4"),
        step("merge", layers="3-5"),
        step("swap", layers="3,4"),
        step("delete", layer="4"),
    ]
    with (
        Candidates(MODEL, windows, n_threads=1) as plain,
        Candidates(scaled, windows, route=route, n_threads=1) as session,
    ):
        for one in recipes:
            plan = Recipe((one,)).apply(plain.identity)
            expected = mean_exp(plain.nll(plan))
            try:
                found = mean_exp(session.nll(plan))
            except ArchitectureError as error:  # a scale, and no place for it in memory
                assert route == "live" and "scale" in str(error) and "--route file" in str(error)
                assert len(scales) == 1
                continue
            assert found == pytest.approx(expected, rel=1e-3)


def test_twenty_random_plans_agree_with_their_files(tmp_path: Path, windows: Windows) -> None:
    rng = random.Random(20)
    recipes = [random_recipe(rng) for _ in range(20)]
    live = 0
    with (
        Candidates(MODEL, windows, n_threads=1) as reuse,
        Candidates(MODEL, windows, route="live", n_threads=1) as alive,
    ):
        reuse.prepare()
        assert reuse.reusable
        starts = set()
        for recipe in recipes:
            plan = recipe.apply(reuse.identity)
            expected = written(recipe, tmp_path, windows)
            with reuse.open(plan) as candidate:
                starts.add(candidate.start)
            assert mean_exp(reuse.nll(plan)) == pytest.approx(expected, rel=1e-4)
            try:
                found = mean_exp(alive.nll(plan))
            except ArchitectureError:
                assert len(plan.blocks) > N_LAYERS  # more layers than the model in memory has
                continue
            live += 1
            assert found == pytest.approx(expected, rel=1e-4)
    assert max(starts) > 0 and live >= 5


def mean_exp(values: list[float]) -> float:
    return math.exp(sum(values) / len(values))


def test_small_cache_keeps_fewer_states_and_the_same_figures(windows: Windows) -> None:
    with (
        Candidates(MODEL, windows, n_threads=1) as everything,
        Candidates(
            MODEL, windows, n_threads=1, cache_bytes=3 * 4 * 256 * N_CTX * N_WINDOWS
        ) as little,
    ):
        assert everything.prepare() == little.prepare()
        assert everything.states is not None and little.states is not None
        assert len(little.states.kept) == 3 < len(everything.states.kept) == N_LAYERS - 1
        assert little.states.nbytes <= little.cache_bytes
        plan = Recipe((step("delete", layer="8"),)).apply(little.identity)
        assert little.nll(plan) == pytest.approx(everything.nll(plan), rel=1e-6)


def test_base_can_be_a_plan(windows: Windows) -> None:
    with Candidates(MODEL, windows, n_threads=1) as session:
        session.prepare()
        first = Recipe((step("delete", layer="4"),)).apply(session.identity)
        second = Recipe((step("delete", layer="7"),)).apply(first)
        expected = session.nll(second)
        base = session.prepare(first)
        assert base == pytest.approx(session.nll(first), rel=1e-6)
        with session.open(second) as candidate:
            assert candidate.start == 7
        assert session.nll(second) == pytest.approx(expected, rel=1e-6)


def test_reuse_is_refused_where_the_input_is_not_the_state(tmp_path: Path) -> None:
    """granite multiplies what it is fed by a factor, so kept states would be scaled twice."""
    from gguf import GGUFWriter
    from gguf.constants import GGUFValueType

    from ggsurgery.ggufio.header import read_header

    plain = write_small_model(tmp_path / "llama.gguf", n_layers=4)
    scaled = tmp_path / "granite.gguf"
    header = read_header(plain)
    writer = GGUFWriter(scaled, "granite")
    for key, value in header.metadata.items():
        if key.startswith("llama."):
            writer.add_key_value(key.replace("llama.", "granite.", 1), value.value, value.type)
    writer.add_tokenizer_model("no_vocab")
    if "llama.vocab_size" not in header.metadata:
        writer.add_vocab_size(128)
    writer.add_key_value("granite.embedding_scale", 12.0, GGUFValueType.FLOAT32)
    writer.add_key_value("granite.logit_scale", 8.0, GGUFValueType.FLOAT32)
    from gguf import GGUFReader

    for tensor in GGUFReader(plain).tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokens = [i % 120 for i in range(64)]
    windows = Windows.of_tokens(tokens, 32, None, None)
    with Candidates(scaled, windows, allow_unknown_arch=True) as session:
        session.prepare()
        assert not session.reusable
        plan = Recipe((step("delete", layer="2"),)).apply(session.identity)
        with session.open(plan) as candidate:
            assert candidate.route == "file"
    with Candidates(plain, windows) as session:
        session.prepare()
        assert session.reusable


def test_boundaries_fit_the_bound() -> None:
    for n_layers in (2, 5, 30):
        for limit in range(0, 40 * 100, 100):
            found = boundaries(n_layers, 100, limit)
            assert len(found) * 100 <= limit or not found
            assert all(0 < d < n_layers for d in found) and len(set(found)) == len(found)


def test_live_puts_blocks_where_they_are() -> None:
    from ggsurgery.measure.variants.live import assign

    identity = Plan.identity(6)
    assert assign(identity.blocks, 6) == [0, 1, 2, 3, 4, 5]
    assert assign((*identity.blocks[:2], *identity.blocks[3:]), 6) == [0, 1, 3, 4, 5]
    swapped = Recipe((step("swap", layers="1,2"),)).apply(identity)
    assert assign(swapped.blocks, 6) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ArchitectureError, match="more layers"):
        assign((*identity.blocks, identity.blocks[0]), 6)


@pytest.mark.parametrize("name", ["granitehybrid", "mimo2", "glm4moe with MTP", "glm4"])
def test_last_layers_that_cannot_run_alone_are_not_run_alone(name: str, tmp_path: Path) -> None:
    """llama.cpp stops the process: hybrids want each kind of layer, others no states as input."""
    recipe = recipes()[name]
    plan = outline(recipe.arch, recipe.keys(recipe.arch, recipe.n_layer))
    path = write(tmp_path / "tiny.gguf", recipe.arch, plan.keys, weights(plan))
    found = {route: worker.run(deletions, path, route) for route in ("auto", "file")}
    assert found["auto"] == pytest.approx(found["file"], rel=1e-4)


def deletions(path: Path, route: Route) -> list[float]:
    """Loss of one window without each of the layers, and without the last two."""
    windows = Windows.of_tokens([i * 7 % 60 for i in range(32)], 32, None, None)
    with Candidates(path, windows, route=route, n_threads=1) as session:
        session.prepare()
        n = len(session.identity.blocks)
        cuts = [*map(str, range(n)), f"{n - 2}-{n - 1}"]
        plans = [Recipe((step("delete", layer=cut),)).apply(session.identity) for cut in cuts]
        return [session.nll(plan)[0] for plan in plans]
