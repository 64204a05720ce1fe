"""Templates that would run for ever or fill the memory: refused within seconds, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest

from ggsurgery.chat import limits
from ggsurgery.chat.render import TemplateError, render
from ggsurgery.errors import GGSurgeryError
from ggsurgery.runtime import worker
from tests._command import environment, run
from tests._needs import ROOT

HI = [{"role": "user", "content": "Hi"}]
TIME = "runs for more than"
SPACE = "needs more than 512 MiB"
LENGTH = "prints without end"

#: Runs one template under limits of its own, so that a failure of this test costs no machine.
RUN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
from ggsurgery.chat import render
try:
    from ggsurgery.chat import limits
    limits.SECONDS = 2
except ImportError:
    pass
try:
    print(len(render.render(sys.argv[1], [{"role": "user", "content": "Hi"}])))
except render.TemplateError as error:
    print(error)
"""

BOMBS = {
    "nested ranges": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        TIME,
    ),
    "squaring": (
        "{% set n = namespace(x=3) %}{% for i in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}",
        TIME,
    ),
    "doubling": (
        "{% set n = namespace(x='x') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}",
        SPACE,
    ),
    "doubling lists": (
        "{% set n = namespace(x=[1]) %}{% for i in range(40) %}"
        "{% set n.x = n.x + n.x %}{% endfor %}",
        SPACE,
    ),
    "center": ("{{ ('x' | center(2000000000)) | length }}", SPACE),
    "method center": ("{{ messages[0].content.center(2000000000) | length }}", SPACE),
    "ljust": ("{{ messages[0].content.ljust(2000000000) | length }}", SPACE),
    "zfill": ("{{ messages[0].content.zfill(2000000000) | length }}", SPACE),
    "replace": (
        "{% set n = namespace(x='x' * 100000) %}{{ n.x.replace('x', n.x) | length }}",
        SPACE,
    ),
    "format": ("{{ '{:>2000000000}'.format(1) | length }}", SPACE),
    "filter format": ("{{ '%2000000000d' | format(1) | length }}", SPACE),
    "tojson": ("{{ [[1], [2]] | tojson(indent=1000000000) | length }}", SPACE),
    "slice": ("{{ [1] | slice(1000000000) | list | length }}", SPACE),
    "batch": ("{{ [1] | batch(1000000000, 'x') | list | length }}", SPACE),
    "indent": ("{{ 'a\\nb' | indent(2000000000) | length }}", SPACE),
    "repetition": ("{{ ('x' * 2000000000) | length }}", SPACE),
    "output": ("{% for a in range(9999) %}{{ 'x' * 10000 }}{% endfor %}", LENGTH),
    "date": ("{{ strftime_now('%A' * 10000000) | length }}", ""),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_clear_line_within_seconds(name: str) -> None:
    template, reason = BOMBS[name]
    done = subprocess.run(
        [sys.executable, "-c", RUN, template],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    reasons = (TIME, SPACE) if reason in (TIME, SPACE) else (reason,)  # a busy machine is slow
    assert any(r in done.stdout for r in reasons), done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_template_is_stopped_once_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 1)
    bomb = BOMBS["nested ranges"][0]
    for _ in range(2):
        with pytest.raises(TemplateError, match=r"for more than 1 s\. .*template set"):
            render(bomb, HI)
    start = time.monotonic()
    with pytest.raises(TemplateError, match=TIME):
        render(bomb, HI)
    assert time.monotonic() - start < 0.5
    assert render("{{ messages[0].content }}", HI) == "Hi"


def test_a_template_longer_than_any_is_refused() -> None:
    with pytest.raises(TemplateError, match="the chat template is too long"):
        render("x" * (limits.TEMPLATE + 1), HI)


def test_a_long_conversation_renders_whole() -> None:
    content = "é🙂" * 500_000
    template = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    assert render(template, [{"role": "user", "content": content}]) == 2 * content
    odd = b"\xff<".decode("utf-8", "surrogateescape")  # a token that is not UTF-8
    assert render("{{ eos_token }}", HI, eos_token=odd) == odd


def test_a_conversation_of_other_things_than_data_is_refused() -> None:
    with pytest.raises(TemplateError, match="not plain data"):
        render("{{ tool }}", HI, tool=lambda: 1)


def _render(template: str) -> str:
    return render(template, HI)


def test_the_worker_stops_a_bomb_too() -> None:
    """The suite renders in the worker process."""
    with pytest.raises(GGSurgeryError, match="needs more than 512 MiB"):
        worker.run(_render, BOMBS["center"][0])
    assert worker.run(_render, "{{ messages[0].content }}") == "Hi"


def test_lint_of_a_file_with_a_bomb_ends(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_chat_template(BOMBS["nested ranges"][0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    start = time.monotonic()
    done = run("template", "lint", path, code=1)
    assert f"{TIME} {limits.SECONDS} s" in done.stdout
    assert time.monotonic() - start < 30


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_renderer_ends_with_its_parent_in_the_middle_of_a_bomb() -> None:
    script = (
        "import threading\n"
        "from ggsurgery.chat import render as r\n"
        "from ggsurgery.chat import limits\n"
        "limits.SECONDS = 2\n"
        "r.render('x', [])\n"
        "print(r._RENDERER.child.process.pid, flush=True)\n"
        f"r.render({BOMBS['nested ranges'][0]!r}, [])\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the child still runs")
