"""A study: made once, joined by any number of workers, bound to one source and one question."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from ...errors import GGSurgeryError
from ...measure.variants.journal import TOPICS
from ...plan.recipe import Recipe
from .enqueue import enqueue
from .space import Space
from .storage import open_storage, optuna, shown

Second = Literal["size", "speed"]
#: Configurations of one generation of NSGA-II: budgets are hundreds, not thousands.
POPULATION = 20
SAMPLERS = ("tpe", "nsga2", "random", "grid")
#: Seconds without a further queued candidate after which another worker sets the study up.
SET_UP = 10.0
#: Points of a grid at most: Optuna lists them all, again for every candidate.
GRID = 100_000


@dataclass(frozen=True)
class Question:
    """What a study asks. Workers with another question cannot join.

    Args:
        source: checksum of the model; facts: metric, text and windows (`Setup.facts`).
        digest: of the search windows' tokens; second: a further objective.
    """

    name: str
    source: str
    facts: dict[str, Any]
    space: Space
    lower_is_better: bool
    digest: str
    second: Second | None = None

    def to_json(self) -> dict[str, Any]:
        facts = {k: v for k, v in self.facts.items() if k != "text"}  # paths differ by machine
        return {
            "source": self.source,
            "windows": self.digest,
            "space": self.space.to_json(),
            "second": self.second,
            **facts,
        }

    @property
    def objectives(self) -> list[str]:
        """What the values are called where others look at the study."""
        first = str(self.facts["metric"]).partition(":")[0]
        return [first] + {"size": ["bytes"], "speed": ["tokens/s"], None: []}[self.second]

    @property
    def directions(self) -> list[str]:
        first = "minimize" if self.lower_is_better else "maximize"
        if self.second is None:
            return [first]
        return [first, "minimize" if self.second == "size" else "maximize"]


def open_study(
    question: Question,
    url: str,
    *,
    sampler: str = "tpe",
    seed: int = 0,
    halving: bool = False,
    heartbeat: int = 60,
    exhaustive: int = 0,
    recipes: Sequence[Recipe] = (),
) -> Any:
    """Make the study, or join it.

    Args:
        sampler: one of SAMPLERS; workers of one study may differ in it.
        exhaustive: how many single operations are queued by the worker that makes the study.
        recipes: hand-made candidates; in a new study they go first.

    Raises:
        GGSurgeryError: the study is about another source, text, metric or space.
    """
    module = optuna()
    storage = open_storage(url, heartbeat)
    options = {
        "study_name": question.name,
        "storage": storage,
        "sampler": make_sampler(sampler, question, seed),
        "pruner": make_pruner(halving),
    }
    made = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            study = module.create_study(directions=question.directions, **options)
        except module.exceptions.DuplicatedStudyError:
            made = False
            study = module.load_study(**options)
        if made:
            study.set_user_attr("question", question.to_json())
            study.set_metric_names(question.objectives)
        else:
            _join(study, question, url)
        enqueue(study, question.space, recipes)
        if "ready" not in study.user_attrs:  # new, or its maker was stopped while it set it up
            _enqueue_singles(study, question.space, exhaustive)
            study.set_user_attr("ready", True)
    return study


def _enqueue_singles(study: Any, space: Space, count: int) -> None:
    """Queue the first single operations that are not queued yet."""
    trials = study.get_trials(deepcopy=False)
    held = {tuple(sorted(t.system_attrs.get("fixed_params", {}).items())) for t in trials}
    for point in islice(space.singles(), count):
        if tuple(sorted(point.items())) not in held:
            study.enqueue_trial(point)


def _join(study: Any, question: Question, url: str) -> None:
    queued, since = -1, time.monotonic()
    while "ready" not in study.user_attrs and time.monotonic() - since < SET_UP:
        if (now := len(study.get_trials(deepcopy=False))) != queued:
            queued, since = now, time.monotonic()
        time.sleep(0.2)
    theirs = study.user_attrs.get("question")
    if not isinstance(theirs, dict):
        raise GGSurgeryError(
            f"the study {question.name!r} is not one of `ggsurgery search`",
            file=shown(url),
            hint="Name another study.",
        )
    for key, ours in question.to_json().items():
        if theirs.get(key) != ours:
            what = TOPICS.get(key, key)
            raise GGSurgeryError(
                f"the study {question.name!r} is about another {what}",
                file=shown(url),
                expected=theirs.get(key),
                found=ours,
                hint="Join it with the same model, text and options, or name another study.",
            )


def make_sampler(name: str, question: Question, seed: int) -> Any:
    """An Optuna sampler by name; each worker draws differently unless the seed is fixed.

    Raises:
        GGSurgeryError: an unknown name, or a grid with too many points.
    """
    samplers = optuna().samplers
    number = None if seed < 0 else seed
    with warnings.catch_warnings():
        # multivariate TPE, constant_liar and a parents' choice of one's own are experimental
        warnings.simplefilter("ignore")
        match name:
            case "tpe":
                found = samplers.TPESampler(seed=number, multivariate=True, constant_liar=True)
            case "nsga2":
                found = samplers.NSGAIISampler(
                    population_size=POPULATION,
                    seed=number,
                    elite_population_selection_strategy=_parents_with_parameters(),
                )
            case "random":
                return samplers.RandomSampler(seed=number)
            case "grid":
                axes = question.space.axes()
                points = math.prod(len(values) for values in axes.values())
                if points > GRID:
                    raise GGSurgeryError(
                        "the grid of this space is too large",
                        expected=f"{GRID:,} points at most",
                        found=f"{points:,}",
                        hint="Give fewer --max-ops or a smaller --space, or another --sampler.",
                    )
                return samplers.GridSampler(axes, seed=number)
            case _:
                raise GGSurgeryError("unknown sampler", expected=" or ".join(SAMPLERS), found=name)
    # A recipe from outside the space is a trial without parameters. Optuna infers the space
    # as what all trials have in common: with one of those, nothing.
    space = _distributions(question.space)
    found.infer_relative_search_space = lambda study, trial: space
    return found


def _distributions(space: Space) -> dict[str, Any]:
    kinds = optuna().distributions
    found = {
        name: kinds.IntDistribution(min(values), max(values))
        if isinstance(values[0], int)
        else kinds.CategoricalDistribution(values)
        for name, values in space.axes().items()
    }
    return {name: d for name, d in found.items() if not d.single()}


def _parents_with_parameters() -> Any:
    from optuna.samplers.nsgaii._elite_population_selection_strategy import (
        NSGAIIElitePopulationSelectionStrategy,
    )

    choose = NSGAIIElitePopulationSelectionStrategy(population_size=POPULATION)
    return lambda study, trials: choose(study, [t for t in trials if t.params])


def make_pruner(halving: bool) -> Any:
    """Successive halving over windows of text: 1, 2, 4 … each time the better half goes on."""
    pruners = optuna().pruners
    if not halving:
        return pruners.NopPruner()
    return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
