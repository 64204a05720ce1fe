"""gguf's constants are loaded alone, and leave `import gguf` as it is for everybody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

ORDERS = {
    "ours first": "import sys, ggsurgery.ggufio.types as t; assert 'gguf' not in sys.modules",
    "gguf first": "import gguf, ggsurgery.ggufio.types",
    "by its parts": "import ggsurgery.ggufio.types; from gguf import quants; import gguf",
}


def run(code: str) -> tuple[str, str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_the_constants_equal_those_of_the_package(order: str) -> None:
    code = (
        "import sys; finders = list(sys.meta_path)\n"
        f"{ORDERS[order]}\n"
        "import gguf.quants\n"
        "from ggsurgery.ggufio.constants import GGMLQuantizationType as ours, GGML_QUANT_SIZES\n"
        "theirs = gguf.constants.GGMLQuantizationType\n"
        "assert gguf.constants is sys.modules['gguf.constants']\n"
        "assert [(m.name, m.value) for m in ours] == [(m.name, m.value) for m in theirs]\n"
        "sizes = [(GGML_QUANT_SIZES[t], gguf.GGML_QUANT_SIZES[o]) for o, t in zip(ours, theirs)]\n"
        "assert sizes and all(a == b for a, b in sizes)\n"
        "assert gguf.quants.dequantize.__module__ == 'gguf.quants'\n"
        "assert sys.meta_path == finders\n"
        "print('equal')"
    )
    assert run(code) == ("equal\n", "")


def test_a_machine_without_gguf_gets_the_import_error() -> None:
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "whole = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, path=None, target=None: ("
        "None if name.split('.')[0] == 'gguf' else whole(name, path, target))\n"
        "import ggsurgery\n"
        "try:\n"
        "    import ggsurgery.ggufio.types\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)"
    )
    assert run(code) == ("No module named 'gguf'\n", "")


@pytest.mark.parametrize("order", ["ours first", "gguf first"])
def test_a_member_can_be_sent_to_another_process(order: str) -> None:
    code = (
        f"{ORDERS[order]}\n"
        "import pickle, sys\n"
        "from ggsurgery.ggufio.constants import GGUFValueType as kind\n"
        "sent = pickle.dumps(kind.STRING)\n"
        "assert pickle.loads(sent) is kind.STRING\n"
        "print('gguf' in sys.modules)"
    )
    assert run(code) == (f"{order == 'gguf first'}\n", "")
