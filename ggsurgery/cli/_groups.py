"""A group of commands with a default command."""

from __future__ import annotations

from typing import Any

import click


class DefaultGroup(click.Group):
    """`GROUP FILE …` is short for `GROUP DEFAULT FILE …`.

    Args:
        default: the command's name.
    """

    def __init__(self, *args: Any, default: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)
