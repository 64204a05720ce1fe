"""llama.cpp as the oracle of layer kinds, for every architecture that it can build.

A model made from metadata and saved again carries the patterns as llama.cpp understood
them. The rules must read the same from the metadata alone; architectures without rules
must be refused or come out right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggsurgery.arch import all_rules, rules_for
from ggsurgery.errors import ArchitectureError
from ggsurgery.ggufio.types import Header

from ..fixtures import families, make, operate
from ..fixtures.base import ARCHITECTURES, bare, base
from ..fixtures.llama import Crash
from ..fixtures.network import UNSAVED, Network

WINDOWED = ("window", "chunked", "symmetric")


def test_there_are_more_than_a_hundred() -> None:
    assert len(set(ARCHITECTURES) - set(UNSAVED)) > 100
    assert set(all_rules()) <= set(ARCHITECTURES) | {"wavtokenizer-dec"}


@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if a not in UNSAVED])
def test_kinds_are_those_of_llama_cpp(arch: str, tmp_path: Path) -> None:
    network = Network(families.Recipe(arch), tmp_path)
    header = make.header(network.outline)
    rules = rules_for(header)
    n = header.n_layers
    kinds = rules.kinds(header)
    windows = network.explicit("attention.sliding_window_pattern") or [0] * n
    recurrent = network.explicit("attention.recurrent_layers") or [0] * n
    if not rules.known or rules.rules.refuse:
        if any(windows) or any(recurrent):
            assert _refused(header)
        return
    assert [int(k.attention in WINDOWED) for k in kinds] == windows
    assert [int(k.attention in ("recurrent", "hybrid")) for k in kinds] == recurrent
    if rules.rules.experts and rules.rules.experts.leading:
        assert network.saved is not None
        lead = network.saved.get("{arch}.leading_dense_block_count")
        assert [k.ffn for k in kinds[: lead + 1]] == ["dense"] * lead + ["moe"]


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - set(all_rules())))
def test_without_rules_refused_or_right(arch: str, tmp_path: Path) -> None:
    recipe = families.Recipe(arch, keys=bare)
    network = Network(recipe, tmp_path)
    try:
        _ = network.outline
    except Crash:  # the loader insists on a positional key
        network = Network(families.Recipe(arch), tmp_path)
    source = network.write("source.gguf")
    order = (0, 1, 3, 4, 5, 6, 7)
    try:
        ours = operate.operate(source, order, tmp_path / "ours.gguf")
    except ArchitectureError as error:
        assert arch in str(error)
        return
    files = {"source": source, "ours": ours, "bypass": network.write("bypass.gguf", zero=[2])}
    logits = operate.run(files, recipe.n_tokens)
    kinds = [
        network.explicit(k) or [0]
        for k in ("attention.sliding_window_pattern", "attention.recurrent_layers")
    ]
    assert all(len(set(k)) == 1 for k in kinds), "unlike layers were let through"
    usable = [v for v in logits.values() if not isinstance(v, str) and np.ptp(v) > 0.1]
    if len(usable) == 3 and all(np.isfinite(v).all() for v in usable):
        assert operate.difference(usable[1], usable[2]) < 1e-3


def _refused(header: Header) -> bool:
    order = [i for i in range(header.n_layers) if i != 2]
    try:
        rules_for(header).rewrite([header], operate.plan(order, header.n_layers))
    except ArchitectureError:
        return True
    return False


def test_base_keys_are_what_the_fixtures_say() -> None:
    assert base("llama", 8)["block_count"] == 8
    assert "attention.sliding_window" not in bare("llama", 8)
