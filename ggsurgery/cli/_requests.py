"""Options derived from request classes, and the way a command runs a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import click
import msgspec
from click.core import ParameterSource

from ..errors import GGSurgeryError, RequestError, rename
from ..host import use_threads
from ..jobs.faults import plain_type
from ..jobs.request import Job, Settings, field_metadata
from ._files import FILE
from ._output import warn
from ._progress import progress_bar

F = TypeVar("F", bound=Callable[..., Any])


S = TypeVar("S", bound=Settings)
R = TypeVar("R")


def is_given(option: str) -> bool:
    """Whether the running command's option was typed (not its default)."""
    source = click.get_current_context().get_parameter_source(option)
    return source not in (ParameterSource.DEFAULT, None)


class RequestOption(click.Option):
    """An option whose earlier names are accepted but not shown."""

    def __init__(self, *names: str, old: tuple[str, ...] = (), **attributes: Any) -> None:
        super().__init__([*names, *old], **attributes)
        self.old = old

    def _shown(self) -> RequestOption:
        shown = copy(self)
        shown.opts = [name for name in self.opts if name not in self.old]
        shown.old = ()
        return shown

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return super(RequestOption, self._shown()).get_help_record(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return super(RequestOption, self._shown()).get_error_hint(ctx)


class Maker:
    """Builds requests from the options of a command.

    Args:
        values: of the options, by field.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __call__(self, cls: type[S], why: str = "", **more: Any) -> S:
        """A request with the command's values and these.

        Args:
            why: if given, refuse options without a field in the class, which would have no effect.

        Raises:
            UsageError: a required option is missing, or one has no effect.
            RequestError: a field has a wrong value.
        """
        fields = {f.name: f for f in msgspec.structs.fields(cls)}
        known = {name: value for name, value in self.values.items() if name in fields}
        context = click.get_current_context()
        for option in context.command.params if why else ():
            name = str(option.name)
            if name in self.values and name not in fields and is_given(name):
                used = ", ".join(o for o in option.opts if o.startswith("--"))
                raise click.UsageError(f"{why}: {used} has no effect")
        for name, field in fields.items():
            if field.required and known.get(name) is None and more.get(name) is None:
                raise click.UsageError(f"Missing option '{flag_of(cls, field)}'.")
        return cls(**known | more)


def request_options(
    *classes: type[Settings],
    beside: tuple[type[Settings], ...] = (),
    arguments: tuple[str, ...] = (),
    many: str | None = None,
    several: str | None = None,
    skip: tuple[str, ...] | None = None,
) -> Callable[[F], F]:
    """Add an option for every field of request classes.

    The command receives `request`; with `many` a list, `requests`; with `skip` or several
    classes a `make: Maker`.

    Args:
        classes: alternatives; an option that all of them need is required.
        beside: further requests that the command always makes.
        arguments: fields that are positional, in order.
        many: a positional field that takes several values; each makes a request of its own.
        several: a positional field that takes several values, all for one request.
        skip: fields that the command fills in itself.
    """
    all_classes = (*classes, *beside)
    fields = {
        f.name: (cls, f)
        for cls in reversed(all_classes)
        for f in msgspec.structs.fields(cls)
        if f.name not in (skip or ())
    }
    needed = {name for name, (_, f) in fields.items() if f.required}
    for cls in classes:
        needed &= {f.name for f in msgspec.structs.fields(cls)}

    def add(function: F) -> F:
        @wraps(function)
        def wrapped(*args: Any, **values: Any) -> Any:
            make = Maker({name: values.pop(name) for name in fields})
            try:
                if many is not None:
                    files = make.values[many]
                    values["requests"] = [make(classes[0], **{many: one}) for one in files]
                elif skip is not None or len(all_classes) > 1:
                    values["make"] = make
                else:
                    values["request"] = make(classes[0])
                with use_threads(make.values.get("threads")):
                    return function(*args, **values)
            except RequestError as error:
                raise click.UsageError(str(error.reworded(flags_of(*all_classes)))) from error
            except GGSurgeryError as error:
                raise error.reworded(flags_of(*all_classes)) from error

        command: Any = wrapped
        ordered = sorted(fields.items(), key=lambda item: item[0] not in needed)
        for name, (cls, field) in reversed(ordered):
            if name not in (*arguments, many, several):
                _attach(command, option_of(cls, field, required=name in needed))
        for name in reversed((*arguments, *filter(None, (many, several)))):
            command = _argument(*fields[name], several=name in (many, several))(command)
        return cast(F, command)

    return add


def field_option(cls: type[Settings], name: str) -> Callable[[F], F]:
    """Add the option of one field to a command without a request."""
    (field,) = (f for f in msgspec.structs.fields(cls) if f.name == name)

    def add(function: F) -> F:
        _attach(function, option_of(cls, field, required=False))
        return function

    return add


def output_option(name: str, help: str, *, old: tuple[str, ...]) -> Callable[[F], F]:
    """`-o`, `--out`: a file beside the model that a surgery command writes.

    Args:
        old: earlier names, still accepted.
    """

    def add(function: F) -> F:
        _attach(function, RequestOption("-o", "--out", name, old=old, type=FILE, help=help))
        return function

    return add


def _attach(function: Any, option: click.Option) -> None:
    """Add an existing option, as `click.option` does."""
    function.__dict__.setdefault("__click_params__", []).append(option)


def _argument(
    cls: type[Settings], field: msgspec.structs.FieldInfo, *, several: bool
) -> Callable[[Any], Any]:
    metavar = field_metadata(cls, field.name).get("metavar") or field.name.upper()
    required = several or field.required
    shown = f"{metavar}..." if several else metavar if required else f"[{metavar}]"
    return click.argument(
        field.name, metavar=shown, nargs=-1 if several else 1, required=required, type=FILE
    )


def flag_of(cls: type[Settings], field: msgspec.structs.FieldInfo) -> str:
    """The command line's name of a field: `--parse-special`."""
    return "--" + (field_metadata(cls, field.name).get("flag") or field.encode_name).replace(
        "_", "-"
    )


def flags_of(*classes: type[Settings]) -> Callable[[str], str]:
    """Return a function that puts flags into a message with field names of a request."""
    names = {f.name: flag_of(cls, f) for cls in classes for f in msgspec.structs.fields(cls)}
    return lambda text: rename(text, names)


def option_of(
    cls: type[Settings], field: msgspec.structs.FieldInfo, *, required: bool
) -> RequestOption:
    """The click option of one field."""
    meta = field_metadata(cls, field.name)
    flag, kind = flag_of(cls, field), plain_type(field.type)
    default = None if field.required or field.default is msgspec.NODEFAULT else field.default
    help = flags_of(cls)(meta["help"])
    more: dict[str, Any] = {"help": help, "metavar": meta.get("metavar")}
    old = tuple("--" + name.replace("_", "-") for name in meta.get("old", ()))
    if kind is bool:
        if default is False:
            return RequestOption(flag, field.name, old=old, is_flag=True, **more)
        both = f"{flag}/--no-{flag.removeprefix('--')}"
        return RequestOption(
            both, field.name, old=old, default=default, show_default=default is not None, **more
        )
    names = [n for n in (meta.get("short"), flag) if n]
    if get_origin(kind) is tuple:
        if meta.get("joined"):
            joined = ",".join(map(str, default)) if default else None
            return RequestOption(
                *names,
                field.name,
                old=old,
                required=required,
                default=joined,
                show_default=joined is not None,
                callback=_split,
                **more,
            )
        one = FILE if get_args(kind)[0] is Path else None
        return RequestOption(
            *names, field.name, old=old, required=required, multiple=True, type=one, **more
        )
    if get_origin(kind) is dict:
        return RequestOption(*names, field.name, multiple=True, callback=_pairs, **more)
    return RequestOption(
        *names,
        field.name,
        old=old,
        required=required,
        default=default,
        show_default=default is not None,
        type=_type(kind, meta),
        **more,
    )


def _type(kind: Any, meta: Mapping[str, Any]) -> Any:
    if kind is Path:
        return FILE
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    low = meta.get("gt") if meta.get("ge") is None else meta["ge"]
    high = meta.get("lt") if meta.get("le") is None else meta["le"]
    if low is None and high is None:
        return kind if isinstance(kind, type) else None
    bounds = click.IntRange if kind is int else click.FloatRange
    is_open = {"min_open": meta.get("gt") is not None, "max_open": meta.get("lt") is not None}
    return bounds(low, high, **is_open)


def _split(_context: click.Context, option: click.Parameter, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:
        raise click.BadParameter("the list is empty", param=option)
    return parts


def _pairs(_context: click.Context, option: click.Parameter, texts: Any) -> dict[str, float]:
    """Values of `KEY=NUMBER`."""
    found: dict[str, float] = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            found[key] = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not KEY=NUMBER", param=option) from None
    return found


def warn_of(request: object, texts: Iterable[str]) -> None:
    """Print warnings about a request, with flags for its fields."""
    assert isinstance(request, Settings)
    warn(*map(flags_of(type(request)), texts))


def perform(request: Job[R], what: str, unit: str) -> R:
    """Check a request, run it under a progress bar, and print its warnings."""
    warn_of(request, request.check())
    with progress_bar(what, unit) as progress:
        result = request.run(progress)
    warn_of(request, getattr(result, "warnings", ()))
    return result
