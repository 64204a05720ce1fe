"""Ask models something and read their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..errors import RequestError
from ..measure.suite.ask import Answer, Question, ask_file
from ..runtime import worker
from .fields import Threads
from .request import FilePaths, Settings, option


@dataclass(frozen=True, slots=True)
class Answers:
    """The answer of every file, in the order that they were given."""

    answers: tuple[Answer, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f"{a.file.name}: {text}" for a in self.answers for text in a.warnings)

    def to_json(self) -> list[dict[str, Any]]:
        """The answers with their token counts and times."""
        return [
            asdict(a) | {"file": str(a.file), "tokens_per_second": a.speed} for a in self.answers
        ]


class AskRequest(Settings, frozen=True, kw_only=True):
    """Answer a prompt with each of several files, through its own chat template.

    Example:
        >>> AskRequest(files=["a.gguf"], prompt="Why?").run().answers  # doctest: +SKIP
    """

    files: Annotated[FilePaths, option("GGUF files, asked one after the other.", metavar="FILE")]
    prompt: Annotated[str, option("The user's message.")]
    system: Annotated[str, option("The system prompt.")] | None = None
    thinking: (
        Annotated[
            Literal["on", "off"],
            option("Switch the template's thinking on or off; default: as the template has it."),
        ]
        | None
    ) = None
    max_tokens: Annotated[
        int, option("Tokens of an answer at most, the thinking included.", ge=1, short="-n")
    ] = 512
    ctx: Annotated[int, option("Tokens of the context.", ge=8, short="-c")] = 4096
    temperature: Annotated[
        float, option("0 takes the likeliest token; above 0 tokens are drawn.", ge=0)
    ] = 0.0
    seed: Annotated[int, option("Seed of the draw.", ge=0)] = 0
    threads: Threads = None

    def agree(self) -> None:
        if not self.files:
            raise RequestError("`files`", expected="at least one file", found="none")
        if not self.prompt.strip():
            raise RequestError("`prompt`", expected="a text", found="nothing")

    def check(self) -> list[str]:
        """Nothing can be checked before the files are read."""
        return []

    def question(self) -> Question:
        """The prompt for each file."""
        thinking = None if self.thinking is None else self.thinking == "on"
        return Question(
            self.prompt,
            self.system,
            thinking,
            self.max_tokens,
            self.ctx,
            self.temperature,
            self.seed,
        )

    def run(self, progress: Callable[[Path, str, bool], object] | None = None) -> Answers:
        """Ask each file in a child process of its own.

        Args:
            progress: called with the file, its text so far, and whether that is all of it.

        Raises:
            EngineError: a file does not load, or the prompt does not fit the context.
        """
        answers = []
        for file in map(Path, self.files):
            heard = _heard(progress, file)
            answer = worker.run(ask_file, file, self.question(), self.threads, progress=heard)
            if progress is not None:
                progress(file, answer.text, True)
            answers.append(answer)
        return Answers(tuple(answers))


def _heard(
    progress: Callable[[Path, str, bool], object] | None, file: Path
) -> Callable[[str], object] | None:
    return None if progress is None else lambda text: progress(file, text, False)
