"""Hidden states of many windows in a file, so that memory does not grow with the text."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError
from ..files.system_errors import no_room

F32 = NDArray[np.float32]


class States(Sequence[F32]):
    """float32 [n_tokens, width] of each window, in a nameless temporary file.

    Args:
        lengths: tokens of each window.
    """

    def __init__(self, lengths: Sequence[int], width: int) -> None:
        self._lengths, self._width = list(lengths), width
        self._starts = 4 * width * np.concatenate([[0], np.cumsum(self._lengths)])
        self._file = tempfile.TemporaryFile(prefix="ggsurgery-states-")  # noqa: SIM115 - see `close`

    def put(self, index: int, rows: F32) -> None:
        """Keep the states of a window.

        Raises:
            OutputError: the disk is full.
        """
        assert rows.shape == (self._lengths[index], self._width), rows.shape
        try:
            self._file.seek(int(self._starts[index]))
            self._file.write(np.ascontiguousarray(rows, np.float32).data)
        except OSError as error:
            folder = Path(tempfile.gettempdir())
            raise no_room(error, folder) or OutputError(
                f"cannot be written: {error.strerror or error}", file=folder
            ) from error

    @overload
    def __getitem__(self, index: int) -> F32: ...
    @overload
    def __getitem__(self, index: slice) -> list[F32]: ...

    def __getitem__(self, index: int | slice) -> F32 | list[F32]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = self._lengths[index]
        self._file.seek(int(self._starts[index]))
        data = self._file.read(4 * self._width * n)
        return np.frombuffer(data, np.float32).reshape(n, self._width)

    def __len__(self) -> int:
        return len(self._lengths)

    def __del__(self) -> None:
        self._file.close()
