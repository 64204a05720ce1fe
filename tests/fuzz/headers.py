"""Mutate whole headers and read them: a `FormatError` or a usable header, nothing else.

The test suite runs a few thousand mutants. For a long run:

    python -m tests.fuzz.headers --count 1000000 --seed 7
"""

from __future__ import annotations

import argparse
import random
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path

from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from ggsurgery.arch import rules_for
from ggsurgery.errors import GGSurgeryError
from ggsurgery.ggufio.changes import changes
from ggsurgery.ggufio.reader import Source
from ggsurgery.inspect.summary import summarize
from ggsurgery.inspect.verify import verify
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare

from .._gguf import Raw, kv, kv_array, kv_text, kv_u32, tensor, text

#: Numbers that break arithmetic: around powers of two, and what is negative when signed.
NASTY = sorted(
    {abs(sign + (1 << bits)) for bits in (0, 7, 8, 15, 16, 31, 32, 61, 63) for sign in (-1, 0, 1)}
    | {0, 3, 13, 31, 33, 100, 2**64 - 1, 2**64 - 8, 2**64 - 32}
)


def seeds() -> list[bytes]:
    """Whole files to start from: little and big endian, all value types, several layers."""
    return [_llama("<", 3), _llama(">", 3), _llama("<", 2)]


def _llama(order: str, version: int) -> bytes:
    def numbers(key: str, kind: V, code: str, *values: float) -> bytes:
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        return kv_array(key, kind, len(values), packed, order)

    kvs = [
        kv_text("general.architecture", "llama", order),
        kv_text("general.name", "Tiny 1K", order),
        kv_text("general.size_label", "1K", order),
        kv_u32("general.alignment", 32, order),
        kv_u32("llama.block_count", 3, order),
        kv_u32("llama.context_length", 64, order),
        kv_u32("llama.embedding_length", 8, order),
        kv_u32("llama.attention.head_count", 2, order),
        numbers("llama.attention.head_count_kv", V.INT32, "i", 2, 1, 2),
        numbers("llama.feed_forward_length", V.UINT32, "I", 8, 8, 8),
        kv(
            "llama.attention.layer_norm_rms_epsilon",
            V.FLOAT32,
            struct.pack(order + "f", 1e-5),
            order,
        ),
        kv("x.big", V.UINT64, struct.pack(order + "Q", 2**40), order),
        kv("x.flag", V.BOOL, b"\1", order),
        kv_text("tokenizer.ggml.model", "gpt2", order),
        kv_array(
            "tokenizer.ggml.tokens", V.STRING, 4, b"".join(text(t, order) for t in "abcd"), order
        ),
        numbers("tokenizer.ggml.token_type", V.INT32, "i", 1, 1, 1, 3),
        kv_u32("tokenizer.ggml.eos_token_id", 3, order),
        kv_text("ggsurgery.recipe", '{"operations":[{"delete":{"layer":"1"}}]}', order),
    ]
    infos, offset = [], 0
    for name, shape in [
        ("output_norm.weight", (8,)),
        ("token_embd.weight", (8, 4)),
        *((f"blk.{i}.{n}", (8, 8)) for i in range(3) for n in ("attn_q.weight", "ffn_up.weight")),
    ]:
        infos.append(tensor(name, shape, T.F32, offset, order=order))
        offset += 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    return Raw(
        kvs, infos, bytes(range(256)) * (offset // 256 + 1), order=order, version=version
    ).build()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to six damages: bits, numbers of 1 to 8 bytes, moved or lost stretches, a cut."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(max(1, len(out) - 1))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(NASTY) % (1 << 8 * size)
                out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 2:
                out[at : at + 4] = struct.pack("<I", rng.randrange(16))
            case 3:
                del out[at : at + rng.randint(1, 16)]
            case 4:
                other = rng.randrange(len(out))
                out[at:at] = out[other : other + rng.randint(1, 64)]
            case _ if rng.random() < 0.2:
                del out[at:]
        if not out:
            break
    return bytes(out)


def exercise(path: Path) -> str:
    """Do everything with a file that starts from its header; says how far it came.

    Raises:
        Exception: anything but a `GGSurgeryError` is a bug.
    """
    try:
        with Source(path) as source:
            header = source.header
            for t in header.tensors:
                assert len(source.data(t)) == t.nbytes > 0
            for value in header.metadata.values():
                assert value.value is not None
            source.checksum()
    except GGSurgeryError:
        return "refused"
    outcome = "read"
    for use in (
        lambda: summarize(header),
        lambda: verify(header),
        lambda: rules_for(header, allow_unknown=True).kinds(header),
        lambda: _operate(path),
    ):
        try:
            use()
        except GGSurgeryError:
            continue
        outcome = "used"
    return outcome


def _operate(path: Path) -> None:
    recipe = Recipe((step("delete", layer="1"), step("swap", layers="0,1")), "new")
    with prepare(recipe, [path]) as operation:
        changes(operation.headers[0].metadata, operation.layout.metadata)
        assert operation.layout.n_bytes < 10 * path.stat().st_size + 10_000


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """`count` mutants from a seed; a crash leaves its file at `folder/mutant.gguf`."""
    rng = random.Random(seed)
    whole, outcomes, path = seeds(), Counter[str](), folder / "mutant.gguf"
    for number in range(count):
        path.write_bytes(mutate(rng.choice(whole), rng))
        started = time.process_time()
        try:
            outcomes[exercise(path)] += 1
        except Exception as error:
            error.add_note(f"mutant {number} of seed {seed}: {path}")
            raise
        assert time.process_time() - started < 5, f"mutant {number} of seed {seed} took too long"
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(dict(run(options.count, options.seed, Path(tempfile.mkdtemp()))))
