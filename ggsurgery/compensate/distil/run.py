"""Distillation of a cut model: both models and the text in, a recipe and its arrays out.

The recipe applies to the cut model: `distil` adds an array to each trained tensor, and the
ordinary writing path encodes the sums.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import host
from ...errors import EngineError, PlanError
from ...files.digest import sha256_of_text
from ...ggufio.lora import write_adapter
from ...ggufio.reader import Source
from ...ggufio.types import Header, type_name
from ...measure.windows import Windows
from ...plan.distil import key_of
from ...plan.recipe import Recipe, step
from ...runtime import worker
from ...runtime.vocab_only import VocabularyFile
from ...tensors.kernels import FLOAT_SIZES
from ..sidecar import Sidecar
from .estimate import Estimate, free_memory, memory
from .form import form_of
from .network import Network, load_torch
from .settings import Settings, is_trained
from .train import PacedProgress, Trained, Trainer, device_of

F32 = NDArray[np.float32]

#: Seconds of a window up to which fewer threads are tried.
QUICK_S = 5.0


@dataclass(frozen=True)
class Distilled:
    """A trained model: the recipe for the cut file and the arrays that it names.

    Attributes:
        adapters: A and B of low-rank updates by the weight's name; none otherwise.
    """

    recipe: Recipe
    sidecar: Sidecar
    trained: Trained
    adapters: dict[str, tuple[F32, F32]]
    architecture: str

    def save_adapter(
        self, path: str | Path, *, inputs: Sequence[Path] = (), force: bool = False
    ) -> None:
        """Write the low-rank updates as an adapter for the cut model.

        Args:
            inputs: files whose tighter rights it gets.

        Raises:
            PlanError: the training had no low-rank updates.
            OutputError: the file exists (without `force`) or cannot be written.
        """
        if not self.adapters:
            raise PlanError("no low-rank updates to save", expected="`trainable` lora:RANK")
        rank = len(next(iter(self.adapters.values()))[0])
        write_adapter(
            path,
            self.architecture,
            self.adapters,
            alpha=float(rank),
            name=Path(path).stem,
            inputs=inputs,
            force=force,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_json(),
            "sidecar": self.sidecar.digest,
            "held_out": [list(one) for one in self.trained.history],
            "best_step": self.trained.best,
            "steps": list(self.trained.steps),
        }


class Distillation:
    """A training that is set up: `estimate` gives its time and memory, `run` does it.

    Args:
        base: the uncut model, or any other with the same vocabulary.
        cut: the model to train.
        text: training text; not the one that the result is reported on.
        device: auto, cpu or cuda.
        state: where an interrupted run keeps its state, None for nowhere.

    Raises:
        ArchitectureError: a model's architecture has no network here.
        PlanError: impossible settings, or the vocabularies differ.
        EngineError: the text is too short.
        GGSurgeryError: PyTorch is not installed.
    """

    def __init__(
        self,
        base: str | Path,
        cut: str | Path,
        text: str,
        settings: Settings,
        *,
        device: str = "auto",
        n_threads: int | None = None,
        state: Path | None = None,
    ) -> None:
        settings.check()
        torch = load_torch()
        with Source(base) as teacher, Source(cut) as student:
            check_pair(teacher.header, student.header)
            checksums = [teacher.checksum(), student.checksum()]
        windows = worker.run(_windows, cut, text, settings)
        self.settings, self.device = settings, device_of(device)
        torch.set_num_threads(n_threads or host.n_threads())
        self._choose_threads = n_threads is None and self.device == "cpu"
        self._facts = {
            **asdict(settings),
            "rate": settings.learning_rate,
            "device": self.device,
            "torch": str(torch.__version__),
            "base": {"name": Path(base).name, "checksum": checksums[0]},
            "text": sha256_of_text(text),
        }
        facts = json.dumps([self._facts, checksums[1]], sort_keys=True)
        uncut, trained = (Network.load(path, self.device) for path in (base, cut))
        _share(uncut, trained)
        self._networks = [uncut, trained]
        self._trainer = Trainer(
            uncut,
            trained,
            [torch.from_numpy(w.astype(np.int64)).to(self.device) for w in windows.inputs],
            settings,
            state=state,
            key=sha256_of_text(facts),
        )

    def estimate(self) -> Estimate:
        """Memory by counting and time by one measured window.

        Layers are computed twice from then on if the memory would not be enough otherwise.
        """
        trainer, free = self._trainer, free_memory(self.device)
        parameters, n_ctx = trainer.parameters, self.settings.ctx
        need = memory(self._networks, parameters, n_ctx, recompute=False)
        if free is not None and need > free:
            trainer.recompute = True
            need = memory(self._networks, parameters, n_ctx, recompute=True)
        windows = len(trainer.windows) * self.settings.epochs
        return Estimate(
            self.device,
            self._seconds_per_window() * windows,
            need,
            parameters.count,
            trainer.steps,
            trainer.recompute,
        )

    def _seconds_per_window(self) -> float:
        """Measured; of quick windows with one thread too, which small matrices may prefer."""
        seconds = self._trainer.trial()
        count = host.n_threads()
        if not self._choose_threads or count == 1 or seconds > QUICK_S:
            return seconds
        torch = load_torch()
        torch.set_num_threads(1)
        alone = self._trainer.trial()
        if seconds < alone:
            torch.set_num_threads(count)
        return min(seconds, alone)

    def run(self, progress: PacedProgress | None = None) -> Distilled:
        """Train; Ctrl-C saves the state, from which the same call continues.

        Raises:
            EngineError: the training did not lower the loss on the held-out windows.
        """
        trained = self._trainer.run(progress)
        parameters = self._trainer.parameters
        arrays = {key_of(name): array for name, array in parameters.changes().items()}
        sidecar = Sidecar(arrays)
        fit = {
            **self._facts,
            "steps": trained.best,
            "held_out": [trained.before, trained.after],
            "arrays": {key: sidecar.checksum(key) for key in sidecar},
        }
        recipe = Recipe((step("distil", fit=fit),))
        return Distilled(
            recipe, sidecar, trained, parameters.adapters(), self._networks[1].form.architecture
        )


def check_pair(base: Header, cut: Header) -> None:
    """Refuse models that training cannot compare.

    Raises:
        ArchitectureError: a model's architecture has no network here.
        PlanError: their vocabularies differ.
    """
    for header in (base, cut):
        form_of(header)
    key = "tokenizer.ggml.tokens"
    tokens = [h.metadata[key].raw if key in h.metadata else b"" for h in (base, cut)]
    sizes = [h.by_name["token_embd.weight"].shape[1] for h in (base, cut)]
    if tokens[0] != tokens[1] or sizes[0] != sizes[1]:
        raise PlanError(
            f"the vocabulary differs from that of {base.path.name}, so next-token distributions "
            "cannot be compared",
            file=cut.path,
            tensor=key,
            expected=f"the same {sizes[0]} tokens",
            found=f"{sizes[1]} tokens",
        )


def rounded(cut: Header, settings: Settings) -> list[str]:
    """The quantized types among the tensors that are trained."""
    types = {t.type for t in cut.tensors if is_trained(t.name, len(t.shape), settings.kind)} - set(
        FLOAT_SIZES
    )
    return sorted(map(type_name, types))


def _windows(path: str | Path, text: str, settings: Settings) -> Windows:
    with VocabularyFile(path) as vocabulary:
        count = settings.tokens // settings.ctx
        special = settings.parse_special
        windows = Windows.of_text(vocabulary, text, settings.ctx, count, parse_special=special)
        if (largest := max(int(w.max()) for w in windows.inputs)) >= vocabulary.n_vocab:
            raise EngineError("token beyond the vocabulary", file=path, found=largest)
    if len(windows) < 2:
        raise EngineError(
            "the text is too short: one window trains, another one is held out",
            file=path,
            expected=f"{2 * settings.ctx} tokens or more",
            found=f"fewer than {2 * settings.ctx}",
            hint="Give a longer text or a smaller `ctx`.",
        )
    return windows


def _share(teacher: Network, student: Network) -> None:
    """Keep one copy of what both models have outside their layers."""
    for name, weight in teacher.weights.items():
        if not name.startswith("blk.") and name in student.weights:
            other = student.weights[name]
            if other.shape == weight.shape and bool((other == weight).all()):
                student.weights[name] = weight
