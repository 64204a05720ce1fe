"""The types that computed tensors are written in."""

from __future__ import annotations

from ..errors import PlanError
from ..ggufio.constants import GGMLQuantizationType
from ..ggufio.types import TensorInfo, tensor_nbytes, type_name


class TypeChooser:
    """The type of a computed tensor: as asked, else the source's, else one that loses nothing.

    Raises:
        PlanError: the type asked for cannot be written.
    """

    def __init__(self, asked: int | None) -> None:
        self.asked = asked
        self._unwritable: set[int] = set()
        self._too_long: dict[tuple[int, int], list[str]] = {}
        if asked is not None and not self._writable(asked):
            raise PlanError(
                f"computed tensors cannot be written as {type_name(asked)}",
                expected=", ".join(type_name(t) for t in GGMLQuantizationType if self._writable(t)),
            )

    @staticmethod
    def _writable(kind: int) -> bool:
        from ..tensors.kernels import can_encode
        from ..tensors.scales import NEED_SCALE

        return can_encode(kind) and kind not in NEED_SCALE

    def choose(self, shape: tuple[int, ...], like: TensorInfo, name: str) -> int:
        wanted = like.type if self.asked is None or len(shape) < 2 else self.asked
        if not self._writable(wanted):
            self._unwritable.add(wanted)
            return int(GGMLQuantizationType.F32)
        try:
            tensor_nbytes(shape, wanted)
        except ValueError:
            self._too_long.setdefault((wanted, shape[0]), []).append(name)
            return int(GGMLQuantizationType.F16)
        return wanted

    def warnings(self) -> list[str]:
        """Tensors that did not get the wanted type, one line per reason."""
        notes = [
            f"{type_name(t)} cannot be written without an importance matrix or a separate "
            "scale: computed tensors of that type become f32; choose another type with `out_type`"
            for t in sorted(self._unwritable)
        ]
        for (wanted, columns), names in self._too_long.items():
            kinds = sorted({_suffix(name) for name in names})
            notes.append(
                f"rows of {columns} do not fit {type_name(wanted)}: {len(names)} computed "
                f"tensors become f16: {', '.join(kinds)}"
            )
        return notes


def _suffix(name: str) -> str:
    return name.split(".", 2)[-1] if name.startswith("blk.") else name
