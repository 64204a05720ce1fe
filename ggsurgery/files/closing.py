"""What is closed when its `with` block ends."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Closing(ABC):
    """A context manager that ends with `close`; what it gives to the block is the subclass's."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Release what is held; a second call does nothing."""

    def __exit__(self, *_: object) -> None:
        self.close()
