"""Windows of thousands of tokens, which these loaders have fixed: a wrong one is felt beyond it.

The contract tests of these families run a text whose second half stands thousands of
positions behind the first. Here is shown that such a text tells every layer's window apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ..fixtures import families, operate
from ..fixtures.network import Network

KEY = "attention.sliding_window_pattern"
WIDE = [name for name, recipe in families.recipes().items() if recipe.gap]


def test_both_families_with_a_fixed_window_are_here() -> None:
    assert {families.recipes()[name].arch for name in WIDE} == {"llama4", "smallthinker"}


@pytest.mark.parametrize("name", WIDE)
def test_a_wrong_window_of_any_layer_is_felt_beyond_it(name: str, tmp_path: Path) -> None:
    recipe = families.recipes()[name]
    network = Network(recipe, tmp_path)
    windows, order = network.explicit(KEY), range(recipe.n_layer)
    assert windows is not None and 0 < sum(windows) < recipe.n_layer
    # One base for the rotation everywhere, so that only the window tells the files apart.
    keys = network.outline.keys | {"rope.freq_base_swa": network.outline.keys["rope.freq_base"]}
    files = {"right": network.write_in_order("right.gguf", order, keys | {KEY: windows})}
    for layer in order:
        wrong = [w ^ (i == layer) for i, w in enumerate(windows)]
        files[str(layer)] = network.write_in_order(f"{layer}.gguf", order, keys | {KEY: wrong})

    def apart(gap: int) -> list[float]:
        logits = operate.run(files, recipe.n_tokens, gap=gap)
        arrays = [v for v in logits.values() if isinstance(v, np.ndarray)]
        assert len(arrays) == len(files), logits
        return [operate.difference(arrays[0], other) for other in arrays[1:]]

    assert min(apart(recipe.gap)) > 1e-2
    assert max(apart(0)) < 1e-3  # a text within the window cannot tell
