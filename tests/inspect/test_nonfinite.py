"""NaN and infinity in weights: `verify --deep` finds them, computing commands refuse."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T

from ggsurgery.errors import EngineError
from ggsurgery.ggufio.header import read_header
from ggsurgery.ggufio.reader import Source
from ggsurgery.inspect.nonfinite import nonfinite_tensors
from tests._command import call
from tests._gguf import tiny_llama
from tests._tiny import MODEL

KINDS = (T.F32, T.F16, T.BF16, T.Q8_0)


def damage(path: Path, name: str, kind: T, *, bad: float = np.nan) -> Path:
    """Put one such number into a tensor (of a quantized type: as the scale of a block of 32)."""
    number = np.array([bad], np.float32)
    raw = (
        number.tobytes()[2:]
        if kind is T.BF16
        else number.astype(np.float32 if kind is T.F32 else np.float16).tobytes()
    )
    with Source(path) as source, path.open("r+b") as file:
        file.seek(source.position(source.header.by_name[name]))
        file.write(raw)
    return path


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_they_are_found_and_counted(tmp_path: Path, kind: T, bad: float) -> None:
    path = tiny_llama(tmp_path / "m.gguf", 3, kind=kind)
    with Source(path) as source:
        assert not list(nonfinite_tensors(source))
    damage(path, "blk.1.ffn_up.weight", kind, bad=bad)
    with Source(path) as source:
        (found,) = nonfinite_tensors(source)
    assert (found.severity, found.where) == ("error", "blk.1.ffn_up.weight")
    count = 32 if kind is T.Q8_0 else 1
    assert found.message.startswith(f"{count} of 6,144 weights are NaN or infinite")


def test_verify_deep_names_them(tmp_path: Path) -> None:
    path = Path(shutil.copy(MODEL, tmp_path / "m.gguf"))
    kind = T(read_header(path).by_name["blk.1.ffn_up.weight"].type)
    damage(path, "blk.1.ffn_up.weight", kind)
    assert call("verify", "--json", path).json["ok"]
    findings = call("verify", "--deep", "--json", path, code=1).json["findings"]
    assert [f["where"] for f in findings if "NaN" in f["problem"]] == ["blk.1.ffn_up.weight"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EngineError("the worker died"), "the worker died"),
        (ValueError("of ours"), "the check failed: ValueError: of ours"),
    ],
)
def test_a_check_that_fails_hides_no_finding_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    path = Path(shutil.copy(MODEL, tmp_path / "m.gguf"))
    damage(path, "blk.1.ffn_up.weight", T(read_header(path).by_name["blk.1.ffn_up.weight"].type))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("ggsurgery.runtime.worker.run", fail)
    monkeypatch.setattr("ggsurgery.runtime.loadable.refusal", lambda _: None)
    findings = call("verify", "--deep", "--json", path, code=1).json["findings"]
    assert [f["where"] for f in findings] == ["blk.1.ffn_up.weight", "tokenizer"]
    assert findings[1]["severity"] == "error" and findings[1]["problem"] == said


@pytest.mark.parametrize(
    "command",
    [
        "merge --layers 1-2 --method mean",
        "interpolate --layers 0,1",
        "bridge --layer 1 --at 0 --scale 0.5",
        "duplicate --layer 1 --scale 0.5",
        "prune --sparsity 0.5",
        "prune --sparsity 0.5 --scope row --largest",
        "blend --weights 1,1 IN",
    ],
)
def test_computing_commands_refuse_by_name(tmp_path: Path, command: str) -> None:
    path = tiny_llama(tmp_path / "m.gguf", 3, kind=T.F16)
    damage(path, "blk.1.ffn_down.weight", T.F16, bad=np.inf)
    out = tmp_path / "out.gguf"
    said = call(*command.replace("IN", str(path)).split(), path, out, code=1).err
    assert not out.exists()
    expected = r"m\.gguf: blk\.1\.ffn_down\.weight \(f16\): .* NaN or infinity"
    assert re.search(expected, " ".join(said.split()))
    call("swap", "--layers", "0,2", path, out)  # what only copies keeps the bytes


@pytest.mark.parametrize(
    "command",
    [
        "duplicate --layer 1 --scale 1e7",
        "duplicate --layer 1 --scale 1e38",
        "bridge --layer 1 --at 0 --scale 1e7 --out-type f16",
        "blend --weights 1e7,1e7 --no-normalize IN",
    ],
)
def test_half_precision_overflow_is_refused(tmp_path: Path, command: str) -> None:
    path, out = tiny_llama(tmp_path / "m.gguf", 3, kind=T.F16), tmp_path / "out.gguf"
    said = call(*command.replace("IN", str(path)).split(), path, out, code=1).err
    assert not out.exists()
    said = " ".join(said.split())
    assert re.search(r"(attn_output|ffn_down|token_embd)\.weight \(f16\): the computed", said)
    assert re.search(r"too large for f16: expected at most 65504, found [\d.e+]+\. Choose", said)
    assert "--out-type" in said
    call(*command.replace("IN", str(path)).split(), "--out-type", "bf16", path, out)
    with Source(out) as source:
        assert not list(nonfinite_tensors(source))


def test_a_factor_beyond_float32_is_refused(tmp_path: Path) -> None:
    path, out = tiny_llama(tmp_path / "m.gguf", 3), tmp_path / "out.gguf"
    said = call("duplicate", "--layer", "1", "--scale", "1e39", path, out, code=1).err
    assert "scale out of range" in said and not out.exists()
