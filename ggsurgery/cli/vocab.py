"""vocab: which tokens texts use, and models without the others."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from ..errors import printable
from ..ggufio.constants import Keys
from ..ggufio.header import read_header
from ..jobs.vocab import CountResult, CountVocabRequest, TrimResult, TrimVocabRequest
from ..present.numbers import human_bytes
from ..surgery.vocab_map import map_of_file
from ._files import FILE
from ._output import echo, json_option, note, print_json, table
from ._requests import Maker, perform, request_options
from ._surgery import Surgery, check_early, in_out, operate, surgery_options


@click.group()
def vocab() -> None:
    """Vocabularies: count the tokens that texts use, remove the others.

    \b
    Example:
      ggsurgery vocab count model.gguf --text texts.txt
      ggsurgery vocab trim --keep 32000 --text texts.txt model.gguf smaller.gguf
    """


@vocab.command()
@request_options(CountVocabRequest, arguments=("file",))
@json_option
def count(request: CountVocabRequest, as_json: bool) -> None:
    """Count which tokens some texts use, and how few would suffice.

    The last table gives sizes of a trimmed vocabulary and the share of the texts' tokens that
    stay whole; the others are split into shorter ones.

    \b
    Example:
      ggsurgery vocab count model.gguf --text texts.txt
      ggsurgery vocab count model.gguf --text texts.txt --plot curve.svg
    """
    found = perform(request, Path(request.file).name, "text")
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


@vocab.command()
@click.option("--map", "map_file", type=FILE, help="Write the map here; default: OUT.vocab.json.")
@surgery_options(TrimVocabRequest, skip=("file",))
@in_out
def trim(surgery: Surgery, make: Maker, source: Path, out: Path, map_file: Path | None) -> None:
    """Remove the tokens that some texts use least.

    Rows of the embedding and the output leave as bytes, with scores, types, merges and ids.
    Bytes, special tokens and tokens that the chat template prints are kept, so every text can be
    encoded. If all tokens of a text are kept, the model's output for it is unchanged.

    \b
    Example:
      ggsurgery vocab trim --keep 32000 --text texts.txt in.gguf out.gguf
      ggsurgery vocab trim --coverage 0.9999 --text texts.txt --always terms.txt in.gguf out.gguf
      ggsurgery vocab trim --drop-scripts cyrillic,han in.gguf out.gguf
    """
    target = map_file or out.with_name(out.name.removesuffix(".gguf") + ".vocab.json")
    request = make(TrimVocabRequest, file=source)
    inputs = [source, *map(Path, request.text)]
    inputs += [] if request.always is None else [Path(request.always)]
    check_early(inputs, out, surgery, target)
    found = perform(request, source.name, "text")
    if not surgery.as_json:
        _tell(found)
    step = found.kept.step(target)
    saving = found.kept.saving(target, inputs=inputs, force=surgery.force)
    with nullcontext() if surgery.dry_run else saving:
        operate(
            surgery,
            [step],
            [source],
            out,
            given={str(target): found.kept},
            spared=(*inputs[1:], target),
            figures=found.to_json(),
        )


@vocab.command("map")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--map", "map_file", type=FILE, help="The map; default: the one named in FILE.")
@json_option
def map_(file: Path, map_file: Path | None, as_json: bool) -> None:
    """Print which old id each token of a trimmed file had: new id, old id, token.

    \b
    Example:
      ggsurgery vocab map smaller.gguf
    """
    found = map_of_file(file, map_file)
    if as_json:
        print_json(found.to_json())
        return
    tokens = read_header(file).get(Keys.Tokenizer.LIST)
    for new, old in enumerate(found.old_ids):
        echo(f"{new}\t{old}\t{printable(tokens[new])}")


def _show(found: CountResult) -> None:
    usage = found.usage
    total = max(usage.n_tokens, 1)
    for what, groups in (("script", usage.scripts), ("kind", usage.kinds)):
        rows = [
            (k, f"{g.tokens:,}", f"{g.used:,}", f"{g.occurrences / total:.2%}")
            for k, g in list(groups.items())[:12]
        ]
        echo(table(rows, (what, "tokens", "used", "of the text")) + "\n")
    curve = [(f"{n:,}", f"{c:.4%}") for n, c in found.curve()]
    echo(table(curve, ("tokens kept", "of the text whole")))
    used = int((usage.order.counts > 0).sum())
    note(
        f"{usage.n_tokens:,} tokens of text use {used:,} of {len(usage.order.counts):,}; "
        f"{usage.order.least:,} must stay"
    )


def _tell(found: TrimResult) -> None:
    kept, (before, after) = found.kept, found.read
    note(f"vocabulary {kept.before:,} → {kept.after:,} tokens ({found.least:,} must stay)")
    if found.tokens is not None and found.whole is not None:
        first, second = found.tokens
        note(
            f"the texts: {1 - found.whole:.4%} of their tokens are split; "
            f"{first:,} → {second:,} tokens"
        )
    note(
        f"weights read for a token: {human_bytes(before)} → {human_bytes(after)}; expected speed "
        f"of generation × {found.speedup:.2f}"
    )
