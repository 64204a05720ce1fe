"""New configurations from a sampler, without a trial for each one that it draws again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .storage import optuna

#: Attribute of a trial whose plan another trial has: the number of that one.
SAME_AS = "same_as"
#: Draws of the study's own sampler before a random one takes over: it has settled on a few
#: points that are known.
SAMPLER_DRAWS = 30


class Repeated(Exception):
    """Another trial has the same plan: this one counts for nothing."""


def propose(study: Any, digest_of: Callable[[Any], str | None], n_draws: int) -> bool:
    """Queue a configuration that no trial of a study has.

    The sampler draws in a copy in memory, which has the study's trials. What is drawn again, or
    gives no plan, stays there; where the sampler knows nothing new, the draw is random.

    Args:
        digest_of: of the plan that a trial's parameters give, None if they give none.
        n_draws: how many random draws without a new configuration are enough.

    Returns:
        False if no draw was new.
    """
    module = optuna()
    states = module.trial.TrialState
    # a queued trial would be what the copy asks for next
    trials = [t for t in study.get_trials(deepcopy=False) if t.state != states.WAITING]
    known = {t.user_attrs.get("digest") for t in trials}
    copy = module.create_study(directions=study.directions, sampler=study.sampler)
    copy.add_trials(trials)
    for number in range(SAMPLER_DRAWS + n_draws):
        if number == SAMPLER_DRAWS:
            copy.sampler = module.samplers.RandomSampler(seed=len(trials))
        trial = copy.ask()
        digest = digest_of(trial)
        if digest is not None and digest not in known:
            study.enqueue_trial(trial.params)
            return True
        copy.tell(trial, state=states.FAIL)
    return False
