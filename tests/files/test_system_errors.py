"""What the system refuses is one line: the file, what was being done, the next step."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.errors import InputError, OutputError
from ggsurgery.find.search.run import Outcome, Row
from ggsurgery.ggufio import copying
from ggsurgery.jobs.search import SearchRequest
from ggsurgery.measure.base_file import BaseFile
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.release import bundle as release_bundle

from .._command import call, command, environment, error_line
from .._gguf import tiny_llama
from .._mount import tmpfs
from .._shapes import BYTES, small, write_shapes
from .._small_models import write_small_model

#: Commands that read tensors: (arguments before the output, the tensor data is computed with).
WRITING = {
    "delete": ["delete", "--layer", "1", "{in}"],
    "meta": ["meta", "set", "general.license", "mit", "{in}"],
    "merge": ["merge", "--layers", "1-3", "{in}"],
    "interpolate": ["interpolate", "--layers", "1,2", "{in}"],
    "duplicate": ["duplicate", "--layer", "1", "--scale", "0.5", "{in}"],
    "blend": ["blend", "--weights", "0.5,0.5", "{in}", "{in}"],
    "prune": ["prune", "--sparsity", "0.3", "{in}"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "in.gguf", 4)


def failing(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], of: Path, number: int) -> None:
    """Let calls on the descriptors of a file (of its unfinished form, too) fail."""

    def wrap(real: Callable[..., int]) -> Callable[..., int]:
        def fail(descriptor: int, *rest: object) -> int:
            where = Path(f"/proc/self/fd/{descriptor}").readlink().name
            if of.name in where:
                raise OSError(number, os.strerror(number))
            return real(descriptor, *rest)

        return fail

    for name in names:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


def arguments(name: str, model: Path) -> list[str]:
    return [word.format_map({"in": model}) for word in WRITING[name]]


@pytest.mark.parametrize("name", WRITING)
def test_a_source_that_cannot_be_read(tmp_path, monkeypatch, model, name):
    if name == "prune":  # its threshold reads through a memory map, and then like this
        monkeypatch.setattr("ggsurgery.tensors.mapped_pages.populate", lambda _: False)
    failing(monkeypatch, ("pread", "preadv"), model, errno.EIO)
    monkeypatch.delattr(os, "copy_file_range")
    line = error_line(*arguments(name, model), tmp_path / "out.gguf")
    assert line.startswith(f"{model}: ")
    assert "input/output error while reading " in line
    assert "take another copy of the file." in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize(
    ("number", "problem", "hint"),
    [
        (errno.EIO, "input/output error while writing", "or write to another disk."),
        (errno.EROFS, "read-only file system while writing", "Name an output on another disk."),
        (errno.ENOSPC, "the disk ran full while writing", "Free some room and run it again."),
    ],
)
def test_an_output_that_cannot_be_written(
    tmp_path, monkeypatch, model, name, number, problem, hint
):
    failing(monkeypatch, ("pwrite",), tmp_path / "out.gguf", number)
    monkeypatch.delattr(os, "copy_file_range")
    line = error_line(*arguments(name, model), tmp_path / "out.gguf")
    assert line.startswith(f"{tmp_path}/out.gguf: {problem}; nothing was left behind. ")
    assert line.endswith(hint)
    assert list(tmp_path.iterdir()) == []


def test_which_file_the_kernel_could_not_copy(tmp_path, monkeypatch, model):
    """copy_file_range says EIO of either file."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "copy_file_range", fail)
    out = tmp_path / "out.gguf"
    with monkeypatch.context() as patched:
        failing(patched, ("pwrite",), out, errno.EIO)
        assert error_line("delete", "--layer", "1", model, out).startswith(f"{out}: ")
    failing(monkeypatch, ("pread",), model, errno.EIO)
    assert error_line("delete", "--layer", "1", model, out).startswith(f"{model}: ")


@pytest.mark.parametrize(
    "words",
    [
        ["perplexity", "{in}", "--text", "{bad}", "--ctx", "64"],
        ["kl", "{in}", "{in}", "--text", "{bad}", "--ctx", "64"],
        ["imatrix", "{in}", "i.gguf", "--text", "{bad}", "--ctx", "64"],
        ["heal", "--layer", "1", "{in}", "o.gguf", "--text", "{bad}", "--ctx", "64"],
        ["laco", "{in}", "o.gguf", "--text", "{bad}", "--highest", "3", "--ctx", "64"],
        ["scan", "{in}", "--text", "{bad}", "--ctx", "64"],
        ["influence", "{in}", "--text", "{bad}", "--ctx", "64"],
        ["choices", "{in}", "--data", "{bad}"],
        ["apply", "{bad}", "{in}", "o.gguf"],
        ["template", "set", "--from", "{bad}", "{in}", "o.gguf"],
        ["compare", "{bad}", "{bad}"],
        ["report", "{bad}", "-o", "r.html"],
        ["inspect", "{bad}"],
        ["verify", "{bad}"],
        ["delete", "--layer", "1", "{bad}", "o.gguf"],
        ["imatrix", "show", "{bad}"],
    ],
    ids=" ".join,
)
def test_any_input_that_cannot_be_read(tmp_path, monkeypatch, model, words):
    """/proc/self/mem is a regular file whose first byte gives EIO."""
    monkeypatch.chdir(tmp_path)
    bad = "/proc/self/mem"
    line = error_line(*(word.format_map({"in": model, "bad": bad}) for word in words))
    assert line.startswith(f"{bad}: ")
    assert "nput/output error" in line
    assert line.endswith("take another copy of the file.")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_takes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with (tmp_path / "a").open("wb") as file, pytest.raises(OSError, match="accepts no bytes"):
        copying.write_all(file.fileno(), b"x", 0)


def endless(_: object) -> tuple[int, int, int]:
    """As if another program took the room after it was checked."""
    from collections import namedtuple

    return namedtuple("usage", "total used free")(1 << 40, 0, 1 << 40)  # type: ignore[return-value]


def test_a_full_disk_inside_the_quantizer(tmp_path, monkeypatch):
    source = write_small_model(tmp_path / "in.gguf", n_layers=4)
    monkeypatch.setattr("shutil.disk_usage", endless)
    with tmpfs(tmp_path, "size=1m") as disk:
        out = disk / "out.gguf"
        line = error_line("quantize", source, out, "--type", "Q8_0")
        assert line == (
            f"{out}: the disk ran full while writing; nothing was left behind. "
            "Free some room and run it again."
        )
        assert list(disk.iterdir()) == []


def test_a_full_disk_under_a_release(tmp_path, monkeypatch):
    source = tmp_path / "in.gguf"
    source.write_bytes(bytes(1 << 20))
    monkeypatch.setattr("shutil.disk_usage", endless)
    with tmpfs(tmp_path, "size=64k") as disk:
        target = disk / "in.gguf"
        from ggsurgery.files.system_errors import writing

        with pytest.raises(OutputError) as caught, writing(disk, "the bundle"):
            release_bundle._place(source, target)
        assert str(caught.value).startswith(f"{disk}: the disk ran full while writing")


def test_a_difference_that_cannot_be_read(tmp_path, monkeypatch, model):
    other = tmp_path / "other.gguf"
    call("prune", "--sparsity", "0.3", model, other)
    failing(monkeypatch, ("pread",), other, errno.EIO)
    line = error_line("diff", model, other)
    assert line.startswith(f"{other}: input/output error while reading ")
    assert "take another copy of the file." in line


def test_a_full_disk_behind_standard_output(model):
    for more in ([], ["--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command("inspect", model, *more),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
                check=False,
            )
        assert done.returncode == 1
        message = (
            "standard output: cannot print: No space left on device. Check the disk that it is "
            "redirected to."
        )
        (line,) = done.stderr.splitlines()
        error = json.loads(line)["error"]["message"] if more else line
        assert error.removeprefix("ggsurgery: error: ") == message


def test_a_base_file_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "base"
    record = np.ones((1, 4, 12), np.float32)
    with BaseFile.writer(
        path, tokens=np.zeros(8, np.int32), n_ctx=8, k=2, vocabulary=[b"x"] * 12, provenance={}
    ) as write:
        write(record[0, :3], np.zeros(3, np.int32))
    base = BaseFile(path)
    assert len(base.records(0)) == 3

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "fromfile", fail)
    for what, read in {
        "window 0": lambda: base.records(0),
        "the tokens": lambda: BaseFile(path),
    }.items():
        with pytest.raises(InputError, match=f"base: input/output error while reading {what}"):
            read()


def test_a_call_of_an_unknown_file_names_the_command(tmp_path, monkeypatch, model):
    """The last resort: nothing of ours may print the system's words alone."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("ggsurgery.cli.inspect.read_header", fail)
    line = error_line("inspect", model)
    assert line.startswith("input/output error in `ggsurgery inspect`. The disk")


def test_recipes_of_a_search_on_a_full_disk(tmp_path):
    row = Row(0, Recipe((step("delete", layer="1"),)), "d" * 16, (1.0,), None, (), None)
    found = Outcome((row,), (), True)
    with tmpfs(tmp_path, "size=64k") as disk:
        fill = disk / "fill"
        with suppress(OSError):
            fill.write_bytes(bytes(1 << 17))
        with pytest.raises(
            OutputError, match=r"01-dddddddd\.yaml: the disk ran full while writing"
        ):
            SearchRequest(file="m.gguf", study="s", objective="suite")._write(found, disk)
        assert [p.name for p in disk.iterdir()] == ["fill"]


@pytest.mark.parametrize("name", ["delete", "merge", "prune"])
@pytest.mark.parametrize(
    ("of_source", "umask", "expected"),
    [
        (0o644, 0o022, 0o644),
        (0o600, 0o022, 0o600),
        (0o640, 0o022, 0o640),
        (0o644, 0o077, 0o600),
        (0o664, 0o002, 0o664),
    ],
)
def test_an_output_is_as_private_as_its_input(tmp_path, model, name, of_source, umask, expected):
    source = tmp_path / "in.gguf"
    source.write_bytes(model.read_bytes())
    source.chmod(of_source)
    before = os.umask(umask)
    try:
        call(*arguments(name, source), tmp_path / "out.gguf")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.gguf").stat().st_mode) == expected


def test_a_quantized_file_is_as_private_as_its_source(tmp_path):
    source = write_small_model(tmp_path / "in.gguf", n_layers=2)
    source.chmod(0o600)
    call("quantize", source, tmp_path / "out.gguf", "--type", "Q8_0")
    assert stat.S_IMODE((tmp_path / "out.gguf").stat().st_mode) == 0o600


def test_what_is_measured_of_a_private_model_is_private(tmp_path):
    """The calibration text counts too: its tokens are in the base file."""
    source, text = small_chat_model(tmp_path / "in.gguf"), tmp_path / "text.txt"
    text.write_text("Hello, hello, hello. " * 40, encoding="utf-8")
    made = {
        "base": ("kl", source, "--save-base", tmp_path / "base", "-f", text, "-c", "64"),
        "imatrix": ("imatrix", source, tmp_path / "imatrix", "-f", text, "-c", "64"),
        "side": (
            *("heal", source, tmp_path / "out.gguf", "--layer", "1", "-f", text, "-c", "64"),
            *("--tokens", "256", "--few-tokens", "--force"),
            *("--sidecar", tmp_path / "side"),
        ),
    }
    for private in (source, text):
        private.chmod(0o600)
        for name, arguments in made.items():
            call(*arguments)
            found = stat.S_IMODE((tmp_path / name).stat().st_mode)
            assert found == 0o600, (private, name)
            (tmp_path / name).unlink()
            (tmp_path / "out.gguf").unlink(missing_ok=True)
        private.chmod(0o644)
    imatrix = tmp_path / "imatrix"
    call(*made["imatrix"])
    assert stat.S_IMODE(imatrix.stat().st_mode) == 0o644
    imatrix.chmod(0o640)
    call("imatrix", "remap", imatrix, tmp_path / "cut", "--recipe", recipe(tmp_path))
    assert stat.S_IMODE((tmp_path / "cut").stat().st_mode) == 0o640


def test_the_shards_of_a_model_count_each(tmp_path, model):
    call("delete", "--layer", "1", "--split-max-size", "20kB", model, tmp_path / "s.gguf")
    first, *others = sorted(tmp_path.glob("s-*.gguf"))
    others[-1].chmod(0o600)
    call("delete", "--layer", "1", first, tmp_path / "out.gguf")
    assert stat.S_IMODE((tmp_path / "out.gguf").stat().st_mode) == 0o600


def recipe(folder: Path) -> Path:
    path = folder / "r.yaml"
    path.write_text("operations: [{delete: {layer: '1'}}]\n", encoding="utf-8")
    return path


def small_chat_model(path: Path) -> Path:
    return write_shapes(path, small("Small", 3), tokens=BYTES, seed=5)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_folder_has_the_rights_of_the_umask(tmp_path, umask):
    from ggsurgery.files import temporary

    before = os.umask(umask)
    try:
        made = temporary.Folder(out=tmp_path / "bundle")
        made.path.rename(tmp_path / "bundle")
        made.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == 0o777 & ~umask
