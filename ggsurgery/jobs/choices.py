"""Multiple-choice accuracy of a model by log-probability."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..errors import RequestError
from ..files.atomic import check_output
from ..files.piped import kept
from ..files.progress import Progress
from ..measure import runs
from ..measure.draw import SEED, draw_questions
from ..measure.questions import Prompted, guess_style, load_questions, prompts
from ..measure.results.facts import model_facts
from ..measure.results.result_files import Results
from ..runtime import worker
from . import cautions
from .fields import Force, Limit, LimitSeed, Model, ResultFile, Threads
from .measured import Measured, write_results
from .request import FilePath, Settings, option

#: The keys of `measure.questions.STYLES`.
Style = Literal["blank", "boolq", "letters", "plain", "question"]


class ChoicesSettings(Settings, frozen=True, kw_only=True):
    """An item of a recipe's section `evaluate.choices`."""

    data: Annotated[FilePath, option("Questions as JSON lines.")]
    shots: Annotated[
        int, option("Put K solved examples in front of each question.", ge=0, metavar="K")
    ] = 0
    examples: Annotated[FilePath | None, option("Where the solved examples come from.")] = (
        msgspec.field(name="from", default=None)
    )
    style: Annotated[Style | None, option("How a question is worded; default: by its fields.")] = (
        None
    )
    limit: Limit = None
    limit_seed: LimitSeed = SEED
    ctx: (
        Annotated[int, option("Context; default: as large as needed.", ge=8, short="-c")] | None
    ) = None

    def agree(self) -> None:
        if bool(self.shots) != (self.examples is not None):
            raise RequestError("`shots` and `examples` go together")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoicesResult(Measured):
    """Accuracies, with how the questions were asked."""

    style: str
    chance: float


class ChoicesRequest(ChoicesSettings, frozen=True, kw_only=True):
    """Score multiple-choice questions: the likeliest choice counts as the answer.

    Example:
        >>> ChoicesRequest(file="m.gguf", data="piqa.jsonl", limit=100).run()  # doctest: +SKIP
    """

    file: Model
    threads: Threads = None
    out: ResultFile = None
    force: Force = False

    def check(self) -> list[str]:
        """Refuse an output in the way and damaged questions; returns warnings."""
        if self.out is not None:
            files = [Path(f) for f in (self.file, self.data, self.examples) if f is not None]
            check_output(Path(self.out), files, force=self.force)
        _longest.cache_clear()
        return cautions.of_prompts(Path(self.file), *_longest(self))

    def run(self, progress: Progress | None = None) -> ChoicesResult:
        """Ask in a child process."""
        prompted, facts = self._asked()
        longest, _ = _longest(self)
        _longest.cache_clear()
        scores = worker.run(
            runs.choices_of_file,
            self.file,
            prompted,
            facts=facts,
            n_ctx=self.ctx,
            longest=longest,
            n_threads=self.threads,
            progress=progress,
        )
        results = Results(model_facts(Path(self.file)), scores)
        write_results(self.out, results, force=self.force)
        return ChoicesResult(results, style=facts["style"], chance=facts["chance"])

    def _asked(self) -> tuple[list[Prompted], dict[str, Any]]:
        """The questions as prompts, and what their scores record."""
        data = Path(self.data)
        questions = draw_questions(load_questions(kept(data)), self.limit, self.limit_seed)
        style = self.style or guess_style(questions)
        examples = [] if self.examples is None else load_questions(kept(self.examples))
        facts = {
            "task": data.stem,
            "style": style,
            "shots": self.shots,
            "limit": self.limit,
            "limit_seed": None if self.limit is None else self.limit_seed,
            "chance": sum(1 / len(q.choices) for q in questions) / len(questions),
        }
        return list(prompts(questions, style, shots=self.shots, examples=examples)), facts


@lru_cache(1)
def _longest(request: ChoicesRequest) -> tuple[int, int]:
    """Tokens of the longest prompt, and of the context that the model was trained with.

    Kept from `check` to `run`, which needs them too.
    """
    prompted, _ = request._asked()
    return worker.run(runs.longest_of_file, request.file, prompted)
