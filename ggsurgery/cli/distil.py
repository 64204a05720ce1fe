"""distil: train a cut model towards the next-token distribution of the uncut one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ..compensate.distil.checkpoint import checkpoint_path
from ..compensate.distil.estimate import Estimate
from ..compensate.distil.run import Distillation, Distilled
from ..compensate.distil.settings import RATES, Settings
from ..compensate.distil.train import Pace
from ..files.text import read_corpus
from ..jobs import cautions
from ..present.numbers import human_bytes, human_count
from ._blend import out_type_option
from ._files import FILE
from ._output import echo, note, print_json, table, warn
from ._progress import for_people, progress_bar
from ._surgery import Options, check_early, operate, surgery_options
from ._texts import ctx_option, parse_special_option, text_option, threads_option

DEFAULT = Settings()


@click.command()
@surgery_options
@text_option("UTF-8 training text; report on another one.", required=True)
@click.option(
    "--tokens",
    default=DEFAULT.tokens,
    show_default=True,
    type=click.IntRange(64),
    help="Tokens of the text to use, the held-out ones included.",
)
@ctx_option("Tokens of a window.", least=8, default=DEFAULT.ctx)
@parse_special_option
@click.option(
    "--epochs",
    default=DEFAULT.epochs,
    show_default=True,
    type=click.IntRange(1),
    help="How often each window is seen.",
)
@click.option(
    "--trainable",
    default=DEFAULT.trainable,
    show_default=True,
    metavar="PART",
    help="all weights of the layers, norms, down (ffn_down), or lora:RANK.",
)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    help=f"Highest learning rate; default: {', '.join(f'{k} {v:g}' for k, v in RATES.items())}.",
)
@click.option(
    "--batch",
    default=DEFAULT.batch,
    show_default=True,
    type=click.IntRange(1),
    help="Windows between two updates of the weights.",
)
@click.option("--seed", default=DEFAULT.seed, show_default=True, help="Seed of the windows' order.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to train; auto takes a CUDA GPU when there is one.",
)
@out_type_option
@click.option("--sidecar", type=FILE, help="Write what training changed here too (.npz).")
@click.option(
    "--save-adapter",
    type=FILE,
    help="Of lora:RANK: write the updates as an adapter for CUT too, which llama.cpp loads.",
)
@threads_option
@click.argument("base", metavar="BASE", type=FILE)
@click.argument("cut", metavar="CUT", type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
def distil(
    options: Options,
    base: Path,
    cut: Path,
    out: Path,
    text: Path,
    tokens: int,
    ctx: int,
    parse_special: bool,
    epochs: int,
    trainable: str,
    lr: float | None,
    batch: int,
    seed: int,
    device: str,
    out_type: str | None,
    sidecar: Path | None,
    save_adapter: Path | None,
    threads: int | None,
) -> None:
    """Train a cut model towards the uncut one.

    CUT learns the next-token distribution of BASE on the text (KL divergence over the whole
    vocabulary, AdamW). The last windows of the text are held out: OUT gets the weights that do
    best on them. Needs PyTorch: pip install 'ggsurgery[train]'.

    Ctrl-C keeps the state in OUT.checkpoint, and the same command continues. --dry-run says
    how long the training takes.

    \b
    Example:
      ggsurgery distil --text training.txt in-F16.gguf healed.gguf distilled.gguf
    """
    settings = Settings(tokens, ctx, epochs, trainable, lr, batch, seed, parse_special)
    settings.check()
    if save_adapter is not None and not settings.rank:
        raise click.UsageError("--save-adapter needs --trainable lora:RANK")
    check_early((base, cut), out, options, sidecar, save_adapter, spared=(text,))
    words = read_corpus(text)
    warn(*cautions.of_context(cut, ctx))
    state = checkpoint_path(out)
    task = Distillation(base, cut, words, settings, device=device, n_threads=threads, state=state)
    if out_type is None and (types := task.rounded()):
        warn(
            f"trained tensors are rounded to {', '.join(types)} again, which takes back most of "
            "the training below 8 bits: train an F16 file and quantize the result, or give "
            "--out-type f16"
        )
    estimate = task.estimate()
    if options.dry_run:
        _plan(estimate, options)
        return
    note(_estimated(estimate))
    try:
        with progress_bar("distil", "window") as progress:
            found = task.run(_shown(progress))
    except KeyboardInterrupt:
        note(f"{state}: the training so far; the same command continues")
        raise
    if sidecar is not None:
        found.sidecar.save(sidecar, inputs=(base, cut, text), force=options.force)
    if save_adapter is not None:
        found.save_adapter(save_adapter, inputs=(base, cut, text), force=options.force)
    if not options.as_json:
        _show(found)
    operate(
        options.recipe(found.recipe.steps, out_type=out_type),
        (cut,),
        out,
        options,
        found.sidecar,
        spared=(base, text),
        figures={"distil": found.to_json()},
    )
    state.unlink(missing_ok=True)


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


def _plan(estimate: Estimate, options: Options) -> None:
    if options.as_json:
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
