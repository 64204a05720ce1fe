"""The base of all requests: fields that are checked however a request is made."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from ..errors import GGSurgeryError, RequestError
from ..files.progress import Progress
from .faults import fault_of

if TYPE_CHECKING:
    #: A path, or a text that is one; a `Path` once the request is made.
    FilePath = str | Path
    #: Several texts; a single text is refused, since its letters would be taken one by one.
    Texts = list[str] | tuple[str, ...]
    FilePaths = list[str] | list[Path] | tuple[str | Path, ...]
else:
    FilePath = Path
    Texts = tuple[str, ...]
    FilePaths = tuple[Path, ...]

#: The role of a path in the request: a `file` or `folder` that it reads, or an `output`.
Role = Literal["file", "folder", "output"]

S = TypeVar("S", bound="Settings")
R_co = TypeVar("R_co", covariant=True)


def option(
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    short: str | None = None,
    flag: str | None = None,
    old: tuple[str, ...] = (),
    old_keys: tuple[str, ...] = (),
    metavar: str | None = None,
    role: Role = "file",
    joined: bool = False,
) -> msgspec.Meta:
    """A field's meaning, its bounds, and its names on the command line and in recipes.

    Args:
        short: a second, short flag, `-c`.
        flag: the command line's name where it is not the field's.
        old: earlier names, still accepted: flags (`--chunks`) and recipe keys (`chunks`).
        old_keys: further earlier names in recipes.
        metavar: what the help shows for the value.
        role: of a path.
        joined: a list that the command line takes as one text, `A,B`.
    """
    extra = {
        "short": short,
        "flag": flag,
        "old": old,
        "old_keys": (*old, *old_keys),
        "metavar": metavar,
        "role": role,
        "joined": joined,
    }
    bounds: dict[str, Any] = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    return msgspec.Meta(**bounds, description=help, extra=extra)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields with defaults and bounds, frozen; wrong values are refused when one is made.

    Raises:
        RequestError: a value of the wrong type, out of bounds, or one that contradicts another.
    """

    def __post_init__(self) -> None:
        for name, kind, default in _fields(type(self)):
            value = getattr(self, name)
            if value is default:
                continue
            try:
                checked = msgspec.convert(value, kind, dec_hook=path_hook())
            except msgspec.ValidationError as error:
                fault = fault_of(error, kind)
                raise RequestError(
                    f"`{name}`", expected=fault.expected, found=repr(value)[:60]
                ) from None
            if checked is not value:
                msgspec.structs.force_setattr(self, name, checked)
        self.agree()

    def agree(self) -> None:
        """Refuse fields that contradict each other.

        Raises:
            RequestError: names the fields.
        """

    def values(self) -> dict[str, Any]:
        """The fields as keyword arguments."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    def extend(self, kind: Callable[..., S], **more: Any) -> S:
        """A request of another class with these fields and more: the models, the outputs."""
        return kind(**self.values() | more)


def agreeing(check: Callable[[], object]) -> None:
    """Call a check of the library; its errors become a request's errors.

    Raises:
        RequestError: as the check raised it.
    """
    try:
        check()
    except RequestError:
        raise
    except GGSurgeryError as error:
        raise RequestError(
            error.problem, expected=error.expected, found=error.found, hint=error.hint
        ) from None


class Job(Protocol[R_co]):
    """A request that can be run."""

    def check(self) -> list[str]:
        """Refuse what cannot work before the work begins; returns warnings."""
        ...

    def run(self, progress: Progress | None = None) -> R_co:
        """Do the work in a child process."""
        ...


@cache
def _fields(cls: type[Settings]) -> tuple[tuple[str, Any, Any], ...]:
    """Name, type and default of each field."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple((f.name, hints[f.name], f.default) for f in msgspec.structs.fields(cls))


@cache
def field_metadata(cls: type[Settings], name: str) -> dict[str, Any]:
    """The arguments of a field's `option`; empty for a field without one."""
    kind = next(kind for known, kind, _ in _fields(cls) if known == name)
    inside = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for part in inside:  # bounds belong to the number, not to the union of number and None
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, msgspec.Meta):
                bounds = {n: getattr(meta, n) for n in ("ge", "gt", "le", "lt")}
                return {"help": meta.description, **bounds, **(meta.extra or {})}
    return {}


def path_hook(folder: Path | None = None) -> Callable[[type, Any], Any]:
    """msgspec's hook that turns texts into paths, which count from `folder`."""

    def hook(kind: type, value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if kind is Path and isinstance(value, str):
            return Path(value) if folder is None else folder / value
        raise TypeError(f"Expected `path`, got `{type(value).__name__}`")

    return hook
