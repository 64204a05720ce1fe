"""Readers of text: bounded by the bytes that come out, whatever the name points to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ggsurgery.errors import FormatError, GGSurgeryError
from ggsurgery.files import text
from ggsurgery.files.fields import read_json
from ggsurgery.ggufio.imatrix import read_imatrix
from ggsurgery.measure.questions import load_questions
from ggsurgery.measure.results.result_files import load_results
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.suite.data import load_weights
from ggsurgery.pipeline.document import load_document
from ggsurgery.plan.recipe import load_recipe
from tests._command import command, environment, error_line

READERS = {
    "text": text.read_corpus,
    "json": read_json,
    "questions": load_questions,
    "results": load_results,
    "weights": load_weights,
    "recipe": load_recipe,
    "pipeline": load_document,
    "imatrix": read_imatrix,
    "facts of a setup": lambda path: Setup(Path("a.gguf"), text=Path(path)).facts(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_is_refused_at_once(reader: str, device: str) -> None:
    with pytest.raises(GGSurgeryError, match=f"{device}: a device"):
        READERS[reader](device)


def test_templates_and_values_from_a_device() -> None:
    assert error_line("template", "lint", "/dev/zero").startswith("/dev/zero: a device")
    line = error_line("meta", "set", "a.b", "@/dev/zero", "in.gguf", "out.gguf")
    assert line.startswith("/dev/zero: a device")


def test_the_bound_counts_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"x" * 100)
    assert text.read_bytes(path, 100) == b"x" * 100
    with pytest.raises(FormatError, match=r"t\.txt: the file is too long: expected at most 99"):
        text.read_bytes(path, 99)
    path.write_bytes(b"ab\n" * 3)
    assert [line for _, line in text.lines(path, 9)] == [b"ab\n"] * 3
    with pytest.raises(FormatError, match="too long: expected at most 8 bytes"):
        list(text.lines(path, 8))
    monkeypatch.setattr(text, "MAX_LINE", 2)
    with pytest.raises(FormatError, match="line 1 is too long"):
        list(text.lines(path))


def test_marks_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfa\n\n")
    assert text.read_text(path) == "a\n\n"
    assert text.read_corpus(path) == "\ufeffa\n"  # as llama.cpp's tools read it


@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        ("template render <(echo '{{ messages[0].content }}!') --user Hi", 0, "Hi!"),
        ("template render <(yes x) --user Hi", 1, "the file is too long"),
        ("apply <(cat /dev/zero) in.gguf out.gguf", 1, "the file is too long"),
    ],
)
def test_pipes_of_the_shell(shell: str, code: int, words: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {shell}', "shell", *command()],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == code
