"""run: one recipe from a source file to a release bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..evaluate.results import Results, load_results, read_json
from ..pipeline.run import Event, Pipeline
from ..release.sections import HOPELESS
from ._output import human_bytes, json_option, note, print_json, table, warn
from ._progress import Bar

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("recipe", metavar="RECIPE", type=FILE)
@click.option("--source", type=FILE, help="The file to start from, instead of the recipe's.")
@click.option("--out", type=FILE, help="Folder for everything; default: named like the recipe.")
@click.option("--dry-run", is_flag=True, help="Show the steps and what they write; write nothing.")
@json_option
def run(recipe: Path, source: Path | None, out: Path | None, dry_run: bool, as_json: bool) -> None:
    """Run a recipe: surgery, header, template, quantization, evaluation, release bundle.

    A step is done again only if what it depends on has changed. Interrupted at any point,
    the same command goes on where it stopped.

    \b
    Example:
      ggsurgery run models/demo.yaml
      ggsurgery run models/qwen3-tiny-v1.yaml --source Qwen3-1.7B-BF16.gguf --dry-run
    """
    pipeline = Pipeline(recipe, out or Path(recipe.stem), source=source)
    if dry_run:
        _show_plan(pipeline, as_json)
        return
    results = pipeline.run(_Teller())
    if as_json:
        print_json(results)
        return
    click.echo(_table(pipeline))
    _say_more(pipeline)


class _Teller:
    """One line a step on standard error, with a bar for what takes longer."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, event: Event) -> None:
        match event.kind:
            case "skip":
                note(f"· {event.task.name}: up to date")
            case "start":
                self._bar = Bar(desc=event.task.name, bar_format="{l_bar}{bar}|")
            case "progress":
                self._bar.total = event.total
                self._bar.update(event.done - self._bar.n)
            case "done":
                self._bar.close()
                note(f"✓ {event.task.name}: {event.task.what} ({event.seconds:.1f} s)")
                for warning in (event.result or {}).get("warnings", ()):
                    note(f"  warning: {warning}")
                if (event.result or {}).get("requantized"):
                    note("  the source was quantized already: this loses a second time")
                if fallbacks := (event.result or {}).get("fallbacks"):
                    note(f"  {len(fallbacks)} tensors have rows that the type cannot divide and "
                         "took a larger one")  # fmt: skip


def _show_plan(pipeline: Pipeline, as_json: bool) -> None:
    planned = pipeline.plan()
    if as_json:
        steps = [
            {"step": p.task.name, "what": p.task.what, "done": p.done, "bytes": p.n_bytes}
            for p in planned
        ]
        print_json({"source": str(pipeline.source), "out": str(pipeline.folder), "steps": steps})
        return
    click.echo(f"source: {pipeline.source}\nfolder: {pipeline.folder}\n")
    rows = [
        (p.task.name, "done" if p.done else "to do",
         human_bytes(p.n_bytes) if p.n_bytes is not None else "", p.task.what)
        for p in planned
    ]  # fmt: skip
    click.echo(table(rows, ("step", "", "size", "what")))
    total = sum(p.n_bytes or 0 for p in planned if not p.done)
    note(f"dry run: nothing was written; a run writes {human_bytes(total)}")


def _table(pipeline: Pipeline) -> str:
    """File, size, bits per weight, perplexity and its ratio to the original's."""
    places = pipeline.places
    made = [f for t in pipeline.tasks for f in t.files if f.suffix == ".gguf"]
    # The bundle holds the same files once more under the same names.
    first: dict[str, Path] = {}
    for file in made:
        first.setdefault(file.name, file)
    paths = [pipeline.source, *first.values()]
    found: list[tuple[Path, Results | None]] = []
    for path in paths:
        measured = places.results(path)
        found.append((path, load_results(measured)[0] if measured.is_file() else None))
    base = found[0][1].score("perplexity") if found[0][1] else None
    rows = []
    for path, results in found:
        if path == places.imatrix:
            continue
        score = results.score("perplexity") if results else None
        rows.append(
            (
                f"{path.name} (original)" if path == pipeline.source else path.name,
                human_bytes(path.stat().st_size),
                _bits(path),
                f"{score.value:.3f} ± {score.stderr:.3f}" if score and score.stderr else None,
                f"{score.value / base.value:.3f}" if score and base else None,
            )
        )
    return table(rows, ("file", "size", "bits/weight", "perplexity", "ratio"))


def _perplexity(results: Path) -> float | None:
    score = load_results(results)[0].score("perplexity") if results.is_file() else None
    return None if score is None else score.value


def _bits(path: Path) -> str:
    from ..ggufio.header import read_header

    header = read_header(path)
    return f"{8 * header.n_bytes / max(1, header.n_parameters):.2f}"


def _say_more(pipeline: Pipeline) -> None:
    """What a model said, and what to do next."""
    places, bundle = pipeline.places, pipeline.places.bundle
    before, after = (_perplexity(places.results(p)) for p in (pipeline.source, places.cut))
    if before and after and after > HOPELESS * before:
        warn(f"the cut model's perplexity is {after / before:.1f} times the original's: it is not "
             "usable without further training")  # fmt: skip
    if places.said.is_file():
        said = read_json(places.said)
        answer = " ".join(str(said["text"]).split())
        click.echo(f"\n{said['file']} was asked: {said['question']}\n  {answer}")
    click.echo("\nNext:")
    if bundle.is_dir():
        click.echo(f"  {bundle}/README.md   the model card; look at it first")
        name = places.name.lower()
        click.echo(f"  cd {bundle} && ollama create {name} -f Modelfile")
    recipe = pipeline.document.path
    click.echo(f"  ggsurgery run {recipe}   again: what is done stays; change the recipe to redo")
