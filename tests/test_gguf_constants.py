"""gguf.constants loaded alone is the module that the whole package has afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECKS = {
    "ours first": "import ggsurgery, sys; assert 'gguf' not in sys.modules; import gguf",
    "gguf first": "import gguf, ggsurgery",
    "a submodule first": "import ggsurgery; import gguf.constants",
    "by its parts": "import ggsurgery; from gguf import quants; import gguf",
}


def run(code: str) -> tuple[str, str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


@pytest.mark.parametrize("way", CHECKS)
def test_there_is_one_of_it(way: str) -> None:
    code = (
        f"{CHECKS[way]}\n"
        "import sys, gguf.quants\n"
        "from ggsurgery.ggufio.types import GGMLQuantizationType as ours\n"
        "assert ours is gguf.GGMLQuantizationType is gguf.constants.GGMLQuantizationType\n"
        "assert gguf.constants is sys.modules['gguf.constants']\n"
        "assert gguf.quants.GGMLQuantizationType is ours\n"
        "assert gguf.GGUFReader and gguf.Keys is gguf.constants.Keys\n"
        "print('the same')"
    )
    assert run(code) == ("the same\n", "")


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
