"""Run lm-evaluation-harness on a GGUF file and keep its results in its own JSON form."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import GGSurgeryError
from ...files import temporary
from ...files.installation import require
from ...files.progress import Progress
from ...files.system_errors import writing
from ...runtime.engine import Engine
from ..draw import SEED
from ..registry import Direction
from ..results.result_files import directions, directions_of, lm_eval_scores
from ..results.score import Score, provenance
from .model import harness_model
from .tasks import TASKS, write_tasks

#: Solved examples of a published figure fit into this.
N_CTX = 2048


@dataclass(frozen=True, slots=True)
class Bench:
    """The harness's document, the same figures as scores, and what should be known of them."""

    document: Mapping[str, Any]
    scores: tuple[Score, ...]
    n_truncated: int


def require_harness() -> None:
    """Raise an error that names the extra where lm-evaluation-harness is not installed."""
    require("lm_eval", "bench", "bench", package="lm-eval")


def run_bench(
    file: str | Path,
    tasks: Sequence[str],
    *,
    data: str | Path | None = None,
    include_path: str | Path | None = None,
    limit: int | None = None,
    limit_seed: int = SEED,
    shots: int | None = None,
    chat: bool = False,
    n_ctx: int = N_CTX,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Evaluate a file on tasks of the harness. Made to run in a worker process.

    Args:
        tasks: the harness's names: `hellaswag`, `mmlu`, `gsm8k` …
        data: a folder of question files that these tasks read instead of the network.
        include_path: a folder of the user's own task files.
        limit: at most so many questions of each task. Of local data they are drawn, the same
            share of each subject; of the harness's own tasks they are the first ones (of MMLU:
            of each subject).
        limit_seed: which ones are drawn.
        shots: solved examples; None takes the task's own number.
        chat: through the file's chat template.

    Raises:
        MissingExtraError: lm-eval is not installed.
        GGSurgeryError: unknown tasks, missing data, no chat template.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise GGSurgeryError("no such folder of task files", file=include_path)
    with (
        task_files(
            tasks, data, include_path, shots=shots, limit=limit, limit_seed=limit_seed
        ) as include,
        Engine.open(file, n_ctx=n_ctx, n_threads=n_threads) as engine,
    ):
        if chat and not engine.chat_template:
            raise GGSurgeryError(
                "no chat template in the file",
                file=file,
                hint="Add one with `ggsurgery template set`, or leave `chat` out",
            )
        return run_tasks(
            engine,
            tasks,
            include,
            offline=data is not None,
            limit=limit,
            limit_seed=limit_seed,
            shots=shots,
            chat=chat,
            progress=progress,
        )


@contextmanager
def task_files(
    tasks: Sequence[str],
    data: str | Path | None,
    include_path: str | Path | None = None,
    *,
    shots: int | None = None,
    limit: int | None = None,
    limit_seed: int = SEED,
) -> Iterator[list[Path]]:
    """The folders of task files that the harness is to read; see `run_bench`.

    Raises:
        MissingExtraError: lm-eval is not installed.
        GGSurgeryError: missing or damaged data.
    """
    if data is not None:  # before the harness reads them: nothing may ask the network
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with temporary.Folder("bench") as scratch:
        os.environ.setdefault("HF_DATASETS_CACHE", f"{scratch}/cache")
        require_harness()
        folder = scratch / "tasks"
        folder.mkdir()
        if data is not None:
            # names without a local form may be tasks of the user's own
            local = [t for t in tasks if t in TASKS or include_path is None]
            with writing(folder, "the tasks"):
                write_tasks(local, Path(data), folder, shots=shots, limit=limit, seed=limit_seed)
        yield [Path(p) for p in (include_path, data and folder) if p]


def directions_of_task(
    task: str, data: str | Path | None, limit: int | None = None
) -> dict[str, Direction]:
    """The metrics of a task in the harness's order, and which values it calls better.

    Made to run in a worker process, as `run_bench` is; a group has the metrics of its first task.

    Raises:
        MissingExtraError: lm-eval is not installed.
        GGSurgeryError: an unknown task, or missing data.
    """
    with task_files([task], data, limit=limit) as include:
        manager = _manager([task], include, offline=data is not None)
        with _failures_named():
            first = next(iter(manager.load([task])["tasks"].values()))
            return directions(first.higher_is_better())


def _manager(tasks: Sequence[str], include: Sequence[Path], *, offline: bool) -> Any:
    """The harness's `TaskManager`, which lists all tasks."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(
        include_path=list(map(str, include)) or None, include_defaults=not offline
    )
    for task in tasks:
        if task not in manager.all_tasks:
            raise GGSurgeryError(
                f"lm-evaluation-harness has no task {task!r}",
                hint="`lm-eval ls tasks` lists them; `include_path` names a folder of your own",
            )
    return manager


@contextmanager
def _failures_named() -> Iterator[None]:
    try:
        yield
    except (AssertionError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise GGSurgeryError(
            f"lm-evaluation-harness failed: {type(error).__name__}: {error}",
            hint="Check the task files, and the network where the data comes from it",
        ) from error


def run_tasks(
    engine: Engine,
    tasks: Sequence[str],
    include: Sequence[Path],
    *,
    offline: bool,
    limit: int | None = None,
    limit_seed: int = SEED,
    shots: int | None = None,
    chat: bool = False,
    progress: Progress | None = None,
) -> Bench:
    """Evaluate an open model on the tasks of `task_files`; see `run_bench`."""
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    manager = _manager(tasks, include, offline=offline)
    model = harness_model(engine, chat=chat, progress=progress)
    with _failures_named():
        found = simple_evaluate(
            model=model,
            tasks=list(tasks),
            limit=limit,
            num_fewshot=None if offline else shots,
            bootstrap_iters=1000,
            log_samples=True,
            apply_chat_template=chat,
            task_manager=manager,
        )
    samples = found.pop("samples", {})
    document = json.loads(json.dumps(found, default=handle_non_serializable))
    facts = provenance(
        engine.path,
        by="lm-evaluation-harness",
        chat=chat or None,
        limit=limit,
        limit_seed=limit_seed if limit is not None and offline else None,
        n_ctx=engine.n_ctx,
    )
    scores = _scores(document, samples, facts)
    document |= {"model_name": str(engine.path), "ggsurgery_scores": [s.to_json() for s in scores]}
    return Bench(document, tuple(scores), model.n_truncated)


def _scores(
    document: Mapping[str, Any], samples: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[Score]:
    """The harness's figures with the per-question ones behind them, for paired tests."""
    counts = dict(document.get("n-samples", {}))
    groups = document.get("group_subtasks", {})
    made = []
    for task, row in document["results"].items():
        members = [t for t in groups.get(task, ()) if t in samples] or [task]
        if task not in counts:
            counts[task] = {"effective": sum(counts[m]["effective"] for m in members)}
        in_group = any(task in subs for subs in groups.values())
        if in_group:
            continue  # a subject of MMLU: its questions count in the group
        shots = document.get("n-shot", {}).get(members[0])
        for score in lm_eval_scores(task, row, counts[task], directions_of(document, task)):
            metric, _, chosen = score.metric.partition(" (")
            items, ids = _items(samples, members, metric, chosen.rstrip(")") or "none")
            if items and not math.isclose(math.fsum(items) / len(items), score.value, rel_tol=1e-6):
                items, ids = (), ()  # the figure is not their mean, as with log-likelihoods
            where = {**facts, "task": task, "shots": shots, "chance": _chance(samples, members)}
            where = {k: v for k, v in where.items() if v is not None}
            made.append(replace(score, provenance=where, items=items, ids=ids))
    return made


def _items(
    samples: Mapping[str, Any], tasks: Sequence[str], metric: str, chosen: str
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Per-question values of a metric, empty where the harness keeps none."""
    items, ids = [], []
    for task in tasks:
        for sample in samples.get(task, ()):
            value = sample.get(metric)
            if sample.get("filter", "none") == chosen and isinstance(value, int | float):
                items.append(float(value))
                ids.append(str(sample["doc"].get("id", f"{task}-{sample['doc_id']}")))
    return tuple(items), tuple(ids)


def _chance(samples: Mapping[str, Any], tasks: Sequence[str]) -> float | None:
    """The accuracy of guessing, of multiple-choice tasks."""
    sizes = [
        len(s["arguments"])
        for t in tasks
        for s in samples.get(t, ())
        if len(s.get("arguments", ())) > 1
    ]
    return sum(1 / n for n in sizes) / len(sizes) if sizes else None
