"""ask: a prompt to one or several files."""

from __future__ import annotations

from pathlib import Path

import click

from ..files.text import read_stdin
from ..jobs.ask import AskRequest
from ..measure.suite.ask import Answer
from ._files import FILE
from ._output import echo, json_option, note, print_json
from ._requests import Maker, request_options, warn_of


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.argument("prompt", metavar="PROMPT")
@request_options(AskRequest, skip=("files", "prompt"))
@json_option
def ask(make: Maker, files: tuple[Path, ...], prompt: str, as_json: bool) -> None:
    """Ask models something, through each file's own chat template.

    The answer is printed as it is generated. Several files answer one after the other, so that
    their answers and their speeds can be compared. `-` reads the prompt from standard input.

    \b
    Example:
      ggsurgery ask model.gguf "Why is the sky blue?"
      ggsurgery ask before.gguf after.gguf "Name three rivers." --max-tokens 60
      ggsurgery ask model.gguf "What is 17 times 3?" --thinking off --system "Answer briefly."
    """
    if prompt == "-":
        prompt = read_stdin()
    request = make(AskRequest, files=files, prompt=prompt)
    warn_of(request, request.check())
    stream = None if as_json else _Stream(several=len(files) > 1)
    answers = request.run(stream)
    warn_of(request, answers.warnings)
    if as_json:
        print_json(answers.to_json())
    else:
        for answer in answers.answers:
            note(_figures(answer))


class _Stream:
    """Prints answers as they are generated."""

    def __init__(self, *, several: bool) -> None:
        self.several = several
        self.file: Path | None = None
        self.shown = 0

    def __call__(self, file: Path, text: str, complete: bool) -> None:
        if file is not self.file:
            self.file, self.shown = file, 0
            if self.several:
                echo(f"── {file}")
        echo(text[self.shown :], newline=complete)
        self.shown = len(text)


def _figures(answer: Answer) -> str:
    speed = "" if answer.speed is None else f" at {answer.speed:.1f} tokens/s"
    ended = "" if answer.reason == "eog" else ", cut off at the limit"
    return (
        f"{answer.file.name}: {answer.n_generated} tokens{speed}{ended}; "
        f"{answer.n_prompt} tokens of prompt read in {answer.prompt_seconds:.2f} s"
    )
