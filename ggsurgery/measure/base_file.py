"""A compact file of a base model's predictions, for KL without loading the base model.

    magic     8 bytes   b"GGSKL" 0 0 2
    size      4 bytes   of the JSON header, little-endian
    header    JSON      n_ctx, n_windows, n_vocab, k, bos, vocabulary digest, provenance
    tokens    int32     [n_windows · n_ctx]
    records             [n_windows, n_ctx − 1 − n_ctx // 2] of
                        id int32 [k], logp float32 [k], tail float32, target float32

`bos` is the token that stood in front of every window, if one did; `id` and `logp` are the k
likeliest tokens in falling order, `tail` the log of the mass of all others, `target` the
log-probability of the token that really follows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, FormatError
from ..files.atomic import atomic_path, check_output
from ..files.system_errors import reading

MAGIC = b"GGSKL\x00\x00\x02"
_MAX_HEADER = 1 << 20
_FIELDS = ("n_ctx", "n_windows", "n_vocab", "k")

Write = Callable[[NDArray[np.float32], NDArray[np.int32]], None]


def record_type(k: int) -> np.dtype[Any]:
    """The layout of one position."""
    return np.dtype(
        [("id", "<i4", (k,)), ("logp", "<f4", (k,)), ("tail", "<f4"), ("target", "<f4")]
    )


def vocabulary_digest(pieces: Sequence[bytes]) -> str:
    """sha256 (hex) of the tokens with their lengths."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(4, "little") + piece)
    return digest.hexdigest()


class BaseFile:
    """A base file opened for reading; records are read window by window.

    Raises:
        FormatError: wrong magic, fields out of range, or a size that does not match them.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with reading(path), self.path.open("rb") as stream:
            magic = stream.read(len(MAGIC))
            if magic != MAGIC:
                raise FormatError(
                    "not a base file of ggsurgery",
                    file=path,
                    expected=MAGIC,
                    found=magic,
                    hint="Make one with `ggsurgery kl BASE --save-base FILE`",
                )
            size = int.from_bytes(stream.read(4), "little")
            raw = stream.read(size) if size <= _MAX_HEADER else b""
        try:
            header = json.loads(raw)
            numbers = {name: header[name] for name in _FIELDS}
            self.vocabulary_digest = str(header["vocabulary"])
            bos = header["bos"]
            self.bos = None if bos is None else int(bos)
            self.provenance: dict[str, Any] = dict(header["provenance"])
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError("header of the base file is damaged", file=path) from error
        for name, value in numbers.items():
            if not isinstance(value, int) or not 1 <= value <= 2**31 - 1:
                raise FormatError(
                    "header of the base file",
                    file=path,
                    tensor=name,
                    expected="1 to 2147483647",
                    found=value,
                )
        self.n_ctx, self.n_windows = numbers["n_ctx"], numbers["n_windows"]
        self.n_vocab, self.k = numbers["n_vocab"], numbers["k"]
        self._map(len(MAGIC) + 4 + size)

    def _map(self, start: int) -> None:
        rows = self.n_ctx - 1 - self.n_ctx // 2
        if rows < 1 or self.k >= self.n_vocab:
            raise FormatError("header of the base file: n_ctx or k out of range", file=self.path)
        kind = record_type(self.k)
        n_tokens = self.n_windows * self.n_ctx
        expected = start + 4 * n_tokens + self.n_windows * rows * kind.itemsize
        found = self.path.stat().st_size
        if found != expected:
            raise FormatError(
                "base file cut short or damaged",
                file=self.path,
                expected=f"{expected} bytes",
                found=f"{found} bytes",
            )
        with reading(self.path, "the tokens"):
            self.tokens = np.fromfile(self.path, "<i4", n_tokens, offset=start)
        self._rows, self._start = rows, start + 4 * n_tokens
        if self.tokens.min() < 0 or self.tokens.max() >= self.n_vocab:
            raise FormatError("base file: a token is not in its vocabulary", file=self.path)

    def records(self, window: int) -> NDArray[Any]:
        """The records of one window, [positions].

        Raises:
            FormatError: a token id outside the vocabulary.
        """
        kind = record_type(self.k)
        at = self._start + window * self._rows * kind.itemsize
        with reading(self.path, f"window {window}"):
            found = np.fromfile(self.path, kind, self._rows, offset=at)
        if len(found) != self._rows:
            raise FormatError("the base file was cut short meanwhile", file=self.path)
        if found["id"].min() < 0 or found["id"].max() >= self.n_vocab:
            raise FormatError(f"base file: window {window} holds a wrong token", file=self.path)
        return found

    def require_vocabulary(self, pieces: Sequence[bytes]) -> None:
        """Refuse a model with another vocabulary than the base's.

        Raises:
            EngineError: other tokens than those that the file was made with.
        """
        if len(pieces) != self.n_vocab or vocabulary_digest(pieces) != self.vocabulary_digest:
            raise EngineError(
                "the model's vocabulary is not the base file's",
                file=self.path,
                expected=f"{self.n_vocab} tokens, digest {self.vocabulary_digest[:12]}",
                found=f"{len(pieces)} tokens, digest {vocabulary_digest(pieces)[:12]}",
                hint="KL is defined only between models that share a vocabulary",
            )

    @staticmethod
    @contextmanager
    def writer(
        path: str | Path,
        *,
        tokens: NDArray[np.int32],
        n_ctx: int,
        k: int,
        vocabulary: Sequence[bytes],
        provenance: dict[str, Any],
        bos: int | None = None,
        inputs: Sequence[Path] = (),
        force: bool = False,
    ) -> Iterator[Write]:
        """Write a base file window by window; it appears under its name when it is whole.

        Args:
            inputs: the model's files, which it must not replace and whose tighter rights it gets.

        Yields:
            write(log_p float32 [positions, n_vocab], targets int32 [positions]).

        Raises:
            OutputError: the file exists (without `force`) or cannot be written.
        """
        header = {
            "n_ctx": n_ctx,
            "n_windows": len(tokens) // n_ctx,
            "n_vocab": len(vocabulary),
            "k": k,
            "bos": bos,
            "vocabulary": vocabulary_digest(vocabulary),
            "provenance": provenance,
        }
        raw = json.dumps(header).encode()
        rows = len(tokens) // n_ctx * (n_ctx - 1 - n_ctx // 2)
        nbytes = 4 * len(tokens) + rows * record_type(k).itemsize
        check_output(Path(path), inputs, force=force, nbytes=nbytes)
        atomic = atomic_path(Path(path), inputs=inputs, force=force)
        with atomic as temporary, temporary.open("wb") as stream:
            stream.write(MAGIC + len(raw).to_bytes(4, "little") + raw)
            stream.write(tokens.astype("<i4").tobytes())
            yield lambda log_p, targets: _write(stream.write, log_p, targets, k)


def _write(
    write: Callable[[bytes], Any], log_p: NDArray[np.float32], targets: NDArray[np.int32], k: int
) -> None:
    """Turn a window's log-probabilities into records."""
    records = np.zeros(len(targets), record_type(k))
    for i, row in enumerate(log_p):
        best = np.argpartition(row, -k)[-k:]
        best = best[np.lexsort((best, -row[best]))]  # ties: the lower id first, as argmax
        records["id"][i], records["logp"][i] = best, row[best]
        rest = np.exp(row, dtype=np.float64)
        rest[best] = 0
        with np.errstate(divide="ignore"):
            records["tail"][i] = np.log(rest.sum())
        records["target"][i] = row[targets[i]]
    write(records.tobytes())
