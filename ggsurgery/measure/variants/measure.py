"""One figure for a plan, paired with the same figure of the uncut model.

The metric's row in the registry names its meter; nothing here depends on a metric's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import numpy as np

from ...files.progress import Progress
from ...plan.types import Plan
from ...runtime.nonfinite import not_finite
from ..meter import Meter, meter_of
from ..results.comparison import Difference, paired
from ..results.score import Score
from ..setup import Setup
from ..windows import Windows
from .session import Candidates, Variant


class Measurer(ExitStack):
    """Measures plans of one model; a context manager.

    Raises:
        GGSurgeryError: an unknown metric, or its text or data is missing or unusable.
    """

    def __init__(self, setup: Setup, progress: Progress | None = None) -> None:
        super().__init__()
        self.setup = setup
        self.meter: Meter[Any] = meter_of(setup.asked)
        self._data = self.meter.read(setup)
        windows = self.meter.windows(self._data)
        given: dict[str, Any] = {}
        self._fitted: Candidates | None = None
        if setup.refit is not None:
            assert windows is not None and setup.asked.name == "perplexity"
            fitted, windows = windows.to_fit_and_rank()
            self._data = windows
            self._fitted = self.enter_context(
                Candidates(
                    setup.path,
                    fitted,
                    cache_bytes=0,
                    n_threads=setup.n_threads,
                    allow_unknown_arch=setup.allow_unknown_arch,
                    given=given,
                )
            )
        self.session = self.enter_context(
            Candidates(
                setup.path,
                windows or Windows.none(),
                cache_bytes=0 if windows is None else setup.cache_bytes,
                route=setup.route,
                n_threads=setup.n_threads,
                allow_unknown_arch=setup.allow_unknown_arch,
                given=given,
            )
        )
        try:
            losses = [] if windows is None else self._losses(progress)
            uncut = Variant(self.session, self.session.identity)
            self.base, self._data = self.meter.base(uncut, self._data, losses, self)
        except BaseException:
            self.close()
            raise

    @property
    def windows(self) -> Windows:
        return self.session.windows

    def _losses(self, progress: Progress | None) -> Sequence[float]:
        nll = self.session.prepare(progress=progress)
        if not np.isfinite(nll).all():
            self._refuse_nan(int(np.argmin(np.isfinite(nll))))
        return nll

    def _refuse_nan(self, index: int) -> NoReturn:
        """Refuse a base model whose figure is not a number; the message locates the first such
        value."""
        self.session.states = None  # so that the whole model is opened
        with self.session.open(self.session.identity) as candidate:
            raise not_finite(
                candidate.engine,
                self.windows.inputs[index],
                f"window {index + 1} of the uncut model",
                self.setup.path,
            )

    def measure(self, plan: Plan, progress: Progress | None = None) -> Score:
        """The figure of a plan.

        Raises:
            GGSurgeryError: the plan is refused, or the candidate cannot be run.
        """
        return self.meter.measure(Variant(self.session, self.refitted(plan)), self._data, progress)

    def refitted(self, plan: Plan) -> Plan:
        """The plan as it is measured.

        Raises:
            GGSurgeryError: it cannot be refitted.
        """
        if self._fitted is None or self.setup.refit is None:
            return plan
        return self.setup.refit(self._fitted, plan, self._fitted.given)

    def difference(self, measured: Score) -> Difference:
        """Against the base, item by item where both have the same items."""
        return paired(measured, self.base)


def check_data(setup: Setup) -> None:
    """Refuse a text that is too short or a damaged file of questions before any work.

    Made to be run by `runtime.worker.run`.

    Raises:
        GGSurgeryError: what is wrong with them.
    """
    meter_of(setup.asked).read(setup)
