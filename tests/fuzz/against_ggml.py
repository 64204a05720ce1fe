"""Compare verdicts on mutated headers: our reader and `verify` with ggml's own reader.

`gguf_init_from_file` of the installed libggml-base is the judge. A file passes with us when
it is read and `format_findings` has no error. Differences that stay are listed in `CLASSES`
with their reason; any other makes the run fail and keeps the file. For a long run:

    make fuzz        or        python -m tests.fuzz.against_ggml --count 1000000 --seed 7
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import random
import struct
import tempfile
from collections import Counter
from pathlib import Path

from ggsurgery.errors import FormatError
from ggsurgery.ggufio.header import read_header
from ggsurgery.inspect.format import format_findings

from .._gguf import Raw, kv_text, kv_u32, tensor
from .headers import NASTY, mutate, seeds

#: GGML_TYPE_COUNT of the installed ggml.h; `ggml_blck_size` must not be asked beyond it.
N_TYPES = 43

#: Differences that stay: whose verdict is "yes" → begin of our message → reason.
CLASSES: dict[str, dict[str, str]] = {
    "ggml": {
        "tensor reaches over the end of the file": "ggml reads no data here; llama.cpp's loader "
        "refuses the file (llama_tensor_weight in llama-model-loader.h)",
        "the file ends before its data": "the same, for a file that ends within the padding",
        "impossible shape": "a tensor without elements: no model has one, and nothing can be "
        "computed from it; ggml counts it as 0 bytes, and aborts on some such shapes",
        "empty tensor name": "no architecture of llama.cpp asks for it, so its loader refuses it",
        "unusable alignment": "above 1 MiB: every tensor of the output would be padded to it",
        "key too long": "gguf.md allows 65535 bytes, ggml takes a gigabyte",
    },
    "ours": {"big-endian": "files of the other byte order can be edited here; `verify` warns"},
}


class Ggml:
    """`gguf_init_from_file` without data and without tensors; its log is dropped.

    With tensors (`ctx`) it would abort on shapes like 0 × 2^63 - 1, which only it takes.
    """

    class _Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    def __init__(self) -> None:
        spec = importlib.util.find_spec("llama_cpp")  # opened by itself, llama.cpp stays out
        assert spec is not None and spec.origin is not None
        self.base = ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml-base.so"))
        log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._log = log(lambda *_: None)
        self.base.ggml_log_set(self._log, None)
        self.base.gguf_init_from_file.argtypes = [ctypes.c_char_p, self._Parameters]
        self.base.gguf_init_from_file.restype = ctypes.c_void_p
        self.base.gguf_free.argtypes = [ctypes.c_void_p]
        for name in ("ggml_blck_size", "ggml_type_size"):
            function = getattr(self.base, name)
            function.argtypes, function.restype = [ctypes.c_int], ctypes.c_size_t
        self.base.ggml_type_name.restype = ctypes.c_char_p
        #: type → values and bytes of its block; ggml itself says how many types it has
        self.sizes = {}
        for kind in range(N_TYPES):
            if block := self.base.ggml_blck_size(kind):
                self.sizes[kind] = (block, self.base.ggml_type_size(kind))

    def takes(self, path: Path) -> bool:
        """Whether ggml reads the header and finds its tensor list consistent."""
        context = self.base.gguf_init_from_file(str(path).encode(), self._Parameters(True, None))
        if context:
            self.base.gguf_free(context)
        return bool(context)


def ours(path: Path) -> tuple[bool, str]:
    """Our verdict and what it rests on: an error's words, or how the file differs from plain."""
    try:
        header = read_header(path)
    except FormatError as error:
        return False, error.problem
    errors = [f for f in format_findings(header) if f.severity == "error"]
    if header.alignment < 32:  # refused by llama.cpp, not by ggml: tests/look/test_format.py
        errors = [f for f in errors if f.where != "general.alignment"]
    if errors:
        return False, errors[0].problem
    return True, "big-endian" if header.order == ">" else "plain"


def compare(path: Path, ggml: Ggml) -> str:
    """`both take it`, `both refuse it`, or the class of a difference.

    Raises:
        AssertionError: the verdicts differ, and no class says why.
    """
    theirs, (good, why) = ggml.takes(path), ours(path)
    if theirs == good:
        return "both take it" if good else "both refuse it"
    side = "ggml" if theirs else "ours"
    for begin in CLASSES[side]:
        if why.startswith(begin):
            return f"only {side}: {begin}"
    raise AssertionError(f"only {side} takes {path}: {why}")


def tensor_lists(rng: random.Random, ggml: Ggml) -> bytes:
    """A small file with a random tensor list, most of it right: types, shapes, offsets."""
    alignment = rng.choice((32, 32, 32, 64, 8, 1)) if rng.random() < 0.98 else 2**21
    infos, offset = [], 0
    sizes = {t: s for t, s in ggml.sizes.items() if s[0] < 256 or rng.random() < 0.5}
    for number in range(rng.randint(0, 5)):
        kind = rng.choice([*sizes]) if rng.random() < 0.9 else rng.randrange(48)
        block, size = sizes.get(kind, (32, 34))
        shape = [block * rng.randint(1, 3), *(rng.randint(1, 3) for _ in range(rng.randrange(4)))]
        nbytes = size
        for dim in (shape[0] // block, *shape[1:]):
            nbytes *= dim
        if rng.random() < 0.08:
            shape = []
            nbytes = size if block == 1 else 0
        if rng.random() < 0.08 and shape:
            shape[rng.randrange(len(shape))] = rng.choice(NASTY) % 2**64
        name = f"t{number}" if rng.random() < 0.95 else rng.choice(("t0", "", "n" * 64, "n" * 63))
        at = offset if rng.random() < 0.97 else rng.choice((0, offset + alignment, 2**63))
        infos.append(tensor(name, shape, kind, at))
        offset += -(-nbytes // alignment) * alignment
        if offset > 2**16:
            break
    kvs = [kv_text("general.architecture", "llama")]
    if alignment != 32 or rng.random() < 0.5:
        kvs.append(kv_u32("general.alignment", alignment))
    return Raw(kvs, infos, bytes(offset), alignment=alignment).build()


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """`count` files from a seed, half of them mutants; an unexplained one stays in `folder`."""
    rng = random.Random(seed)
    whole, outcomes, path, ggml = seeds(), Counter[str](), folder / "mutant.gguf", Ggml()
    for number in range(count):
        data = mutate(rng.choice(whole), rng) if number % 2 else tensor_lists(rng, ggml)
        if number % 5 == 0:
            data = mutate(data, rng)
        if number % 50 == 3:
            data = data[:4] + struct.pack("<I", rng.choice((1, 2, 3, 4, 2**16, 2**24))) + data[8:]
        path.write_bytes(data)
        try:
            outcomes[compare(path, ggml)] += 1
        except AssertionError as error:
            error.add_note(f"file {number} of seed {seed}")
            raise
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = run(options.count, options.seed, Path(tempfile.mkdtemp()))
    print(json.dumps(dict(outcomes.most_common()), indent=2))
