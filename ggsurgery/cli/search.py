"""search: try configurations within a budget, on one machine or many."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from ..errors import OutputError
from ..files import temporary
from ..files.atomic import atomic_path
from ..files.names import fitting
from ..find.search.disjoint import check_disjoint
from ..find.search.optimize import Budget, Work
from ..find.search.report import Verdict, report
from ..find.search.run import Outcome
from ..find.search.run import search as run_search
from ..find.search.space import KINDS, parse_kinds
from ..find.search.storage import shown
from ..find.search.study import SAMPLERS, Second
from ..ggufio.reader import Source
from ..measure.controls import UNCUT
from ..measure.results.comparison import is_logarithmic
from ..measure.results.score import Score
from ..measure.variants.measure import check_data
from ..plan.recipe import load_recipe
from ..present.numbers import figure_in_words
from ..runtime import worker
from ..runtime.machine import cache_folder
from ._files import FILE
from ._measuring import (
    METRIC_HELP,
    envelope_of,
    files_of,
    force_plot_option,
    in_words,
    measuring_options,
    setup_of,
    unknown_arch_option,
)
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import progress_bar


@click.command()
@click.argument("file", metavar="IN", type=FILE)
@click.option("--study", required=True, metavar="NAME", help="Name of the study, made or joined.")
@click.option(
    "--space",
    default="delete,swap,duplicate,interpolate",
    show_default=True,
    help=f"Operations to try: {', '.join(KINDS)}.",
)
@click.option(
    "--max-ops",
    default=1,
    show_default=True,
    type=click.IntRange(1, 8),
    help="Operations in one configuration. 1 tries every single one.",
)
@click.option("--objective", default="perplexity", show_default=True, help=METRIC_HELP)
@click.option(
    "--second", type=click.Choice(["size", "speed"]), help="A further objective: Pareto front."
)
@click.option(
    "--budget",
    default="200",
    show_default=True,
    metavar="N|TIME",
    help="Configurations in all (200; with several workers it may be a few more), or time of "
    "this worker (90s, 30m, 2h).",
)
@click.option(
    "--storage",
    metavar="URL",
    help="SQLite or journal file (study.db, study.log), PostgreSQL or grpc:// URL. "
    "Default: NAME.db.",
)
@click.option(
    "--sampler",
    default="tpe",
    show_default=True,
    type=click.Choice(SAMPLERS),
    help="Who proposes once the single operations are done; nsga2 suits two objectives.",
)
@click.option(
    "--halving",
    is_flag=True,
    help="Give up on a candidate in the worse half of those seen, after 1, 2, 4 … windows.",
)
@click.option(
    "--enqueue",
    multiple=True,
    type=FILE,
    metavar="RECIPE",
    help="A hand-made recipe (YAML or JSON) as a configuration of the study; may be repeated.",
)
@click.option(
    "--report-text",
    type=FILE,
    help="Measure the winner again on this other text: "
    "perplexity, or KL if that was the objective.",
)
@click.option(
    "--report-data",
    type=FILE,
    help="Or on these other questions: choices, or problems if gsm8k was the objective.",
)
@click.option("--recipes", type=FILE, metavar="FOLDER", help="Write the best recipes here.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Rows shown.")
@click.option("--seed", default=0, show_default=True, help="Of the sampler and the controls.")
@click.option(
    "--heartbeat",
    default=60,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds between signs of life; after three the candidate is given back.",
)
@click.option("--plot", type=FILE, help="Draw all configurations (and the Pareto front).")
@force_plot_option
@measuring_options
@unknown_arch_option
@json_option
def search(
    measuring: dict[str, Any],
    allow_unknown_arch: bool,
    file: Path,
    study: str,
    space: str,
    max_ops: int,
    objective: str,
    second: Second | None,
    budget: str,
    storage: str | None,
    sampler: str,
    halving: bool,
    enqueue: tuple[Path, ...],
    report_text: Path | None,
    report_data: Path | None,
    recipes: Path | None,
    top: int,
    seed: int,
    heartbeat: int,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Search for operations that cost least (or help), within a budget.

    Equal configurations are measured once. Stop and run the same command again: it goes on.
    Run it on further machines with the same --storage: they join. The more configurations
    were tried, the more the best figure owes to luck: --report-text measures the winner and
    its controls on a text that the search has not seen.

    \b
    Example:
      ggsurgery search in.gguf --study cuts --space delete,merge --max-ops 3 --budget 200 \\
          --text calibration.txt --report-text other.txt
      ggsurgery search in.gguf --study cuts --storage postgresql://me@db/studies --budget 2h \\
          --text calibration.txt
    """
    setup = setup_of(file, objective, measuring, allow_unknown_arch=allow_unknown_arch)
    reporting = _reporting(setup, report_text, report_data)
    default = Path(f"{fitting(study)}.db")
    if plot is not None:
        from ..find.plot import check_plot, save_plot

        others = (report_text, report_data, *enqueue, Path(storage or default))
        check_plot(plot, (*files_of(setup), *others), force=force)
    if recipes is not None and recipes.exists() and not recipes.is_dir():
        raise OutputError("not a folder", file=recipes)
    url = storage or str(default)
    place = url if "://" in url else str(Path(url).absolute())
    with Source(file) as source:
        checksum = source.checksum()
    book = _journal(study, place, checksum, setup.facts(), space, max_ops, second)
    work = Work(
        study,
        setup,
        url,
        book,
        parse_kinds(space),
        max_ops,
        parse_budget(budget),
        second=second,
        sampler=sampler,
        seed=seed,
        halving=halving,
        heartbeat=heartbeat,
        recipes=tuple(load_recipe(path) for path in enqueue),
    )
    with progress_bar(f"study {study}", "configuration") as progress:
        found = run_search(work, progress)
    verdict = None
    if reporting is not None and found.ranked:
        with (
            temporary.Folder("report") as folder,
            progress_bar("winner and controls", "candidate") as progress,
        ):
            verdict = report(
                reporting,
                found.ranked[0],
                found.tried,
                folder / "journal.jsonl",
                folder,
                seed=seed,
                progress=progress,
            )
    if recipes is not None:
        _write_recipes(found, recipes, top)
    document = {
        "study": study,
        "storage": shown(url),
        "objective": objective,
        "second": second,
        "tried": found.tried,
        "rows": [r.to_json() for r in found.rows],
        "pareto": [r.number for r in found.front],
        "report": None if verdict is None else verdict.to_json(),
    }
    if plot is not None:
        save_plot(document, plot, force=force)
    if as_json:
        print_json(envelope_of("search", setup) | document)
        return
    _show(found, top, objective, second)
    if verdict is not None:
        echo()
        _show_verdict(verdict)
    elif reporting is not None:
        warn("no configuration could be measured: there is no winner to report on")
    else:
        warn(
            "these figures are of the text that the winner was chosen on; --report-text gives "
            "figures to rely on"
        )


def parse_budget(text: str) -> Budget:
    """`200` configurations, or `90s`, `30m`, `2h`."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        if text[-1:] in units:
            seconds = float(text[:-1]) * units[text[-1]]
            if not math.isfinite(seconds):
                raise ValueError
            return Budget(seconds=seconds)
        return Budget(count=int(text))
    except ValueError:
        raise click.BadParameter(
            f"not a budget: {text!r}; write 200, 90s, 30m or 2h", param_hint="--budget"
        ) from None


def _journal(study: str, *question: Any) -> Path:
    """This machine's own record: one file for each study of each storage and question."""
    folder = cache_folder() / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in study)
    key = hashlib.sha256(repr(question).encode()).hexdigest()[:8]
    return folder / f"{fitting(name)}-{key}.jsonl"


def _reporting(setup: Any, text: Path | None, data: Path | None) -> Any:
    """The reporting set, looked at before the search that it waits for."""
    if text is None and data is None:
        return None
    if text is not None and data is not None:
        raise click.UsageError("the winner is reported on --report-text or on --report-data")
    if text is not None:
        metric = setup.metric if setup.needs_text else "perplexity"
    else:
        kind = setup.metric.partition(":")[0]
        metric = f"{'gsm8k' if kind == 'gsm8k' else 'choices'}:{data}"
    other = replace(setup, metric=metric, text=text)
    worker.run(check_data, other, file=setup.path)
    check_disjoint(setup, other)
    return other


def _write_recipes(found: Outcome, folder: Path, top: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for rank, row in enumerate(found.ranked[:top], 1):
        text = yaml.safe_dump(row.recipe.to_json(), sort_keys=False, allow_unicode=True)
        path = folder / f"{rank:02}-{row.digest[:8]}.yaml"
        with atomic_path(path, force=True) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    note(f"{min(top, len(found.ranked))} recipes in {folder}: `ggsurgery apply` takes them")


def _show(found: Outcome, top: int, objective: str, second: str | None) -> None:
    front = {r.number for r in found.front}
    rows: list[list[Any]] = []
    for rank, row in enumerate(found.ranked, 1):
        if rank > top and not row.hand_made:
            continue
        cells = [
            rank,
            row.recipe.describe(),
            figure_in_words(row.values[0], row.stderr, row.interval),
            row.number,
        ]
        notes = ["hand-made"] * row.hand_made
        if second is not None:
            cells.append(f"{row.values[1]:,.0f}")
            notes += ["front"] * (row.number in front)
        rows.append([*cells, ", ".join(notes)])
    header = ["rank", "operations", objective.partition(":")[0], "trial"]
    if second is not None:
        header.append("bytes" if second == "size" else "tokens/s")
    for row in found.rows:
        if row.hand_made and row.error is not None:
            blank = [None] * (len(header) - 4)
            rows.append([None, row.recipe.describe(), None, row.number, *blank, row.error])
    header.append("")
    echo(table(rows, header))
    failed = found.tried - len(found.ranked)
    note(f"{found.tried} configurations tried, {failed} of them refused, halved away or crashed")


def _show_verdict(verdict: Verdict) -> None:
    metric = verdict.metric.partition(":")[0]
    what = "log ratio to winner" if is_logarithmic(metric) else "difference to winner"
    rows: list[tuple[Any, ...]] = [
        ("winner: " + verdict.winner.recipe.describe(), in_words(verdict.measured), "", "")
    ]
    if UNCUT not in (o.control.name for o in verdict.controls):
        rows.append((UNCUT, in_words(verdict.base), in_words(-verdict.to_base), ""))
    for o in verdict.controls:
        score = o.score if isinstance(o.score, Score) else None
        rows.append((o.control.name, in_words(score), in_words(o.difference), o.refused or ""))
    echo(table(rows, ("on the reporting set", metric, what, "")))
    note(f"the winner of {verdict.tried} configurations; errors are paired")
    if verdict.unbeaten:
        names = "; ".join(verdict.unbeaten)
        note(f"not shown to be better ({verdict.rule}) than: {names}")
    elif len(verdict.controls) > len(verdict.unmeasured):
        note(f"better than every control ({verdict.rule})")
    if verdict.unmeasured:
        note(f"could not be measured: {'; '.join(verdict.unmeasured)}")
