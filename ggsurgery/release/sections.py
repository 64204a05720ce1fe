"""The sections of a model card, each computed from the files and the results.

Every function returns Markdown lines, or none where nothing was measured: a missing result
leaves its section out.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ggufio.types import Header
from ..measure.registry import metric_of
from ..measure.results.recovery import HEAD, NOTE, Recovery
from ..measure.results.result_files import Results
from ..measure.results.score import Score
from ..measure.retention import LEGEND
from ..measure.retention import retention as kept
from ..present.markdown import Markdown, code, plain
from ..present.numbers import figure_in_words, human_bytes, percent_in_words
from ..present.table import Table
from ..surgery.provenance import read_provenance
from .modelfile import Chat
from .origin import imatrix_lines
from .request import ReleaseFile, Request

#: Perplexity of this many times the original's: text without sense, by experience.
HOPELESS = 3.0
#: Where quantizing begins to cost much: Q2_K and the types below it.
FEW_BITS = 3.5


def made_by(header: Header) -> list[str]:
    """The operations that made the file, out of its own header."""
    if "ggsurgery.recipe" not in header.metadata:
        return []
    known = read_provenance(header)
    steps = [s for s in known.recipe.steps if s.operation not in ("set", "unset")]
    lines = ["## How it was made", ""]
    if steps:
        lines += ["Layers are numbered from 0, as they are after the previous step.", ""]
        lines += [f"{n}. {plain(step.describe())}" for n, step in enumerate(steps, 1)]
    else:
        lines.append("No layer was changed; header and file type only.")
    lines += [
        "",
        f"Source: {', '.join(map(code, known.sources))}. The recipe, the "
        "sources' checksums and the tool's version are in the header "
        f"(`ggsurgery.*`, version {plain(known.version)}).",
    ]
    return lines


def statistics(header: Header, original: Results | None) -> list[str]:
    """Layers and parameters before and after, counted from the shapes."""
    rows: list[tuple[str, ...]] = []
    before = original.model if original else None
    for what, old, new in (
        ("Layers", before.layers if before else None, header.n_layers),
        ("Parameters", before.parameters if before else None, header.n_parameters),
    ):
        change = f"{100 * (new / old - 1):+.2f} %" if old else "–"
        rows.append((what, f"{old:,}" if old else "–", f"{new:,}", change))
    context = header.get("{arch}.context_length")
    table = Table(("", "original", "this model", "change"), rows)
    lines = ["## Layers and parameters", "", table.markdown()]
    long = f", context of {context:,} tokens" if isinstance(context, int) else ""
    return [*lines, "", f"Architecture {code(header.architecture)}{long}."]


def files_table(files: Sequence[ReleaseFile], best: ReleaseFile, why: str) -> list[str]:
    """One line a file: size, bits, memory, perplexity."""
    with_memory = any(f.memory for f in files)
    with_perplexity = any(f.value("perplexity") is not None for f in files)
    head = ["file", "type", "size", "bits per weight"]
    head += ["RAM"] if with_memory else []
    head += ["perplexity"] if with_perplexity else []
    rows = []
    for f in files:
        mark = " (recommended)" if f is best else ""
        link = Markdown(f"[{code(f.name)}]({f.name}){mark}")
        row: list[str | None] = [link, f.ftype, human_bytes(f.n_bytes), f"{f.bits_per_weight:.2f}"]
        if with_memory:
            row.append(human_bytes(f.memory["bytes"] if f.memory else None))
        if with_perplexity:
            row.append(_figure(f.results.score("perplexity") if f.results else None))
        rows.append(row)
    table = Table(head, rows).markdown()
    lines = ["## Files", "", table, "", f"Recommended: `{best.name}` – {why}."]
    lines += imatrix_lines(files)
    if with_memory:
        context = next(f.memory["n_ctx"] for f in files if f.memory)
        lines.append(
            f"RAM is the peak of loading the file with a context of {context:,} tokens "
            "and reading a prompt of 512 tokens, on a CPU."
        )
    return lines


def won_back(found: Recovery | None) -> list[str]:
    """The recovery of the cut's loss by healing and training, and the control."""
    if found is None:
        return []
    lines = ["## What each step won back", "", Table(HEAD, found.rows()).markdown(), "", NOTE]
    return [*lines, "", plain(found.verdict)] if found.verdict else lines


def perplexity(files: Sequence[ReleaseFile], original: Results | None) -> list[str]:
    """Perplexity of the original and of each file, with its error and ratio."""
    measured = [(f.name, f.results.score("perplexity")) for f in files if f.results]
    scores = [(name, score) for name, score in measured if score is not None]
    if not scores:
        return []
    base = original.score("perplexity") if original else None
    rows = []
    if base is not None:
        rows.append(("original", _figure(base), "1.000"))
    for name, score in scores:
        ratio = f"{score.value / base.value:.3f}" if base is not None else "–"
        rows.append((name, _figure(score), ratio))
    facts = scores[0][1].provenance
    text = facts.get("text")
    how = [
        f"chunks of {plain(facts['n_ctx'])} tokens" if "n_ctx" in facts else "",
        f"{scores[0][1].n:,} tokens scored",
        f"text {code(text)}" if text else "",
    ]
    return [
        "## Perplexity",
        "",
        Table(("", "perplexity", "ratio"), rows).markdown(),
        "",
        f"As llama-perplexity defines it: {', '.join(h for h in how if h)}.",
    ]


def retention(files: Sequence[ReleaseFile], original: Results | None) -> list[str]:
    """Benchmarks of the original and of each file, the share retained, and its status word."""
    if original is None:
        return []
    rows = []
    for base in original.all_scores:
        row = metric_of(base.metric)
        if row is None or row.headline is None or row.unit != "share":
            continue
        for f in files:
            score = f.results.score(base.label) if f.results else None
            if score is None:
                continue
            share, word = kept(base, score)
            if share is None:
                continue
            rows.append(
                (
                    score.label,
                    f.ftype,
                    f"{score.n:,}",
                    _percent(base),
                    _percent(score),
                    f"{100 * share:.1f} %",
                    word,
                )
            )
    if not rows:
        return []
    head = ("benchmark", "file", "questions", "original", "this model", "retained", "status")
    return [
        "## Benchmarks",
        "",
        Table(head, rows).markdown(),
        "",
        f"{LEGEND} ± is one standard error; in brackets is a 95 % interval.",
    ]


def divergence(files: Sequence[ReleaseFile]) -> list[str]:
    """KL divergence of each file from the original, and how often both agree on the next token."""
    rows, facts, n = [], None, 0
    for f in files:
        mean = f.results.score("kl_mean") if f.results else None
        if f.results is None or mean is None:
            continue
        tail, same = f.results.score("kl_p99"), f.results.score("top1_agreement")
        rows.append((f.name, _figure(mean), _figure(tail), _percent(same)))
        facts, n = mean.provenance, mean.n
    if facts is None:
        return []
    said = f"KL divergence of the next-token predictions at {n:,} positions"
    said += f" of {code(facts['text'])}." if "text" in facts else "."
    if facts.get("lower_bound"):
        said += " A lower bound: of the original only the likeliest tokens were kept."
    head = ("", "mean KL (nats)", "99 % below", "same likeliest token")
    return ["## Divergence from the original", "", Table(head, rows).markdown(), "", said]


def suite(files: Sequence[ReleaseFile], original: Results | None) -> list[str]:
    """The score out of 100 and its parts, of the original and of each file."""
    named = [("original", original)] if original else []
    named += [(f.name, f.results) for f in files if f.results]
    found = [(name, r.suite, r) for name, r in named if r is not None and r.suite is not None]
    if not any(name != "original" for name, _, _ in found):
        return []
    parts = [p.name for p in found[-1][1].applicable]
    rows = []
    for name, score, results in found:
        shares = {p.name: f"{p.value:.2f}" for p in score.applicable}
        against = next((c for c in results.comparisons if c.get("label") == "surgery"), None)
        rows.append(
            (
                name,
                f"{score.total:.1f}",
                f"{score.interval.low:.1f} – {score.interval.high:.1f}",
                *(shares.get(p, "–") for p in parts),
                against["verdict"] if against else "–",
            )
        )
    head = ("", "score", "95 % interval", *parts, "against the original")
    return [
        "## Score of 100",
        "",
        Table(head, rows).markdown(),
        "",
        f"`ggsurgery evaluate`: {found[-1][1].n} questions and openings; parts are shares "
        "of their best.",
    ]


def controls(files: Sequence[ReleaseFile]) -> list[str]:
    """The results of the evaluation's controls."""
    said = [(f.name, f.results.verdict) for f in files if f.results and f.results.verdict]
    if not said:
        return []
    return [
        "## Was it worth it?",
        "",
        *(f"- {code(name)}: {plain(verdict)}" for name, verdict in said),
    ]


def limitations(
    request: Request, files: Sequence[ReleaseFile], chat: Chat, errors: Sequence[str] = ()
) -> list[str]:
    """Limitations for users, derived from what was measured and what was not.

    Args:
        errors: errors that checks of the files found.
    """
    lines = [f"A check of the files found an error: {error}." for error in errors]
    base = request.original.score("perplexity") if request.original else None
    values = [v for f in files if (v := f.value("perplexity")) is not None]
    if base is not None and values:
        ratio = min(values) / base.value
        if ratio > 1.05:
            lines.append(
                f"Even the best file predicts text worse than the original: its "
                f"perplexity is {ratio:.2f} times as high."
            )
        if ratio > HOPELESS:
            lines.append("At that loss the model is not usable without further training.")
    if not retention(files, request.original):
        lines.append("No benchmark of knowledge or reasoning was run on this model.")
    if not values:
        lines.append("Perplexity was not measured.")
    small = [f.ftype for f in files if f.bits_per_weight < FEW_BITS]
    if small and len(small) < len(files):
        lines.append(
            f"Below {FEW_BITS:g} bits per weight ({', '.join(small)}) models usually lose "
            "much more than above; take a larger file where it fits."
        )
    lines += chat.notes
    return ["## Limitations", "", *(f"- {plain(line)}" for line in lines)] if lines else []


def recovery(header: Header) -> list[str]:
    """Advice, where layers were changed."""
    if "ggsurgery.recipe" not in header.metadata:
        return []
    steps = read_provenance(header).recipe.steps
    if all(step.operation in ("set", "unset") for step in steps):
        return []
    advice = (
        "Part of the quality lost to surgery can be recovered: by LoRA fine-tuning on a few "
        "million tokens of "
        "the original's data, or distillation from the original. Without training, "
        "`ggsurgery heal` fits the weights before a cut to the output of the removed layers."
    )
    return ["## Recovering quality", "", advice]


def _figure(score: Score | None) -> str | None:
    return None if score is None else figure_in_words(score.value, score.stderr, score.interval)


def _percent(score: Score | None) -> str | None:
    return None if score is None else percent_in_words(score.value, score.stderr, score.interval)
