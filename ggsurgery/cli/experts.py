"""experts: rank the experts of a mixture, and delete those that are needed least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..arch.experts import mixture
from ..errors import PlanError, json_text
from ..files.atomic import check_output
from ..files.text import read_corpus
from ..find.experts import choose
from ..find.experts.ranking import FEW_TOKENS, Method, Ranking, rank_file
from ..find.experts.ranking_file import KIND, read_ranking
from ..ggufio.header import read_header
from ..ggufio.imatrix import read_imatrix
from ..ggufio.reader import Source
from ..ggufio.types import Header
from ..jobs import cautions
from ..measure.results.envelope import envelope
from ..plan.recipe import Step, step
from ..plan.text import format_layers
from ..present.numbers import human_count
from ..runtime import worker
from ._evaluate import save_text
from ._files import FILE
from ._output import echo, json_option, note, print_json, table, warn
from ._progress import progress_bar
from ._surgery import Options, in_out, operate, surgery_options
from ._texts import ctx_option, parse_special_option, threads_option

METHODS = ("reap", "ean", "frequency")
#: Shades of the heat map, from the least needed expert of a layer to the most needed.
SHADES = " ░▒▓█"

_method_option = click.option(
    "--method",
    default="reap",
    show_default=True,
    type=click.Choice(METHODS),
    help="reap: mean of gate times output norm; ean: sum of output norms; frequency: tokens.",
)
_texts_option = click.option(
    "-f",
    "--text",
    "texts",
    multiple=True,
    type=FILE,
    help="UTF-8 text that runs through the model; repeat it for one column a text.",
)
_windows_option = click.option(
    "--windows", default=64, show_default=True, type=click.IntRange(0), help="Of each text; 0: all."
)


@click.group()
def experts() -> None:
    """Mixtures of experts: rank the experts, delete those that your texts need least.

    \b
    Example:
      ggsurgery experts rank model.gguf --text code.txt --text german.txt -o ranking.json
      ggsurgery experts delete --drop 25% --ranking ranking.json model.gguf smaller.gguf
    """


@experts.command()
@click.argument("file", metavar="FILE", type=FILE)
@_texts_option
@_method_option
@ctx_option("Tokens of a window.", least=8)
@_windows_option
@click.option("-o", "--out", type=FILE, help="Write the ranking here, for `experts delete`.")
@click.option("--force", is_flag=True, help="Replace an existing --out file.")
@parse_special_option
@threads_option
@json_option
def rank(
    file: Path,
    texts: tuple[Path, ...],
    method: Method,
    ctx: int,
    windows: int,
    out: Path | None,
    force: bool,
    parse_special: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure what each expert does for some texts, in one pass.

    An expert that no token of the texts reached is unmeasured, not useless. With several texts
    the experts that one of them uses far more than the others are named: they are what a cut
    for another text loses.

    \b
    Example:
      ggsurgery experts rank model.gguf --text code.txt
      ggsurgery experts rank model.gguf --text code.txt --text german.txt -o ranking.json
    """
    if not texts:
        raise click.UsageError("--text is needed")
    if out is not None:
        check_output(out, (file, *texts), force=force)
    found = _measure(file, texts, ctx, windows, threads, parse_special)
    settings = {"n_ctx": ctx, "n_windows": windows, "parse_special": parse_special or None}
    document = envelope(KIND, file, settings) | found.to_json(method)
    if out is not None:
        text = json_text(document, indent=2, allow_nan=False)
        save_text(out, text + "\n", force=force, inputs=(file, *texts))
    if as_json:
        print_json(document)
    else:
        _show(found, method)
    warn(*_cautions(found))


@experts.command()
@click.option("--keep", type=click.IntRange(1), metavar="N", help="How many stay in each layer.")
@click.option("--drop", metavar="N|P%", help="How many leave, or which share of them.")
@click.option("--ranking", type=FILE, help="A ranking that `experts rank -o` wrote.")
@click.option("--imatrix", type=FILE, help="Instead: the tokens that an importance matrix counted.")
@click.option("--random", type=int, metavar="SEED", help="Instead: by chance, the control.")
@click.option(
    "--for", "names", multiple=True, metavar="TEXT", help="Of a ranking over several texts: which."
)
@_texts_option
@_method_option
@ctx_option("Tokens of a window.", least=8)
@_windows_option
@click.option(
    "--protect",
    multiple=True,
    metavar="[LAYERS:]EXPERTS",
    help="Experts that stay: 3:0,7 in layer 3, or 0-5 in every layer.",
)
@click.option("--used", type=click.IntRange(1), metavar="K", help="Experts a token goes through.")
@parse_special_option
@threads_option
@surgery_options
@in_out
def delete(
    options: Options,
    source: Path,
    out: Path,
    keep: int | None,
    drop: str | None,
    used: int | None,
    protect: tuple[str, ...],
    **by: Any,
) -> None:
    """Delete the experts that are needed least, the same number in every layer.

    Rows of the router, selection biases, scales and the experts' matrices leave together, as
    bytes: nothing is computed, whatever the type. The experts to keep come from a ranking, an
    importance matrix, or from a text that is measured first.

    \b
    Example:
      ggsurgery experts delete --keep 96 --ranking ranking.json in.gguf out.gguf
      ggsurgery experts delete --drop 25% --text calibration.txt in.gguf out.gguf
      ggsurgery experts delete --used 6 in.gguf out.gguf
    """
    header = read_header(source)
    found = mixture(header)
    if (keep is not None) + (drop is not None) + (used is not None) == 0 or None not in (
        keep,
        drop,
    ):
        raise click.UsageError("give --keep or --drop, or --used alone")
    if drop is not None:
        keep = found.n_experts - choose.parse_count(drop, header)
    steps: list[Step] = []
    if used is not None:
        _warn_of_used(used, found.n_used)
        steps.append(step("set", key="{arch}.expert_used_count", value=used))
    if keep is not None:
        protected = choose.parse_protected(protect, header)
        scores = _scores(source, header, by, protected)
        if used is not None and not used <= keep:
            raise PlanError("fewer experts kept than used", expected=f"at most {keep}", found=used)
        kept = choose.choose(header, scores, keep, protected, used=used)
        lists = {str(layer): format_layers(list(each)) for layer, each in kept.items()}
        steps.append(step("keep_experts", experts=lists))
    operate(options.recipe(tuple(steps)), (source,), out, options)


def _scores(
    source: Path, header: Header, by: dict[str, Any], protected: dict[int, tuple[int, ...]]
) -> dict[int, Any]:
    """Scores from the one place that was named; guarded experts join the protected ones."""
    ways = [
        name for name in ("ranking", "imatrix", "random", "texts") if by[name] not in (None, ())
    ]
    if len(ways) != 1:
        raise click.UsageError("give one of --ranking, --imatrix, --text and --random")
    if by["imatrix"] is not None:
        return choose.from_imatrix(read_imatrix(by["imatrix"]), header)
    if by["random"] is not None:
        return choose.random_scores(header, by["random"])
    if by["ranking"] is not None:
        ranking, facts = read_ranking(by["ranking"], header)
        with Source(source) as opened:
            if facts.checksum not in (None, opened.checksum()):
                note(f"the ranking was measured on {facts.file}, another file than {source}")
    else:
        ranking = _measure(
            source, by["texts"], by["ctx"], by["windows"], by["threads"], by["parse_special"]
        )
    for layer, experts in ranking.guarded().items():
        protected[layer] = (*protected.get(layer, ()), *experts)
    warn(*_cautions(ranking, by["names"]))
    return choose.scores(ranking, by["method"], by["names"])


def _measure(
    file: Path,
    texts: Sequence[Path],
    ctx: int,
    windows: int,
    threads: int | None,
    parse_special: bool,
) -> Ranking:
    named = {text.stem: read_corpus(text) for text in texts}
    if len(named) < len(texts):
        raise click.UsageError("two texts have the same name")
    mixture(read_header(file))
    warn(*cautions.of_context(file, ctx))
    with progress_bar(file.name, "window") as progress:
        return worker.run(
            rank_file, file, named, ctx, windows or None, threads, parse_special, progress=progress
        )


def _cautions(found: Ranking, names: Sequence[str] = ()) -> list[str]:
    texts = found.pooled(names)
    mean = texts.n_tokens * found.mixture.n_used / found.mixture.n_experts
    said = []
    if mean < FEW_TOKENS:
        said.append(
            f"{texts.n_tokens:,} tokens are few for {found.mixture.n_experts} experts: "
            f"{mean:.0f} each on average, at least {FEW_TOKENS} are needed for a ranking"
        )
    missing = sum(map(len, found.unmeasured(names).values()))
    if missing:
        said.append(f"{missing} experts received no token of the text: their need is unknown")
    return said


def _warn_of_used(used: int, before: int) -> None:
    if used < before:
        warn(
            f"a token will go through {used} experts instead of {before}: faster, and worse in "
            "general; measure it"
        )
    elif used > before:
        warn(f"the model was trained with {before} experts a token, not {used}")


def _show(found: Ranking, method: Method) -> None:
    pooled = found.pooled()
    values = pooled.score(method)
    guarded = found.guarded()
    rows = []
    for row, layer in enumerate(found.layers):
        order = np.argsort(values[row], kind="stable")
        unseen = int((pooled.counts[row] == 0).sum())
        rows.append(
            (
                layer,
                "|" + _heat(values[row]) + "|",
                " ".join(map(str, order[:4])),
                unseen or "–",
                format_layers(list(guarded.get(layer, ()))) or "–",
            )
        )
    header = ("layer", f"{method} of experts 0 to {found.mixture.n_experts - 1}")
    echo(table(rows, (*header, "least needed", "unmeasured", "guarded")))
    for name, layers in found.own(method).items():
        listed = "; ".join(f"{n}: {format_layers(list(e))}" for n, e in layers.items())
        echo(f"\nused by {name} far more than by the others (layer: experts): {listed or 'none'}")
    note(
        f"{human_count(pooled.n_tokens)} tokens, {found.mixture.n_used} of "
        f"{found.mixture.n_experts} experts each; darker is needed more, within its layer"
    )


def _heat(values: Any) -> str:
    top = float(values.max()) or 1.0
    return "".join(SHADES[min(int(v / top * len(SHADES)), len(SHADES) - 1)] for v in values)
