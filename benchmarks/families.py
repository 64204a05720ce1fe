"""Pruning one family after the other: llama-quantize --prune-layers against ggsurgery.

    python benchmarks/families.py [FAMILY …]

Each family is a tiny random model (tests/fixtures) with its kinds of layers mixed as in
the real ones. The yardstick is the unpruned model whose removed layers are turned into
exact bypasses: a right result has its logits. The table goes into the README.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ggsurgery.errors import ArchitectureError
from tests._llama_tools import llama_tool
from tests.fixtures import families, operate
from tests.fixtures.network import Network

REMOVED = ((0,), (2,), (4, 5))
FAMILIES = (
    "llama",
    "mistral3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "qwen3next",
    "qwen35",
    "qwen35moe",
    "gemma2",
    "gemma3",
    "gemma4",
    "gpt-oss",
    "phi3",
    "deepseek2",
    "glm4",
    "glm4moe",
    "lfm2",
    "lfm2moe",
    "granite",
    "granitehybrid",
    "nemotron_h",
    "mamba2",
    "falcon-h1",
    "jamba",
    "smollm3",
    "olmo2",
    "cohere2",
    "llama4",
    "exaone4",
    "ernie4_5-moe",
    "minimax-m2",
    "hunyuan-dense",
    "bailingmoe2",
    "smallthinker",
    "afmoe",
    "minimax-01",
    "exaone-moe",
)


def main() -> None:
    """Print the table, one row a family, as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="default: all")
    asked = parser.parse_args().families
    tool = llama_tool("llama-quantize")
    heads = [" ".join(map(str, gone)) for gone in REMOVED]
    print("| family | " + " | ".join(f"llama-quantize −{h} | ggsurgery −{h}" for h in heads) + " |")
    print("|---" * (1 + 2 * len(REMOVED)) + "|")
    for name in asked or FAMILIES:
        with TemporaryDirectory() as folder:
            cells = compare(name, Path(folder), tool)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def compare(name: str, folder: Path, tool: str) -> list[str]:
    """The cells of one family: for each removal llama-quantize's result and ours."""
    recipe = families.recipes()[name]
    network = Network(recipe, folder)
    source = network.write("source.gguf")
    files, cells = {}, {}
    for gone in REMOVED:
        order = [i for i in range(network.outline.n_layers) if i not in gone]
        files[f"right {gone}"] = network.write(f"right-{gone[0]}.gguf", zero=gone)
        theirs = folder / f"theirs-{gone[0]}.gguf"
        done = subprocess.run(
            [tool, "--prune-layers", ",".join(map(str, gone)), source, theirs, "COPY"],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            files[f"theirs {gone}"] = theirs
        else:
            cells[f"theirs {gone}"] = "stops"
        try:
            ours = operate.operate(source, order, folder / f"ours-{gone[0]}.gguf")
            files[f"ours {gone}"] = ours
        except ArchitectureError:
            cells[f"ours {gone}"] = "refused"
    logits = operate.run(files, recipe.n_tokens)
    for gone in REMOVED:
        for who in ("theirs", "ours"):
            key = f"{who} {gone}"
            if key not in cells:
                cells[key] = verdict(logits[f"right {gone}"], logits[key])
    return [cells[f"{who} {gone}"] for gone in REMOVED for who in ("theirs", "ours")]


def verdict(right: np.ndarray | str, found: np.ndarray | str) -> str:
    """In words: right, wrong by so much of the logits' range, or not loading."""
    if isinstance(right, str):
        return f"no yardstick: {right}"
    if isinstance(found, str):
        return "**does not load**"
    off = operate.difference(right, found)
    return "right" if off < 1e-3 else f"**wrong by {off:.0%}**"


if __name__ == "__main__":
    main()
