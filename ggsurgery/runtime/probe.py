"""Whether llama.cpp's extra buffers (repacked weights, AMX) survive on this machine.

On some virtual machines a CPU lists AMX and the first quantized matrix product crashes. So a
tiny model with every type that those paths handle is decoded once, in a subprocess, with and
without them; both must agree. The answer is kept for this CPU and library version.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..errors import EngineError, FormatError, OutputError
from ..files import temporary
from ..files.fields import FieldError, Fields, flag, read_json, text
from ..files.text import MAX_SMALL
from . import binding, machine, worker
from .context import Context

#: Overrides the probe: 0 or 1 (off and on, no and yes, false and true).
VARIABLE = "GGSURGERY_EXTRA_BUFFERS"

_NO, _YES = ("0", "off", "no", "false"), ("1", "on", "yes", "true")
_SAYS = dict.fromkeys(_NO, False) | dict.fromkeys(_YES, True)

#: Types for which ggml's CPU backend has repacked or AMX paths.
TYPES = ("Q4_0", "Q4_1", "Q8_0", "Q2_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")

WIDTH, N_TOKENS, N_VOCAB = 256, 48, 64


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of the probe. `reason` is why the extra buffers are not used, if so."""

    survive: bool
    reason: str
    cpu: str
    library: str
    source: str = "probed"

    @classmethod
    def from_json(cls, data: Any) -> Probe:
        """A remembered answer.

        Raises:
            FieldError: a field is missing or of the wrong type.
        """
        fields = Fields(data)
        words = {k: fields.get(k, text) for k in ("reason", "cpu", "library")}
        return cls(fields.get("survive", flag), **words, source="remembered")


def extra_buffers_survive() -> bool:
    """The cached result; probes first if there is none for this CPU and version.

    Raises:
        EngineError: the variable that overrides it is neither yes nor no.
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if not wanted:
        return result().survive
    if wanted not in _SAYS:
        raise EngineError(f"{VARIABLE} is neither yes nor no", expected="0 or 1", found=wanted)
    return _SAYS[wanted]


@cache
def result(again: bool = False) -> Probe:
    """The probe's result, from the cache file if it has this CPU and version.

    Args:
        again: probe again and store the new result.
    """
    key = f"{machine.cpu_digest()}-{binding.installed_version()}"
    known = _read()
    if not again and key in known:
        with contextlib.suppress(FieldError):  # a damaged answer is found again
            return Probe.from_json(known[key])
    found = probe()
    _write({**_read(), key: {k: v for k, v in asdict(found).items() if k != "source"}})
    return found


def probe() -> Probe:
    """Decode a tiny quantized model with extra buffers, in a subprocess."""
    facts = {"cpu": machine.cpu()[0], "library": binding.installed_version()}
    with temporary.Folder("probe") as folder:
        path = folder / "probe.gguf"
        write_model(path)
        plain = worker.run(_last_logits, path, False, timeout=120)
        try:
            extra = worker.run(_last_logits, path, True, timeout=120)
        except EngineError as error:
            return Probe(False, error.problem, **facts)
    if not np.isfinite(extra).all() or _distance(plain, extra) > 0.05:
        return Probe(False, "their results differ from the plain path's", **facts)
    return Probe(True, "", **facts)


def _distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def _last_logits(path: Path, extra_buffers: bool) -> Any:
    tokens = np.append(np.arange(N_TOKENS) % N_VOCAB, 1).astype(np.int32)
    places = np.arange(len(tokens), dtype=np.int32)
    wanted = (places >= N_TOKENS - 1).astype(np.int8)
    with Context(
        path,
        n_ctx=64,
        n_batch=None,
        n_seq=1,
        n_threads=None,
        extra_buffers=extra_buffers,
        unified=False,
    ) as context:
        for part in (slice(0, N_TOKENS), slice(N_TOKENS, None)):  # many tokens at once, and one
            context.run_batch(tokens[part], places[part], np.zeros_like(places[part]), wanted[part])
        return context.logits_of(1)[0].copy()


def cache_file() -> Path:
    """Where answers are kept."""
    return machine.cache_folder() / "probe.json"


def _read() -> dict[str, Any]:
    try:
        found = read_json(cache_file(), MAX_SMALL)
    except FormatError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(known: dict[str, Any]) -> None:
    path = cache_file()
    with contextlib.suppress(OSError):  # without a cache the probe runs each time: one second
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known, indent=2), encoding="utf-8")
        temporary.replace(path)


def write_model(path: Path) -> None:
    """A llama model of random weights, one layer a type, small enough for a second.

    Raises:
        OutputError: the temporary folder cannot be written.
    """
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(N_VOCAB)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(len(TYPES))
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("no_vocab")

    def add(name: str, rows: int, columns: int, kind: str) -> None:
        values = (random.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
        type_id = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(values, type_id), raw_dtype=type_id)

    add("token_embd.weight", N_VOCAB, WIDTH, "Q8_0")
    for i, kind in enumerate(TYPES):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}.weight", WIDTH, WIDTH, kind)
        add(f"blk.{i}.ffn_gate.weight", 2 * WIDTH, WIDTH, kind)
        add(f"blk.{i}.ffn_up.weight", 2 * WIDTH, WIDTH, kind)
        add(f"blk.{i}.ffn_down.weight", WIDTH, 2 * WIDTH, kind)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    add("output.weight", N_VOCAB, WIDTH, "Q6_K")
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        raise OutputError(f"cannot write the probe's model: {error}", file=path) from error
    finally:
        writer.close()


def quantize(values: Any, kind: gguf.GGMLQuantizationType) -> Any:
    """float32 [rows, columns] to the bytes of a ggml type, uint8 [rows, row bytes]."""
    base = binding.ggml()
    rows, columns = values.shape
    size = base.ggml_row_size(int(kind), columns)
    out = np.empty((rows, size), np.uint8)
    pointer = ctypes.c_void_p
    base.ggml_quantize_chunk(
        int(kind),
        values.ctypes.data_as(pointer),
        out.ctypes.data_as(pointer),
        0,
        rows,
        columns,
        None,
    )
    return out
