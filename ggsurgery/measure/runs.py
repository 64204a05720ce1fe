"""Whole measurements of files: open, measure, close. Made to run in a worker process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..files.progress import Progress
from ..runtime.engine import Engine
from .base_file import BaseFile
from .metrics.choices import METRICS, accuracy, longest_prompt, score_choices
from .metrics.kl import kl_divergence, kl_from_file, write_base_file
from .questions import Prompted
from .results.score import Score, provenance
from .suite import data
from .suite.result import SurgeryScore
from .suite.run import N_CTX, run_suite


def kl_of_files(
    base: str | Path,
    other: str | Path,
    text: str,
    *,
    n_ctx: int = 512,
    n_windows: int | None = None,
    parse_special: bool = False,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """KL of one file from another over a text, both models open at once."""
    with (
        Engine.open(base, n_ctx=n_ctx, n_threads=n_threads) as p,
        Engine.open(other, n_ctx=n_ctx, n_threads=n_threads) as q,
    ):
        tokens = p.tokenize_array(text, parse_special=parse_special)
        found = kl_divergence(p, q, tokens, limit=n_windows, progress=progress)
        over = 0 < min(p.n_ctx_train, q.n_ctx_train) < n_ctx
    facts = provenance(
        other,
        base=str(base),
        n_ctx=n_ctx,
        n_windows=len(found.kl) // found.per_window,
        over_trained=over or None,
        parse_special=parse_special or None,
    )
    return found.scores(facts)


def kl_of_base_file(
    other: str | Path,
    base_file: str | Path,
    *,
    n_windows: int | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """KL of a file from a stored base (a lower bound; see `basefile`)."""
    base = BaseFile(base_file)
    with Engine.open(other, n_ctx=base.n_ctx, n_threads=n_threads) as q:
        found = kl_from_file(base, q, limit=n_windows, progress=progress)
        over = 0 < q.n_ctx_train < base.n_ctx
    facts = provenance(
        other,
        base=base.provenance.get("file"),
        base_file=str(base_file),
        n_ctx=base.n_ctx,
        top_k=base.k,
        over_trained=over or None,
        parse_special=base.provenance.get("parse_special"),
    )
    return found.scores(facts)


def save_base_file(
    base: str | Path,
    out: str | Path,
    text: str,
    *,
    n_ctx: int = 512,
    n_windows: int | None = None,
    k: int = 256,
    inputs: Sequence[Path] = (),
    force: bool = False,
    parse_special: bool = False,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Store a base model's predictions for later; see `kl.write_base_file`."""
    with Engine.open(base, n_ctx=n_ctx, n_threads=n_threads) as engine:
        tokens = engine.tokenize_array(text, parse_special=parse_special)
        write_base_file(
            str(out),
            engine,
            tokens,
            k=k,
            limit=n_windows,
            inputs=inputs,
            force=force,
            progress=progress,
            provenance=provenance(base, parse_special=parse_special or None),
        )


def longest_of_file(file: str | Path, prompted: Sequence[Prompted]) -> tuple[int, int]:
    """Tokens of the longest prompt with its choice, and the context that the model was trained
    with (0 if the file does not state it)."""
    with Engine.open(file, n_ctx=64) as engine:
        longest = max((longest_prompt(engine, [p]) for p in prompted), default=0)
        return longest, engine.n_ctx_train


def choices_of_file(
    file: str | Path,
    prompted: Sequence[Prompted],
    *,
    facts: dict[str, Any] | None = None,
    n_ctx: int | None = None,
    longest: int | None = None,
    metrics: Sequence[str] = METRICS,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Score, ...]:
    """Accuracies of a file on questions; the context is as large as the longest one needs.

    Args:
        longest: what `longest_of_file` found, if that is known.

    Raises:
        EngineError: a given `n_ctx` is too small for the longest question.
    """
    if longest is None:
        longest, _ = longest_of_file(file, prompted)
    if n_ctx is not None and n_ctx < longest:
        raise EngineError(
            "the context is too small for the longest question",
            file=file,
            expected=f"at least {longest} tokens",
            found=n_ctx,
            hint=f"Use `ctx` {longest} or fewer `shots`",
        )
    # room for all choices of a question beside their prefix
    with Engine.open(file, n_ctx=n_ctx or longest + 512, n_threads=n_threads) as engine:
        answered = score_choices(engine, prompted, progress=progress)
    return tuple(accuracy(answered, provenance(file, **(facts or {})), metrics))


def suite_of_file(
    file: str | Path,
    *,
    length: data.Length = "default",
    weights: data.Weights | None = None,
    limit: int | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> SurgeryScore:
    """The surgery suite on a file."""
    with Engine.open(file, n_ctx=N_CTX, n_threads=n_threads) as engine:
        return run_suite(
            engine,
            length=length,
            weights=weights,
            limit=limit,
            provenance=provenance(file),
            progress=progress,
        )
