"""Removing feed-forward channels: the right bytes, the same logits where they were zero."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGUFReader

from ggsurgery.arch.asked import asked, surveyed
from ggsurgery.arch.channels import channels
from ggsurgery.errors import ArchitectureError, PlanError
from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.channels import format_channels, parse_channels
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.layout import Compute
from ggsurgery.surgery.prepare import prepare
from ggsurgery.tensors.parts import channel_axis

from ..fixtures import families, operate
from ..fixtures.base import EXPERTS_ONLY
from ..fixtures.network import Network

#: Architectures that cannot lose channels, and the words that say why.
REFUSED = {
    "arctic": "mixtures of experts",
    "bitnet": "a norm over the channels",
    "gemma3n": "a mean over all channels",
    "mamba": "no layer has a tensor ffn_down",
    "mamba2": "no layer has a tensor ffn_down",
    "rwkv6": "no layer has a tensor ffn_down",
    "rwkv7": "no layer has a tensor ffn_down",
}

FAMILIES = [r for r in families.recipes().values() if r.arch not in EXPERTS_ONLY]


def cut(source, out, kept):
    header = read_header(source)
    lists = {str(n): format_channels(kept) for n in channels(header).counts}
    with prepare(Recipe((step("keep_channels", channels=lists),)), [source]) as prepared:
        assert not prepared.faults
        prepared.write(out)
    return out


@pytest.mark.parametrize("recipe", FAMILIES, ids=lambda r: r.name)
def test_a_channel_that_is_zero_changes_no_logit(recipe, tmp_path):
    """In every family that has only dense networks; the others say why they cannot."""
    network = Network(recipe, tmp_path)
    downs = [t for n, t in network.tensors.items() if n.endswith(".ffn_down.weight")]
    words = REFUSED.get(recipe.arch)
    if any("_exps." in name for name in network.tensors):
        words = words or "mixtures of experts"
    for tensor in downs:
        tensor[:, [c for c in range(tensor.shape[1]) if c % 3]] = 0
    source = network.write("in.gguf")
    if words is not None:
        with pytest.raises(ArchitectureError, match=words):
            channels(read_header(source))
        return
    counts = channels(read_header(source)).counts
    assert downs and set(counts.values()) == {t.shape[1] for t in downs}
    out = cut(source, tmp_path / "out.gguf", range(0, min(counts.values()), 3))
    logits = operate.run({"source": source, "out": out}, recipe.n_tokens, gap=recipe.gap)
    for name, found in logits.items():
        assert not isinstance(found, str), f"{name}: {found}"
    if recipe.runs:
        assert np.ptp(logits["source"]) > 0.1
        assert operate.difference(logits["source"], logits["out"]) < 2e-5
    assert not [f for f in verify(read_header(out)) if f.severity == "error"]


def test_the_tensors_that_hold_channels_are_those_of_the_loader():
    """Against the shapes that llama.cpp's own loaders ask for, architecture by architecture."""
    sizes = {f"{many}ff{mark}" for many in ("", "2*") for mark in ("", "0", "~")}
    seen = 0
    for arch in surveyed():
        patterns = asked(arch)
        if any("_exps." in pattern for pattern in patterns):
            continue  # there the size may be that of the experts
        for pattern, entry in patterns.items():
            if pattern.startswith("blk.") and entry.shape and entry.shape != ("?",):
                axes = [n for n, size in enumerate(entry.shape) if size in sizes]
                axis = channel_axis(pattern.removeprefix("blk.{}."))
                if axes or (axis is not None and arch not in ("arctic", "qwen")):
                    assert axes == [axis] or arch in REFUSED, (arch, pattern)
                seen += bool(axes)
    assert seen > 150


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return Network(families.recipes()["qwen3"], tmp_path_factory.mktemp("m")).write("in.gguf")


def test_rows_are_copied_and_columns_are_those_that_stay(qwen3, tmp_path):
    kept = [95, *range(0, 90, 4)]
    lists = {"0-7": kept}
    out = tmp_path / "out.gguf"
    with prepare(Recipe((step("keep_channels", channels=lists),)), [qwen3]) as prepared:
        computed = {p.info.name for p in prepared.layout.pieces if isinstance(p.job, Compute)}
        prepared.write(out)
    assert computed == {f"blk.{n}.ffn_down.weight" for n in range(8)}
    before = {t.name: t.data for t in GGUFReader(qwen3).tensors}
    after = {t.name: t.data for t in GGUFReader(out).tensors}
    assert before.keys() == after.keys()
    for name, data in before.items():
        axis = channel_axis(name.split(".", 2)[-1])
        expected = data if axis is None else data[:, kept] if axis == 0 else data[kept]
        np.testing.assert_array_equal(after[name], expected, name)
    assert read_header(out).get("{arch}.feed_forward_length") == len(kept)


def test_two_steps_are_one_of_the_channels_that_both_leave(qwen3, tmp_path):
    one = step("keep_channels", channels={"0-7": "0-63"})
    two = step("keep_channels", channels={"0-7": "32-63"})
    both = step("keep_channels", channels={"0-7": "32-63"})
    files = []
    for name, steps in {"two": (one, two), "one": (both,)}.items():
        with prepare(Recipe(steps), [qwen3]) as prepared:
            copied = [p for p in prepared.layout.pieces if not isinstance(p.job, Compute)]
            assert len(prepared.layout.pieces) - len(copied) == 8
            files.append(prepared.write(tmp_path / f"{name}.gguf").path)
    first, second = ({t.name: t.data.tobytes() for t in GGUFReader(f).tensors} for f in files)
    assert first == second


def test_layers_that_move_keep_their_channels(qwen3, tmp_path):
    there = step("keep_channels", channels={"0-7": "0-47"})
    cases = {
        "before": (there, step("delete", layer="2")),
        "behind": (step("delete", layer="2"), step("keep_channels", channels={"0-6": "0-47"})),
    }
    files = {}
    for name, steps in cases.items():
        with prepare(Recipe(steps), [qwen3]) as prepared:
            files[name] = prepared.write(tmp_path / f"{name}.gguf").path
    logits = operate.run(files, 40)
    np.testing.assert_array_equal(logits["before"], logits["behind"])


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({0: "0-2"}, "layer 1 would keep another number of channels than layer 0"),
        ({"0-7": "0-96"}, "channel 96 does not exist"),
        ({8: "0-2"}, "layer 8 does not exist"),
        ({0: "0,0"}, "channels of layer 0: channel 0 is named twice"),
        ({0: "mask:AA=="}, "channels of layer 0: no channel would be left"),
        ({0: "mask:?"}, "not a mask of channels"),
        ({0: "x"}, "channels of layer 0"),
        ({"0-1": "0", "1": "0"}, "layer 1 is named twice"),
        ({}, "not a mapping from layers to channels"),
    ],
)
def test_bad_lists_are_refused(qwen3, lists, words):
    with pytest.raises((ArchitectureError, PlanError), match=words):
        prepare(Recipe((step("keep_channels", channels=lists),)), [qwen3])


def test_layers_of_unlike_channels_are_not_blended(qwen3):
    steps = (
        step("keep_channels", channels={"0": "0-47", "1-7": "48-95"}),
        step("merge", layers="0-1"),
    )
    with pytest.raises(PlanError, match="unlike channels cannot be blended"):
        prepare(Recipe(steps), [qwen3])


@pytest.mark.parametrize("channels", [[0], [5, 3], range(1000), [7, 8, 1535], range(1, 999, 2)])
def test_a_list_of_channels_is_read_as_it_was_written(channels):
    assert parse_channels(format_channels(channels)) == tuple(channels)


def test_each_layer_may_keep_its_own_number_where_the_loader_allows(tmp_path):
    source = Network(families.recipes()["deci"], tmp_path).write("in.gguf")
    lists = {"0-3": "0-31", "4-6": "0-63"}
    with prepare(Recipe((step("keep_channels", channels=lists),)), [source]) as prepared:
        out = prepared.write(tmp_path / "out.gguf").path
    widths = [32] * 4 + [64] * 3 + [96]
    assert read_header(out).get("{arch}.feed_forward_length") == widths
    logits = operate.run({"out": out}, 40)
    assert not isinstance(logits["out"], str), logits["out"]
