"""A metric that the package does not have: what adding one takes besides its row."""

from __future__ import annotations

import math

from ggsurgery.files.progress import Progress
from ggsurgery.measure.meter import Meter, Model
from ggsurgery.measure.registry import Metric
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.setup import Setup
from ggsurgery.measure.windows import Windows

ROW = Metric(
    "bits_per_token", "bits per token", "bits", "lower", needs="text", meter=f"{__name__}:BitsMeter"
)


class BitsMeter(Meter[Windows]):
    def read(self, setup: Setup) -> Windows:
        return setup.windows()

    def windows(self, data: Windows) -> Windows:
        return data

    def measure(self, model: Model, data: Windows, progress: Progress | None = None) -> Score:
        return self.score([loss / math.log(2) for loss in model.losses(progress)])
