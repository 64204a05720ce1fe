"""The arrays that healing found, and the file that carries them beside a recipe."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..files.atomic import atomic_path, check_output

F32 = NDArray[np.float32]


class Sidecar(Mapping[str, F32]):
    """float32 arrays by key, in numpy's shape [rows, row length]."""

    def __init__(self, arrays: Mapping[str, F32]) -> None:
        self._arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}

    def __getitem__(self, key: str) -> F32:
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def checksum(self, key: str) -> str:
        """sha256 (hex) of an array's shape and values."""
        array = self._arrays[key]
        digest = hashlib.sha256(repr(array.shape).encode())
        digest.update(array.astype("<f4").tobytes())
        return digest.hexdigest()

    @property
    def digest(self) -> str:
        """sha256 (hex) over all arrays, by sorted key."""
        lines = "".join(f"{k} {self.checksum(k)}\n" for k in sorted(self._arrays))
        return hashlib.sha256(lines.encode()).hexdigest()

    def save(self, path: str | Path, *, inputs: Sequence[Path] = (), force: bool = False) -> None:
        """Write an uncompressed .npz that `load` reads.

        Args:
            inputs: the model's files, which it must not replace and whose tighter rights it gets.

        Raises:
            OutputError: the file exists (without `force`) or cannot be written.
        """
        target = Path(path)
        size = sum(a.nbytes for a in self._arrays.values())
        check_output(target, inputs, force=force, nbytes=size)
        atomic = atomic_path(target, inputs=inputs, force=force)
        with atomic as temporary, temporary.open("wb") as file:
            np.savez(file, **self._arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> Sidecar:
        """Read what `save` wrote.

        Raises:
            FormatError: the file is not a sidecar.
        """
        try:
            size = Path(path).stat().st_size
            with zipfile.ZipFile(path) as file:
                for member in file.infolist():  # as they are stored: none is larger than the file
                    if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                        raise ValueError(f"{member.filename} is compressed")
            with np.load(path, allow_pickle=False) as data:
                arrays = {key: data[key] for key in data.files}
                for key, array in arrays.items():
                    if getattr(array, "dtype", None) != np.float32:
                        raise ValueError(f"{key} is not an array of float32")
                return cls(arrays)
        # zipfile and numpy raise what they stumble over, MemoryError for a shape that is a lie
        except (
            OSError,
            ValueError,
            zipfile.BadZipFile,
            TypeError,
            EOFError,
            LookupError,
            NotImplementedError,
            RuntimeError,
            MemoryError,
            SyntaxError,
            struct.error,
        ) as error:
            raise FormatError(
                f"not a sidecar of `ggsurgery heal`: {error}",
                file=path,
                expected="an .npz of float32 arrays",
            ) from error
