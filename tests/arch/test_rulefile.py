"""Rule files are read strictly: a slip of the pen stops at once, with the place."""

from __future__ import annotations

from importlib import resources

import pytest

from ggsurgery.arch.rulefile import all_rules, parse, rules_of
from ggsurgery.errors import ArchitectureError

GOOD = """
architectures = ["a"]
version = "llama.cpp"
source = ["src/models/a.cpp"]
"""


def test_minimal_file() -> None:
    assert parse(GOOD, "a.toml").architectures == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architectures = [", "invalid TOML"),
        ('architectures = ["a"]', "key 'version' is missing"),
        (GOOD + "windows = 3", "unknown key 'windows'"),
        (GOOD + 'per_layer = "x"', "per_layer: expected a list"),
        (GOOD + "note = 3", "note: wrong type: expected str, found 3"),
        (GOOD + "[window]\nperiod = 3", "window.*key 'pattern' is missing"),
        (GOOD + '[window]\npattern = "sometimes"', "pattern: unknown choice"),
        (GOOD + '[window]\npattern = "array"\nperiod = true', "period: wrong type"),
        (GOOD + "[[prefix]]\ncount = 1", "prefix.*key 'name' is missing"),
        (GOOD + "window = 3", "expected a table"),
        (GOOD + 'file = "b"', "unknown key 'file'"),
    ],
)
def test_slips_are_named(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=f"(?s)a.toml.*{message}"):
        parse(text, "a.toml")


def test_shipped_files_say_where_they_come_from() -> None:
    folder = resources.files("ggsurgery.arch") / "data"
    files = {f.name for f in folder.iterdir() if f.name.endswith(".toml") and f.name[0] != "_"}
    assert {r.file for r in all_rules().values()} == files
    for rules in all_rules().values():
        assert "llama.cpp" in rules.version and "llama-cpp-python" in rules.version
        assert all(s.startswith("src/") for s in rules.source), rules.file


FAMILIES = """llama mistral3 qwen2 qwen2moe qwen3 qwen3moe qwen3next qwen35 qwen35moe gemma2
gemma3 gemma3n gemma4 gpt-oss phi3 deepseek2 glm4 glm4moe lfm2 lfm2moe granite granitehybrid
nemotron_h mamba2 falcon-h1 jamba smollm3 olmo2 cohere2 llama4 exaone4 ernie4_5-moe minimax-m2
hunyuan-dense bailingmoe2 smallthinker afmoe"""


def test_the_families_of_the_day_have_rules() -> None:
    assert set(FAMILIES.split()) <= set(all_rules())


def test_one_architecture_is_found_without_parsing_all_files() -> None:
    assert rules_of("no-such-architecture") is None
    for name, rules in all_rules().items():
        assert rules_of(name) == rules
