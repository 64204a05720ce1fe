"""A surgery decides, checks and looks up each thing once; every command writes the same way."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from ggsurgery.files import atomic
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery import layout, write
from ggsurgery.surgery.prepare import prepare

from .._command import call, environment
from .._gguf import tiny_llama


def counted(monkeypatch: pytest.MonkeyPatch, *functions: Any) -> Counter[str]:
    """Count the calls of functions, under every name that a module of ours has for them."""
    calls: Counter[str] = Counter()
    for function in functions:

        def counting(*args: Any, function: Any = function, **named: Any) -> Any:
            calls[function.__name__] += 1
            return function(*args, **named)

        for module in list(sys.modules.values()):
            if module.__name__.startswith("ggsurgery"):
                for name, value in list(vars(module).items()):
                    if value is function:
                        monkeypatch.setattr(module, name, counting)
    return calls


def test_a_deletion_lays_out_checks_and_looks_up_its_rules_once(tmp_path, monkeypatch):
    from ggsurgery import arch
    from ggsurgery.cli import surgery

    assert surgery.delete is not None  # its modules are loaded
    model = tiny_llama(tmp_path / "in.gguf", 4)
    once = (layout.pieces_of, layout.lay_out, atomic.check_output, arch.rules_for, write.execute)
    calls = counted(monkeypatch, *once)
    call("delete", "--layer", "1", model, tmp_path / "out.gguf")
    assert calls == {function.__name__: 1 for function in once}


def test_the_recipe_is_applied_once(tmp_path, monkeypatch):
    calls = Counter[str]()
    apply = Recipe.apply

    def counting(self: Recipe, plan: Any) -> Any:
        calls["apply"] += 1
        return apply(self, plan)

    monkeypatch.setattr(Recipe, "apply", counting)
    with prepare(Recipe((step("delete", layer="1"),)), [tiny_llama(tmp_path / "in.gguf", 4)]):
        assert calls["apply"] == 1


TOUCHED = """\
import sys
from ggsurgery.cli import main

touched = set()

def profile(frame, event, _):
    code, at = frame.f_code, frame.f_back
    if event != "call" or not code.co_flags & 1:  # a function, not the body of a class
        return
    while at is not None and at.f_code.co_name != "<module>":
        at = at.f_back
    name = frame.f_globals.get("__name__", "")
    outer = None if at is None else at.f_globals.get("__name__")
    if name.startswith("ggsurgery") and outer == "__main__":
        touched.add(name)

sys.setprofile(profile)
try:
    main(sys.argv[1:])
finally:
    sys.setprofile(None)
    print(len(touched), *sorted(touched))
"""


def test_modules_that_a_deletion_touches(tmp_path):
    """The number goes down, not up."""
    words = ["delete", "--layer", "1", tiny_llama(tmp_path / "in.gguf", 4), tmp_path / "out.gguf"]
    done = subprocess.run(
        [sys.executable, "-c", TOUCHED, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert int(done.stdout.split()[0]) <= 58, done.stdout
