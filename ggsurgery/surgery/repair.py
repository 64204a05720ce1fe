"""Mend a file whose layers others removed: metadata as the removal should have left it.

with prepare("pruned.gguf", removed=[3, 4]) as repair:
    print(repair.changes)
    repair.write("mended.gguf")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..arch import rules_for, unpruned
from ..errors import PlanError
from ..ggufio.constants import GGUFValueType
from ..ggufio.reader import Source
from ..ggufio.types import Value
from ..plan.text import format_layers
from .layout import FileLayout, lay_out
from .shards import execute_split
from .write import Progress, execute

KEY = "ggsurgery.repaired"


@dataclass(frozen=True)
class Repair:
    """A prepared repair; nothing is written until `write`.

    `changes` holds the keys that change, with their values before (None: missing) and
    after; `tensors` the tensors that do.
    """

    source: Source
    layout: FileLayout
    changes: dict[str, tuple[Value | None, Value | None]]
    tensors: tuple[str, ...]
    warnings: tuple[str, ...]

    def write(
        self,
        out: str | Path,
        *,
        force: bool = False,
        sync: bool = False,
        progress: Progress | None = None,
        split_max_size: int | None = None,
    ) -> Path:
        """Write the mended file; with `split_max_size` several, of which the first is returned.

        Raises:
            OutputError: the output exists, is the input, or does not fit on the disk.
        """
        how: dict[str, Any] = {"force": force, "sync": sync, "progress": progress}
        if split_max_size is None:
            execute(self.layout, [self.source], Path(out), **how)
            return Path(out)
        return execute_split(self.layout, [self.source], Path(out), split_max_size, **how)[0]

    def __enter__(self) -> Repair:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.source.close()


def prepare(path: str | Path, removed: Sequence[int], *, allow_unknown: bool = False) -> Repair:
    """Find out what the removal of `removed` should have changed.

    Args:
        removed: the removed layers, numbered as they stood in the whole model.
        allow_unknown: also mend architectures without a rule file.

    Raises:
        PlanError: nothing is to be mended, or a number cannot have been a layer.
        ArchitectureError: without the layers no file of this architecture can be right.
        FormatError: the file is damaged otherwise.
    """
    source = Source(path)
    try:
        header = source.header
        whole, plan = unpruned(header, removed)
        change = rules_for(header, allow_unknown=allow_unknown).rewrite([whole], plan)
        mended = {k: v for k, v in whole.metadata.items() if k not in change.unset} | change.set
        keys = dict.fromkeys([*header.metadata, *mended])
        changes = {
            k: (header.metadata.get(k), mended.get(k))
            for k in keys
            if header.metadata.get(k) != mended.get(k)
        }
        if not changes and not change.tensors:
            raise PlanError(
                "nothing to mend: the metadata already fits a removal of layers "
                f"{format_layers(sorted(removed))}",
                file=path,
            )
        mended[KEY] = Value.of(
            f"removed layers: {format_layers(sorted(removed))}",
            GGUFValueType.STRING,
            order=header.order,
        )
        layout = lay_out(plan, [whole], change, mended)
        return Repair(source, layout, changes, tuple(change.tensors), layout.warnings)
    except BaseException:
        source.close()
        raise
