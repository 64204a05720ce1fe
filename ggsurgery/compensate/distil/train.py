"""The training loop: AdamW on the divergence from the uncut model, watched on held-out windows.

The learning rate rises over the first tenth of the steps and falls along a cosine to zero. The
windows' order depends on the seed and the epoch alone, so a run that continues from a
checkpoint gives what an uninterrupted one gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EngineError
from . import checkpoint
from .loss import divergence
from .network import Network, Tensor, load_torch
from .parameters import Parameters
from .settings import Settings, held_out

#: Measurements on the held-out windows in a run, besides the one before it.
EVALUATIONS = 10
#: Measurements without a new lowest loss after which training ends. Those of the first half of
#: the steps do not count: at the highest rates the loss often rises before it falls.
PATIENCE = 4
#: Seconds between two checkpoints.
CHECKPOINT_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How a training goes.

    Attributes:
        loss: mean divergence of the last step's tokens, None before the first step.
        held_out: the last measurement on the held-out windows, None before the first.
    """

    tokens_per_second: float
    loss: float | None
    held_out: float | None


#: Called with the windows done, the windows of the whole run, and the pace.
PacedProgress = Callable[[int, int, Pace], object]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training.

    Attributes:
        history: (step, mean divergence on the held-out windows), the first before training.
        best: the step whose weights the network has now.
        steps: how many there were, and how many there would have been.
    """

    history: tuple[tuple[int, float], ...]
    best: int
    steps: tuple[int, int]

    @property
    def before(self) -> float:
        return self.history[0][1]

    @property
    def after(self) -> float:
        return dict(self.history)[self.best]

    @property
    def ended_early(self) -> bool:
        return self.steps[0] < self.steps[1]


class Trainer:
    """One training of a student towards a teacher.

    Args:
        windows: token numbers, one tensor a window; the last ones are held out.
        recompute: compute the inside of layers twice to save memory.
        state: where an interrupted run keeps its state, None for nowhere.
        key: identifies this training.
    """

    def __init__(
        self,
        teacher: Network,
        student: Network,
        windows: list[Tensor],
        settings: Settings,
        *,
        recompute: bool = False,
        state: Path | None = None,
        key: str = "",
    ) -> None:
        torch = load_torch()
        self._torch, self.settings, self.recompute = torch, settings, recompute
        self.teacher, self.student = teacher, student
        count = held_out(len(windows))
        self.windows, self._held_out = windows[:-count], windows[-count:]
        self.parameters = Parameters(student, settings)
        self.optimizer = torch.optim.AdamW(
            self.parameters.tensors, lr=settings.learning_rate, weight_decay=0.0
        )
        self._wanted: list[Tensor] = []
        self._state, self._key, self._saved = state, key, time.monotonic()
        self.step = 0
        self.history: list[tuple[int, float]] = []
        self._best: list[Tensor] | None = None
        self._loss: float | None = None

    @property
    def steps(self) -> int:
        return self.settings.epochs * math.ceil(len(self.windows) / self.settings.batch)

    def trial(self) -> float:
        """Seconds that one window takes, measured; nothing is changed."""
        for _ in range(2):
            began = time.monotonic()
            self._accumulate(self.windows[0], 1.0)
            self.optimizer.zero_grad()
            if (seconds := time.monotonic() - began) > 5:
                break  # a first call also sets up threads and buffers: seconds at most
        return seconds

    def run(self, progress: PacedProgress | None = None) -> Trained:
        """Train, and leave the network with the best weights on the held-out windows.

        On Ctrl-C the state is saved first, if there is a place for it.

        Raises:
            EngineError: the loss is not a number, or no step lowered that of the held-out
                windows.
        """
        self._resume()
        try:
            self._train(progress)
        except KeyboardInterrupt:
            self.save()
            raise
        best = min(self.history, key=lambda one: one[1])[0]
        result = Trained(tuple(self.history), best, (self.step, self.steps))
        if best == 0:
            raise EngineError(
                "no step of the training lowered the loss on the held-out windows",
                expected=f"less than {result.before:.4f}",
                found=f"{min(loss for step, loss in self.history if step):.4f}",
                hint="Try a lower `lr` or more `tokens`.",
            )
        assert self._best is not None
        self.parameters.set(self._best)
        return result

    def save(self) -> None:
        """Write the checkpoint."""
        if self._state is None:
            return
        with checkpoint.uninterrupted():
            tensors = {"parameters": self.parameters.copy(), "best": self._best}
            numbers = {"step": self.step, "history": self.history}
            optimizer = {"optimizer": self.optimizer.state_dict()}
            checkpoint.save(self._state, self._key, {**tensors, **numbers, **optimizer})
        self._saved = time.monotonic()

    def _resume(self) -> None:
        device = str(self.student.head.device)
        found = checkpoint.load(self._state, self._key, device) if self._state else None
        if found is None:
            return
        self.parameters.set(found["parameters"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self._best = found["step"], found["best"]
        self.history = [(int(step), float(loss)) for step, loss in found["history"]]

    def _train(self, progress: PacedProgress | None) -> None:
        every = max(1, self.steps // EVALUATIONS)
        total = self.settings.epochs * len(self.windows)
        done, seen, began = self._before(self.step), 0, time.monotonic()
        while True:
            due = self.step % every == 0 or self.step == self.steps
            if due and (not self.history or self.history[-1][0] != self.step):
                self._evaluate()
            if self.step == self.steps or self._rises():
                return
            batch = self._batch(self.step)
            n_tokens = sum(len(w) for w in batch)
            loss = 0.0
            for window in batch:
                loss += self._accumulate(window, 1 / n_tokens)
                done, seen = done + 1, seen + len(window)
                if progress is not None:
                    pace = seen / max(1e-9, time.monotonic() - began)
                    last = self.history[-1][1] if self.history else None
                    progress(done, total, Pace(pace, self._loss, last))
            self._update(loss / n_tokens)
            if time.monotonic() - self._saved > CHECKPOINT_EVERY_S:
                self.save()

    def _update(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise EngineError(
                f"the loss of step {self.step + 1} is not a number",
                found=loss,
                hint="Try a lower `lr`.",
            )
        with checkpoint.uninterrupted():
            rise = min(1.0, (self.step + 1) / max(1, self.steps // 10))
            fall = 0.5 + 0.5 * math.cos(math.pi * self.step / self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * rise * fall
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step, self._loss = self.step + 1, loss

    def _before(self, step: int) -> int:
        """Windows that the steps before this one have seen."""
        epoch, within = divmod(step, math.ceil(len(self.windows) / self.settings.batch))
        return epoch * len(self.windows) + within * self.settings.batch

    def _batch(self, step: int) -> list[Tensor]:
        size, n = self.settings.batch, len(self.windows)
        epoch, within = divmod(step, math.ceil(n / size))
        random = self._torch.Generator().manual_seed(self.settings.seed * 1000 + epoch)
        order = self._torch.randperm(n, generator=random).tolist()
        return [self.windows[i] for i in order[within * size : (within + 1) * size]]

    def _accumulate(self, window: Tensor, weight: float) -> float:
        """Add a window's gradient; returns its divergence, summed over its tokens."""
        with self._torch.no_grad():
            wanted = self.teacher.states(window)
        with self._torch.enable_grad():
            states = self.student.states(window, checkpoint=self.recompute)
        return divergence(self.teacher, wanted, self.student, states, gradient=weight)

    def _evaluate(self) -> None:
        with self._torch.no_grad():
            if not self._wanted:
                self._wanted = [self.teacher.states(w) for w in self._held_out]
            total = sum(
                divergence(self.teacher, wanted, self.student, self.student.states(window))
                for window, wanted in zip(self._held_out, self._wanted, strict=True)
            )
        loss = total / sum(len(w) for w in self._held_out)
        if not math.isfinite(loss):
            raise EngineError(
                "the loss on the held-out windows is not a number",
                found=loss,
                hint="Try a lower `lr`; `ggsurgery verify` checks the weights of a file.",
            )
        if self.history and loss < min(one for _, one in self.history):
            self._best = self.parameters.copy()
        self.history.append((self.step, loss))

    def _rises(self) -> bool:
        """Whether the last measurements, at falling rates, found no new lowest loss."""
        best = min(self.history, key=lambda one: one[1])[0]
        since = max(best, self.steps // 2)
        return sum(step > since for step, _ in self.history) >= PATIENCE


def device_of(name: str) -> str:
    """`auto` resolved: a CUDA GPU when there is one.

    Raises:
        EngineError: PyTorch sees no such device.
    """
    torch: Any = load_torch()
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise EngineError(
            "PyTorch sees no CUDA GPU", hint="Use `device` cpu, or install a CUDA build of torch."
        )
    return "cuda" if cuda and name != "cpu" else "cpu"
