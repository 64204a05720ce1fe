"""What the commands that measure candidates share: their options and their setup."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from ..ggufio.reader import Source
from ..jobs import cautions
from ..measure.draw import SEED
from ..measure.registry import askable, readers
from ..measure.results.comparison import Difference
from ..measure.results.envelope import envelope
from ..measure.results.score import Score
from ..measure.setup import Setup
from ..present.numbers import figure_in_words
from ._files import FILE
from ._output import warn
from ._texts import ctx_option, parse_special_option, text_option, threads_option

F = TypeVar("F", bound=Callable[..., Any])

METRIC_HELP = (
    f"{', '.join(askable())}. FILE is a JSONL file of questions (MMLU, HellaSwag, word problems). "
    f"{', '.join(readers('text'))} need --text."
)

_OPTIONS = (
    text_option("UTF-8 text for perplexity and KL."),
    ctx_option("Tokens of a window.", least=8),
    click.option(
        "--windows",
        default=8,
        show_default=True,
        type=click.IntRange(0),
        help="How many windows of the text; 0 takes all.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(1),
        help="At most so many questions (choices, gsm8k, suite), the same share a subject.",
    ),
    click.option(
        "--limit-seed", default=SEED, show_default=True, help="Which questions --limit draws."
    ),
    click.option(
        "--score",
        default="acc_norm",
        show_default=True,
        type=click.Choice(["acc", "acc_norm"]),
        help="Which accuracy of choices counts.",
    ),
    click.option(
        "--route",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "suffix", "file", "live"]),
        help="How candidates are loaded: reuse of the layers in front (auto, suffix), a "
        "scratch file in memory (file), or edits of a loaded model (live).",
    ),
    click.option(
        "--cache-mib",
        default=512,
        show_default=True,
        type=click.IntRange(0),
        help="Bound on the hidden states kept for reuse.",
    ),
    parse_special_option,
    threads_option,
)

plot_option = click.option(
    "--plot", type=FILE, help="Draw it: a .svg, or with the extra `plot` a .png or .pdf."
)
force_plot_option = click.option("--force", is_flag=True, help="Replace an existing --plot file.")

#: For commands that do not have it from `surgery_options`.
unknown_arch_option = click.option(
    "--allow-unknown-arch", is_flag=True, help="Operate on an architecture without a rule file."
)
_NAMES = (
    "text",
    "ctx",
    "windows",
    "limit",
    "limit_seed",
    "score",
    "route",
    "cache_mib",
    "parse_special",
    "threads",
)


def measuring_options(function: F) -> F:
    """Add the shared options; the command receives `measuring: dict` for `setup_of`."""

    @wraps(function)
    def wrapped(**values: Any) -> Any:
        shared = {name: values.pop(name) for name in _NAMES}
        return function(measuring=shared, **values)

    command: Any = wrapped
    for option in reversed(_OPTIONS):
        command = option(command)
    return command  # type: ignore[no-any-return]


def setup_of(
    path: Path, metric: str, measuring: dict[str, Any], *, allow_unknown_arch: bool = False
) -> Setup:
    """The setup that a command's options describe."""
    setup = Setup(
        path,
        metric,
        text=measuring["text"],
        n_ctx=measuring["ctx"],
        n_windows=measuring["windows"] or None,
        limit=measuring["limit"],
        limit_seed=measuring["limit_seed"],
        score=measuring["score"],
        cache_bytes=measuring["cache_mib"] << 20,
        route=measuring["route"],
        n_threads=measuring["threads"],
        parse_special=measuring["parse_special"],
        allow_unknown_arch=allow_unknown_arch,
    )
    if setup.needs_text:
        warn(*cautions.of_context(path, setup.n_ctx))
    return setup


def envelope_of(kind: str, setup: Setup, source: Source | None = None) -> dict[str, Any]:
    """What a result says of itself, for `--json`; `source` is the setup's model, if it is open."""
    facts = {k: v for k, v in setup.facts().items() if k != "text"}
    return envelope(kind, setup.path, facts, setup.text if setup.needs_text else None, source)


def files_of(setup: Setup) -> tuple[Path | None, ...]:
    """The files that a setup reads: model, text, questions."""
    return setup.path, setup.text, setup.data


def in_words(figure: Score | Difference | None) -> str | None:
    """`12.3456 ± 0.1234`; without an error the bare figure."""
    if figure is None:
        return None
    return figure_in_words(figure.value, figure.stderr, figure.interval)
