"""Make files with `ggsurgery …`, measure them, and keep what is there already."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bench:
    """Where things are, and how to make and measure a file.

    Args:
        questions: sets of questions; accuracies are `acc_norm` of `limit` questions of each.
        chunks: windows of 512 tokens of the reporting text.
    """

    model: Path
    calibrate: Path
    report: Path
    questions: tuple[Path, ...]
    folder: Path
    chunks: int
    limit: int
    threads: int | None = None

    def command(self, *arguments: object) -> str:
        """Run `ggsurgery …` and return what it prints."""
        words = [str(a) for a in arguments]
        print("$ ggsurgery", *words, flush=True, file=sys.stderr)
        run = [sys.executable, "-m", "ggsurgery", *words]
        return subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout

    @property
    def more(self) -> tuple[object, ...]:
        """Options of every command that computes."""
        return () if self.threads is None else ("--threads", self.threads)

    def make(
        self,
        name: str,
        command: str,
        *arguments: object,
        text: bool = True,
        sources: tuple[Path, ...] = (),
    ) -> Path:
        """The file `name`, made by a command from the model, or from others, if it is missing."""
        out, kept = self.folder / f"{name}.gguf", self.folder / f"{name}.made.json"
        if not kept.exists():  # a LaCo run that merges nothing leaves no file
            more = ("--text", self.calibrate) if text else ()
            options = (*arguments, *more, *self.more, "--force", "--json")
            figures = self.command(command, *options, *(sources or (self.model,)), out)
            kept.write_text(figures, encoding="utf-8")
        return out

    def measured(self, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The perplexity, and the `acc_norm` of each set of questions."""
        kept = self.folder / f"{path.stem}.measured.json"
        if not kept.exists():
            size = ("--ctx", 512, "--windows", self.chunks)
            text = self.command(
                "perplexity", path, "--text", self.report, *size, *self.more, "--json"
            )
            answers = [
                self.command(
                    "choices", path, "--data", data, "--limit", self.limit, *self.more, "--json"
                )
                for data in self.questions
            ]
            kept.write_text(json.dumps([json.loads(one) for one in (text, *answers)]))
        perplexity, *answers = json.loads(kept.read_text(encoding="utf-8"))
        return perplexity, [
            {s["metric"]: s for s in found["scores"]}["acc_norm"] for found in answers
        ]

    def measure(self, path: Path) -> tuple[str, ...]:
        """Perplexity and accuracies as the table shows them."""
        perplexity, accuracies = self.measured(path)
        digits = 1 if perplexity["value"] < 1000 else 0
        return (
            f"{perplexity['value']:,.{digits}f} ± {perplexity['stderr']:,.{digits}f}",
            *(f"{100 * a['value']:.1f} ± {100 * a['stderr']:.1f}" for a in accuracies),
        )

    def facts(self, name: str) -> dict[str, Any]:
        """What the command that made a file printed as JSON."""
        found: dict[str, Any] = json.loads((self.folder / f"{name}.made.json").read_text())
        return found
