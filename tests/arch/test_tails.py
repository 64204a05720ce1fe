"""MTP tails stay the tail, judged by llama.cpp's own draft pass.

The draft of a tail depends on its tensors and on the kind that its place gives it. Fed with
the same hidden states, it must say after every operation what it said before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.verify import verify

from .._command import call, error_line
from ..fixtures import families, operate
from ..fixtures.network import Network

# llama.cpp drafts for mimo2 only with the three projections fused in one tensor, which it
# does not ask for when it makes a model from metadata.
TAILED = [n for n, r in families.recipes().items() if r.tail and r.arch != "mimo2"]
#: Families whose tail has a window or not by its place: stale arrays are felt in the draft.
PLACED = ["cohere2moe with MTP", "step35 with MTP"]


@pytest.fixture(params=TAILED)
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    yield Network(families.recipes()[request.param], tmp_path)


def drafts(files: dict[str, Path]) -> dict[str, np.ndarray | str]:
    return operate.run(files, 40, draft=True)


def test_the_draft_is_the_same_after_every_operation(network: Network) -> None:
    recipe = network.recipe
    source = network.write("source.gguf")
    files = {"source": source}
    for number, (name, order) in enumerate(recipe.orders.items()):
        files[name] = operate.operate(source, order, network.folder / f"{number}.gguf")
    said = drafts(files)
    before = said.pop("source")
    assert isinstance(before, np.ndarray), before
    assert np.isfinite(before).all() and np.ptp(before) > 0.1
    for name, after in said.items():
        if recipe.n_layer - 1 in recipe.orders[name]:
            assert isinstance(after, np.ndarray), f"{name}: {after}"
            assert operate.difference(before, after) < 1e-5, name
        else:
            assert isinstance(after, str) and "doesn't contain MTP" in after, name


@pytest.mark.parametrize("name", PLACED)
def test_a_tail_of_another_kind_is_told_apart(name: str, tmp_path: Path) -> None:
    network = Network(families.recipes()[name], tmp_path)
    order = [i for i in range(network.recipe.n_layer) if i != 2]
    said = drafts(
        {
            "source": network.write("source.gguf"),
            "careless": network.write_in_order("careless.gguf", order, network.pruned(order)),
        }
    )
    before, careless = said["source"], said["careless"]
    assert isinstance(before, np.ndarray) and isinstance(careless, np.ndarray), said
    assert operate.difference(before, careless) > 1e-2


def test_drop_mtp_leaves_the_trunk(network: Network) -> None:
    """By the command: the tail is gone and the logits are those of the bypass."""
    source, out = network.write("source.gguf"), network.folder / "out.gguf"
    tail = network.recipe.n_layer - 1
    call("delete", "--layer", "2", "--drop-mtp", source, out)
    header = read_header(out)
    assert header.n_layers == tail - 1
    assert not header.get("{arch}.nextn_predict_layers")
    assert not [t.name for t in header.tensors if "nextn" in t.name]
    assert not [f for f in verify(header) if f.severity == "error"]
    said = operate.run({"ours": out, "bypass": network.write("bypass.gguf", zero=[2])}, 40)
    ours, bypass = said["ours"], said["bypass"]
    assert isinstance(ours, np.ndarray) and isinstance(bypass, np.ndarray), said
    assert operate.difference(ours, bypass) < 1e-3


@pytest.mark.parametrize(
    "arguments",
    [
        ["delete", "--layer", "8"],
        ["swap", "--layers", "7,8"],
        ["move", "--layer", "8", "--to", "0"],
        ["duplicate", "--layer", "8"],
        ["keep", "--layers", "0-8"],
    ],
)
def test_a_tail_layer_is_named_not_operated_on(arguments: list[str], tmp_path: Path) -> None:
    source = Network(families.recipes()["qwen35 with MTP"], tmp_path).write("source.gguf")
    line = error_line(*arguments, source, tmp_path / "out.gguf")
    assert "layer 8 is a tail (MTP) layer" in line
    assert "Remove the whole tail with --drop-mtp." in line
