"""The command line: one module per command family, loaded when it is called.

Every command parses its arguments, calls one library function and prints the result. `main` is the
only place where errors become exit codes: 1 for a `GGSurgeryError`, 2 for wrong usage, 130 after
Ctrl-C, 143 after SIGTERM. With `--json` the error is one line of JSON on standard error; a
traceback appears only with `--debug`.
"""

from __future__ import annotations

import importlib
import io
import signal
import sys
from typing import NoReturn

import click

from .. import __version__
from ..errors import GGSurgeryError, did_you_mean, json_text
from ..files import temporary
from ..files.system_errors import system_error
from ..host import plain_terminal
from ._signals import Stopped, ignore_signals, stop_like_ctrl_c

#: command → module below ggsurgery.cli and the name of the click command in it.
COMMANDS: dict[str, str] = {
    "apply": "recipes:apply",
    "ask": "ask:ask",
    "bench": "bench:bench",
    "blend": "blend:blend",
    "bridge": "merge:bridge",
    "choices": "choices:choices",
    "compare": "compare:compare",
    "delete": "surgery:delete",
    "diff": "inspect:diff",
    "distil": "distil:distil",
    "doctor": "doctor:doctor",
    "duplicate": "surgery:duplicate",
    "evaluate": "evaluate:evaluate",
    "example": "example:example",
    "experts": "experts:experts",
    "heal": "heal:heal",
    "imatrix": "imatrix:imatrix",
    "influence": "influence:influence",
    "inspect": "inspect:inspect",
    "interpolate": "merge:interpolate",
    "keep": "surgery:keep",
    "kl": "kl:kl",
    "laco": "laco:laco",
    "lora": "lora:lora",
    "merge": "merge:merge",
    "meta": "meta:meta",
    "move": "surgery:move",
    "perplexity": "perplexity:perplexity",
    "prune": "prune:prune",
    "prune-depth": "prune_depth:prune_depth",
    "prune-width": "prune_width:prune_width",
    "quantize": "quantize:quantize",
    "release": "release:release",
    "repair": "repair:repair",
    "replay": "recipes:replay",
    "report": "report:report",
    "run": "run:run",
    "scan": "scan:scan",
    "schema": "schema:schema",
    "search": "search:search",
    "speed": "speed:speed",
    "swap": "surgery:swap",
    "template": "template:template",
    "tokenizer": "tokenizer:tokenizer",
    "verify": "verify:verify",
    "vocab": "vocab:vocab",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if hint := did_you_mean(args[0], COMMANDS, n=3):
                raise click.UsageError(f"{error.message} {hint}", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ._overview import SECTIONS, SHORT_HELP

        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, SHORT_HELP[name]) for name in names])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ggsurgery")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Operate on GGUF language models: cut, blend, heal, quantize, evaluate, ship.

    \b
    Example:
      ggsurgery inspect in.gguf
      ggsurgery delete --layer 10 in.gguf out.gguf
    """
    ctx.obj = {"debug": debug}
    if plain_terminal():
        ctx.color = False


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if args is None else args
    debug = "--debug" in arguments
    command = next((a for a in arguments if not a.startswith("-")), "")
    stop_like_ctrl_c()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # bytes that are not UTF-8, a plain C locale
            stream.reconfigure(errors="backslashreplace")
    try:
        temporary.sweep_scratch()
        code = cli.main(args=arguments, prog_name="ggsurgery", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        ignore_signals()  # a second Ctrl-C must not interrupt the cleanup
        temporary.remove_all()
        cause = stop.__cause__ if isinstance(stop, click.Abort) else stop
        number = cause.number if isinstance(cause, Stopped) else signal.SIGINT
        click.echo(
            "ggsurgery: interrupted; inputs untouched, nothing half-written left behind", err=True
        )
        sys.exit(128 + number)
    except BrokenPipeError:  # `| head` closed the pipe, which is not an error
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        from ._flags import with_flags

        known = _known(error, command).reworded(lambda text: with_flags(text, command))
        if debug:
            click.echo(f"ggsurgery: error code: {known.code}", err=True)
            raise
        if "--json" in arguments:
            click.echo(json_text({"error": known.to_json()}), err=True)
        else:
            click.echo(f"ggsurgery: error: {known}", err=True)
        sys.exit(known.exit_code)


class UnexpectedError(GGSurgeryError):
    """An internal error of the program."""

    code = "bug"


def _known(error: Exception, command: str) -> GGSurgeryError:
    """The error as a GGSurgeryError."""
    if isinstance(error, GGSurgeryError):
        return error
    if isinstance(error, OSError):
        return system_error(error, f"`ggsurgery {command}`")
    return UnexpectedError(
        f"unexpected {type(error).__name__}: {error}",
        hint="This is a bug, or a damaged file that got too far: please report it with the "
        "traceback that ggsurgery --debug shows.",
    )
