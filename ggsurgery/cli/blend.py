"""blend: whole models of one shape into one."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import PlanError
from ..plan.blend_ops import BASED, MODEL_METHODS
from ..plan.recipe import step
from ..plan.recipe_arguments import numbers
from ._files import FILE
from ._surgery import Surgery, list_option, operate, surgery_options


@click.command()
@click.option(
    "--method",
    type=click.Choice(MODEL_METHODS),
    default="linear",
    show_default=True,
    help="How the models are combined; see above.",
)
@click.option("--base", type=FILE, help="The model that the others were tuned from.")
@click.option("--weights", metavar="W,W…", help="One for each model, default 1/n; slerp takes B's.")
@click.option(
    "--density",
    type=float,
    help="Share of each difference that ties keeps, or that dare does not drop.",
)
@click.option("--scale", type=float, help="Factor on all differences from the base.")
@click.option("--seed", type=int, help="dare: which weights are dropped.")
@click.option(
    "--no-normalize",
    is_flag=True,
    help="linear: take the weights as they are; otherwise they are divided by their sum.",
)
@list_option("layers", "LIST", "Blend only these; everything else comes from A.", required=False)
@surgery_options(also=("out_type", "force_kinds"))
@click.argument("models", nargs=-1, required=True, type=FILE, metavar="A B … OUT")
def blend(
    surgery: Surgery,
    method: str,
    base: Path | None,
    weights: str | None,
    density: float | None,
    scale: float | None,
    seed: int | None,
    no_normalize: bool,
    layers: str | None,
    models: tuple[Path, ...],
) -> None:
    """Blend models of one shape, tensor by tensor.

    \b
    linear           the weighted mean (the weighted sum with --no-normalize)
    slerp            of two models, along the arc between them
    task-arithmetic  --base plus the weighted differences to it
    ties as task-arithmetic, but small differences dropped and signs elected
    dare as task-arithmetic, but random differences dropped, the rest scaled up

    The output has the header of A, or of the base. Models of other shapes,
    tokenizers or architectures are refused.

    \b
    Example:
      ggsurgery blend --weights 0.7,0.3 a.gguf b.gguf out.gguf
      ggsurgery blend --method ties --base m.gguf --density 0.2 a.gguf b.gguf out.gguf
    """
    if len(models) < 2:
        raise click.UsageError("at least one model and OUT are needed")
    *inputs, out = models
    if (base is not None) != (method in BASED):
        raise PlanError(
            f"{method} takes no --base" if base is not None else f"{method} needs --base",
            hint=f"A base belongs to {', '.join(BASED)}.",
        )
    sources = ([] if base is None else [base]) + inputs
    try:
        factors = None if weights is None else list(numbers(weights))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--weights") from None
    one = step(
        "blend",
        models=len(sources),
        method=method,
        weights=factors,
        density=density,
        scale=scale,
        seed=seed,
        layers=layers,
        normalize=False if no_normalize else None,
    )
    operate(surgery, [one], sources, out)
