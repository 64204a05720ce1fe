"""Rankings of experts: equal to other nodes of llama.cpp's graph, and to what they are made for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ggsurgery.arch.experts import mixture
from ggsurgery.errors import ArchitectureError, FormatError, PlanError, RequestError
from ggsurgery.find.experts import choose
from ggsurgery.find.experts.ranking import Ranking, TextSums
from ggsurgery.find.experts.ranking_file import read_ranking
from ggsurgery.find.experts.sweep import Candidate, sweep_file
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.imatrix import Entry, Imatrix
from ggsurgery.jobs.merge_experts import MergeExpertsRequest
from ggsurgery.measure.metrics.perplexity import perplexity
from ggsurgery.measure.variants import Candidates
from ggsurgery.measure.windows import Windows
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.runtime.engine import Engine
from ggsurgery.runtime.expert_mask import ExpertMask
from ggsurgery.runtime.expert_nodes import ExpertHook
from ggsurgery.surgery.prepare import prepare

from .._command import call
from .._small_models import write_small_model
from .._tiny import MODEL, SEARCH_TEXT
from ..fixtures import families
from ..fixtures.network import Network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("moe")


@pytest.fixture(scope="module")
def model(folder):
    return Network(families.recipes()["qwen3moe"], folder).write("moe.gguf")


def observe(path, names, tokens):
    with Engine.open(path, n_ctx=64, n_threads=1) as engine:
        engine.observe(names)
        engine.decode(tokens, logits="all")
        return dict(engine.observed)


TOKENS = np.random.default_rng(3).integers(0, 60, 48).astype(np.int32)


def test_the_sums_are_those_of_the_weighted_outputs(model):
    """‖g f(x)‖, which llama.cpp computes as a node of its own, summed over an expert's tokens."""
    hook = ExpertHook(4)
    with Engine.open(model, n_ctx=64, n_threads=1) as engine:
        engine.set_hook(hook)
        for part in np.split(TOKENS, 2):  # two decodes add up
            engine.reset()
            engine.decode(part, logits="all")
        hook.finish()
    for layer in (0, 5):
        total, counts = np.zeros(4), np.zeros(4)
        names = [f"ffn_moe_weighted-{layer}", f"ffn_moe_probs-{layer}"]
        for part in np.split(TOKENS, 2):
            seen = observe(model, names, part)
            weighted = seen[names[0]].reshape(len(part), 2, -1)
            probs = seen[names[1]].reshape(len(part), 4)
            for token in range(len(part)):
                chosen = np.argsort(-probs[token], kind="stable")[:2]
                for slot, expert in enumerate(chosen):
                    total[expert] += np.linalg.norm(weighted[token, slot].astype(np.float64))
                    counts[expert] += 1
        np.testing.assert_array_equal(hook.layers[layer].counts, counts)
        np.testing.assert_allclose(hook.layers[layer].saliency, total, rtol=1e-5)


def ranking(model, saliency, counts=None, largest=None, layers=tuple(range(8))):
    values = np.tile(np.asarray(saliency, float), (len(layers), 1))
    seen = np.ones_like(values) if counts is None else np.tile(np.asarray(counts, float), (8, 1))
    text = TextSums("a", 1000, seen, values, values)
    found = mixture(read_header(model))
    big = np.ones_like(values) if largest is None else largest
    return Ranking(model, found, layers, (text,), big)


def test_the_best_stay_in_their_order(model):
    header = read_header(model)
    scores = choose.scores(ranking(model, [4, 1, 3, 2]), "reap")
    assert choose.choose(header, scores, 3)[0] == (0, 2, 3)
    assert choose.choose(header, scores, 2)[7] == (0, 2)
    assert choose.choose(header, scores, 2, {7: [1]})[7] == (0, 1)
    assert choose.choose(header, scores, 2, {7: [1]})[6] == (0, 2)


def test_reap_is_a_mean_and_ean_a_sum(model):
    found = ranking(model, [10, 10, 10, 10], counts=[10, 1, 5, 2])
    assert choose.choose(read_header(model), choose.scores(found, "reap"), 2)[0] == (1, 3)
    assert choose.choose(read_header(model), choose.scores(found, "frequency"), 2)[0] == (0, 2)


def test_layers_behind_the_trunk_follow_the_last_that_was_measured(model):
    scores = choose.scores(ranking(model, [4, 1, 3, 2], layers=tuple(range(7))), "reap")
    assert choose.choose(read_header(model), scores, 3)[7] == (0, 2, 3)


def test_a_super_expert_is_guarded(model):
    largest = np.ones((8, 4))
    largest[2, 1] = largest[7, 3] = 1000  # the last layer is behind the guarded depth
    assert ranking(model, [1, 1, 1, 1], largest=largest).guarded() == {2: (1,)}
    assert ranking(model, [1, 1, 1, 1], largest=np.zeros((8, 4))).guarded() == {}


def test_experts_of_one_text_are_named(model):
    one = ranking(model, [9, 1, 1, 1])
    two = ranking(model, [1, 1, 1, 9])
    texts = (one.texts[0], replace(two.texts[0], name="b"))
    both = replace(one, texts=texts)
    own = both.own("reap")
    assert (own["a"][0], own["b"][0]) == ((0,), (3,))
    assert both.pooled(["b"]).saliency[0].tolist() == [1, 1, 1, 9]
    with pytest.raises(PlanError, match="no text 'c'"):
        both.pooled(["c"])


def test_an_importance_matrix_counts_tokens(model):
    header = read_header(model)
    entry = Entry(np.ones((4, 32), np.float32), np.array([5, 0, 9, 7]))
    entries = {f"blk.{n}.ffn_down_exps.weight": entry for n in range(8)}
    found = choose.from_imatrix(Imatrix(entries), header)
    assert choose.choose(header, found, 2)[3] == (2, 3)
    with pytest.raises(FormatError, match="no counts of the model's experts"):
        choose.from_imatrix(Imatrix({}), header)


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("25%", 1), ("49%", 1), ("50 %", 2), ("0%", 0)]
)
def test_numbers_and_shares(model, text, count):
    assert choose.parse_count(text, read_header(model)) == count


@pytest.mark.parametrize("text", ["x", "-1%", "101%", "%", "nan%"])
def test_what_is_neither(model, text):
    with pytest.raises(PlanError):
        choose.parse_count(text, read_header(model))


def test_protected_experts(model):
    found = choose.parse_protected(["3:0,2", "1"], read_header(model))
    assert found[3] == (0, 2, 1) and found[0] == (1,)
    with pytest.raises(PlanError, match="expert 4 does not exist"):
        choose.parse_protected(["4"], read_header(model))
    with pytest.raises(PlanError, match="layer 9 has no experts"):
        choose.parse_protected(["9:0"], read_header(model))


@pytest.fixture
def written(tmp_path, model):
    document = {
        "ggsurgery": "experts",
        "model": {"name": "m", "file": "m.gguf"},
        **ranking(model, [4, 1, 3, 2]).to_json("reap"),
    }
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    return path


def test_a_ranking_file_is_read_back(written, model):
    found, facts = read_ranking(written, read_header(model))
    assert facts.name == "m"
    assert found.texts[0].saliency[2].tolist() == [4, 1, 3, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ggsurgery": "scan"}, "not a ranking of experts"),
        ({"experts": 8}, "the ranking is of another model"),
        ({"experts": "x"}, "field experts"),
        ({"layers": [{"layer": 0}]}, "field"),
        ({"layers": []}, "empty"),
    ],
)
def test_bad_rankings_are_refused(written, model, change, words):
    document = json.loads(written.read_text()) | change
    written.write_text(json.dumps(document))
    with pytest.raises((FormatError, PlanError), match=words) as caught:
        read_ranking(written, read_header(model))
    assert "r.json" in str(caught.value)


def test_delete_by_a_ranking(written, model, tmp_path):
    out = tmp_path / "out.gguf"
    call("experts", "delete", "--drop", "25%", "--ranking", written, model, out)
    assert read_header(out).get("{arch}.expert_count") == 3
    call("experts", "delete", "--keep", "2", "--random", "1", model, tmp_path / "two.gguf")
    call("experts", "delete", "--used", "1", model, tmp_path / "used.gguf")
    assert read_header(tmp_path / "used.gguf").get("{arch}.expert_used_count") == 1


def test_one_clear_line(written, model, tmp_path):
    out = tmp_path / "out.gguf"

    def refused(*options, code=1):
        return call("experts", "delete", *options, model, out, code=code).err

    assert "expected 2 to 4" in refused("--keep", "1", "--ranking", written)
    assert "one of --keep, --drop" in refused("--ranking", written, code=2)
    assert "one of --ranking" in refused("--keep", "3", code=2)
    assert not out.exists()


@pytest.mark.parametrize("arch", ["qwen3moe", "glm4moe", "gpt-oss", "olmoe", "deepseek2"])
def test_masked_experts_are_as_good_as_deleted(folder, arch):
    """Logits of the model with masked experts equal those of the file without them."""
    path = Network(families.recipes()[arch], folder).write(f"{arch}.gguf")
    header = read_header(path)
    kept = {n: (0, 1 + n % 3) for n in mixture(header).layers}
    out = path.with_name(f"{arch}-cut.gguf")
    lists = {str(n): ",".join(map(str, e)) for n, e in kept.items()}
    with prepare(Recipe((step("keep_experts", experts=lists),)), [path]) as prepared:
        prepared.write(out, force=True)
    with Engine.open(out, n_ctx=64, n_threads=1) as engine:
        wanted = engine.decode(TOKENS, logits="all").copy()
    with Engine.open(path, n_ctx=64, n_threads=1) as engine:
        engine.set_hook(ExpertMask({n: sorted({0, 1, 2, 3} - set(e)) for n, e in kept.items()}))
        masked = engine.decode(TOKENS, logits="all").copy()
        engine.reset()
        engine.set_hook(None)
        whole = engine.decode(TOKENS, logits="all").copy()
    assert np.abs(masked - wanted).max() < 1e-3 * np.ptp(wanted)
    assert np.abs(whole - wanted).max() > 1e-2 * np.ptp(wanted)


@pytest.fixture(scope="module")
def worded(folder):
    """With a vocabulary, for the commands that take a text."""
    return write_small_model(
        folder / "worded.gguf", width=64, n_layers=2, n_experts=4, vocabulary_of=MODEL
    )


def test_a_plan_that_only_drops_experts_is_masked(worded):
    """The figures are those of the written file; layers may keep unlike numbers."""
    inputs = tuple(np.random.default_rng(n).integers(5, 400, 40).astype(np.int32) for n in (1, 2))
    windows = Windows(inputs, inputs)
    values = {}
    for route in ("auto", "file"):
        with Candidates(worded, windows, cache_bytes=0, route=route, n_threads=1) as session:
            keep = Recipe((step("keep_experts", experts={"0": "0,2-3", "1": "0-2"}),))
            values[route] = session.nll(keep.apply(session.identity))
            with session.open(keep.apply(session.identity)) as candidate:
                candidate.decode(0, logits="last")
                assert candidate.route == {"auto": "mask", "file": "file"}[route]
            values[f"{route} whole"] = session.nll(session.identity)
            one = Recipe((step("keep_experts", experts={"0": "0,2-3"}),)).apply(session.identity)
            if route == "file":
                with pytest.raises(ArchitectureError, match="another number of experts"):
                    session.nll(one)
            else:
                values["one"] = session.nll(one)
    assert values["auto"] == pytest.approx(values["file"], rel=1e-4)
    assert values["auto whole"] == pytest.approx(values["file whole"], rel=1e-6)
    assert values["auto"] != pytest.approx(values["auto whole"], rel=1e-3)
    assert values["one"] != pytest.approx(values["auto"], rel=1e-3)


def test_a_scan_drops_each_expert_once(worded, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(SEARCH_TEXT.read_text("utf-8")[:3000], "utf-8")
    options = ("--text", text, "--ctx", "64", "--windows", "3", "--json")
    found = json.loads(call("scan", worded, "--op", "drop-expert", *options).out)
    assert [row["position"] for row in found["rows"]] == [n / 4 for n in range(8)]
    kept = {0: (0, 1, 3), 1: (0, 1, 2, 3)}
    base, (row,) = sweep_file(worded, [Candidate("", 3, kept)], text.read_text("utf-8"), 64, 3, 1)
    assert found["base"]["value"] == pytest.approx(base.value, rel=1e-4)
    assert found["rows"][2]["value"] == pytest.approx(row.perplexity.value, rel=1e-4)
    assert len({r["value"] for r in found["rows"]}) == 8
    dense = call("scan", MODEL, "--op", "drop-expert", *options, code=1).err
    assert "not a mixture of experts" in dense


def test_a_sweep_has_the_perplexity_of_the_files(model, tmp_path):
    """Masked, and written: the same figure; and the whole model's is that of `perplexity`."""
    tokens = np.random.default_rng(5).integers(0, 60, 96).astype(np.int32)
    kept = choose.choose(read_header(model), choose.random_scores(read_header(model), 3), 3)
    base, rows = sweep_file(model, [Candidate("random 3", 3, kept)], tokens, 32, 3, 1)
    out = tmp_path / "out.gguf"
    lists = {str(n): ",".join(map(str, e)) for n, e in kept.items()}
    with prepare(Recipe((step("keep_experts", experts=lists),)), [model]) as prepared:
        prepared.write(out)
    values = []
    for path in (model, out):
        with Engine.open(path, n_ctx=64, n_threads=1) as engine:
            values.append(perplexity(engine, tokens, 32, 3).value)
    assert base.value == pytest.approx(values[0], rel=1e-6)
    assert rows[0].perplexity.value == pytest.approx(values[1], rel=1e-4)
    assert values[0] != pytest.approx(values[1], rel=1e-2)


def test_texts_of_one_name_are_refused_for_a_merge_too():
    with pytest.raises(RequestError, match="two texts have one name"):
        MergeExpertsRequest(file="moe.gguf", keep=4, text=["a/code.txt", "b/code.txt"])
