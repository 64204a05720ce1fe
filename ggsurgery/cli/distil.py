"""distil: train a cut model towards the next-token distribution of the uncut one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ..compensate.distil.checkpoint import checkpoint_path
from ..compensate.distil.estimate import Estimate
from ..compensate.distil.run import Distillation, Distilled
from ..compensate.distil.train import Pace
from ..jobs.distil import DistilRequest
from ..present.numbers import human_bytes, human_count
from ._files import FILE
from ._output import echo, note, print_json, table, warn
from ._progress import for_people, progress_bar
from ._requests import Maker, output_option, warn_of
from ._surgery import Surgery, check_early, operate, surgery_options


@click.command()
@surgery_options(DistilRequest, also=("out_type",), skip=("base", "cut", "checkpoint"))
@output_option("sidecar", "Also write the trained changes here (.npz).", old=("--sidecar",))
@click.option(
    "--save-adapter",
    type=FILE,
    help="With lora:RANK: write the updates as an adapter for CUT too, which llama.cpp loads.",
)
@click.argument("base", metavar="BASE", type=FILE)
@click.argument("cut", metavar="CUT", type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def distil(
    surgery: Surgery,
    make: Maker,
    base: Path,
    cut: Path,
    out: Path,
    sidecar: Path | None,
    save_adapter: Path | None,
) -> None:
    """Train a cut model towards the uncut one.

    CUT learns the next-token distribution of BASE on the text (KL divergence over the whole
    vocabulary, AdamW). The last windows of the text are held out: OUT gets the weights that do
    best on them. Needs the extra: pip install '.[train]'.

    Ctrl-C keeps the state in OUT.checkpoint, and the same command continues. --dry-run estimates
    how long the training takes.

    \b
    Example:
      ggsurgery distil --text training.txt in-F16.gguf healed.gguf distilled.gguf
    """
    state = checkpoint_path(out)
    request = make(DistilRequest, base=base, cut=cut, checkpoint=state)
    if save_adapter is not None and not request.numbers.kind == "lora":
        raise click.UsageError("--save-adapter needs --trainable lora:RANK")
    inputs = (base, cut, Path(request.text))
    check_early((base, cut), out, surgery, sidecar, save_adapter, spared=inputs[2:])
    warn_of(request, request.check())
    task = request.prepare()
    estimate = task.estimate()
    if surgery.dry_run:
        return _plan(estimate, surgery)
    note(_estimated(estimate))
    found = _trained(task, state)
    if sidecar is not None:
        found.sidecar.save(sidecar, inputs=inputs, force=surgery.force)
    if save_adapter is not None:
        found.save_adapter(save_adapter, inputs=inputs, force=surgery.force)
    if not surgery.as_json:
        _show(found)
    steps, figures = found.recipe.steps, {"distil": found.to_json()}
    spared = (base, *inputs[2:])
    operate(surgery, steps, [cut], out, given=found.sidecar, spared=spared, figures=figures)
    state.unlink(missing_ok=True)


def _trained(task: Distillation, state: Path) -> Distilled:
    """Train under a progress bar; Ctrl-C prints where the state is kept."""
    try:
        with progress_bar("distil", "window") as progress:
            return task.run(_shown(progress))
    except KeyboardInterrupt:
        note(f"{state}: the training so far; the same command continues")
        raise


def _shown(progress: Callable[..., None]) -> Callable[[int, int, Pace], object]:
    def update(done: int, total: int, pace: Pace) -> None:
        facts = f"{pace.tokens_per_second:.0f} tokens/s"
        if pace.held_out is not None:
            facts += f", held-out loss {pace.held_out:.4f}"
        progress(done, total, facts)

    return update


def _estimated(estimate: Estimate) -> str:
    twice = ", layers computed twice to save memory" if estimate.recompute else ""
    return (
        f"{human_count(estimate.trained)} numbers trained in {estimate.steps} steps on "
        f"{estimate.device}: about {for_people(estimate.seconds)} and "
        f"{human_bytes(estimate.n_bytes)} of memory{twice}"
    )


def _plan(estimate: Estimate, surgery: Surgery) -> None:
    if surgery.as_json:
        print_json(estimate.to_json())
    else:
        echo(_estimated(estimate))
        note("dry run: nothing was written")


def _show(found: Distilled) -> None:
    trained = found.trained
    rows = [
        (step, f"{loss:.4f}", "written" if step == trained.best else "")
        for step, loss in trained.history
    ]
    echo(table(rows, ("step", "held-out loss", "")))
    note(
        "loss: mean KL divergence from the uncut model in nats a token, on the last windows of "
        "the text; measure perplexity on another text"
    )
    if trained.ended_early:
        warn(
            f"the held-out loss stopped falling: training ended after {trained.steps[0]} of "
            f"{trained.steps[1]} steps"
        )
