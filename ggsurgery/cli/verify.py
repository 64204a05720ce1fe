"""verify: whether a file is whole and consistent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from ..arch import Finding
from ..errors import GGSurgeryError, printable
from ..ggufio.header import read_header
from ..ggufio.purpose import MODEL, purpose
from ..ggufio.reader import Source
from ..ggufio.types import Header
from ..host import use_threads
from ..inspect.verify import verify as find_faults
from ..jobs.surgery import SurgerySettings
from ._files import FILE
from ._output import echo, json_option, print_json
from ._progress import bytes_bar
from ._requests import field_option


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
@click.option(
    "--deep",
    is_flag=True,
    help="Also look for NaN in the weights, ask llama.cpp whether it loads the file, and run "
    "`tokenizer check`.",
)
@field_option(SurgerySettings, "threads")
@json_option
def verify(file: Path, deep: bool, threads: int | None, as_json: bool) -> None:
    """Check a file: structure, layers, per-layer arrays, tokenizer. Exit code 1 on errors.

    \b
    Example:
      ggsurgery verify model.gguf
      ggsurgery verify --deep model.gguf
    """
    header = read_header(file)
    found = find_faults(header)
    if deep:
        with use_threads(threads):
            found = _deep(header, found)
    errors = [f for f in found if f.severity == "error"]
    if as_json:
        print_json({"file": file.name, "ok": not errors, "findings": [asdict(f) for f in found]})
    else:
        for f in found:
            echo(printable(f"{f.severity}: {f.where}: {f.message}"))
        kind = purpose(header)
        verdict = "" if kind is MODEL else f"{kind.name}, "
        verdict += f"{len(errors)} error(s)" if errors else "whole and consistent"
        echo(f"{file}: {len(header.tensors)} tensors, {len(header.metadata)} entries: {verdict}")
    if errors:
        sys.exit(1)


def _deep(header: Header, found: Sequence[Finding]) -> list[Finding]:
    """The findings plus those about the weights, from llama.cpp and about the tokenizer.

    A check that fails is itself a finding; the other checks are kept.
    """
    findings = list(found)
    for where, check in (
        ("weights", _weight_faults),
        ("llama.cpp", _load_faults),
        ("tokenizer", _tokenizer_faults),
    ):
        try:
            findings += check(header, found)
        except GGSurgeryError as error:
            findings.append(Finding("error", where, error.problem))
        except Exception as error:  # noqa: BLE001 - must not hide the file's own errors
            problem = f"the check failed: {type(error).__name__}: {error}"
            findings.append(Finding("error", where, problem))
    return findings


def _weight_faults(header: Header, _found: Sequence[Finding]) -> list[Finding]:
    from ..inspect.nonfinite import nonfinite_tensors

    with Source(header.path) as source, bytes_bar("weights", source.header.n_bytes) as bar:
        return list(nonfinite_tensors(source, bar.update))


def _load_faults(header: Header, _found: Sequence[Finding]) -> list[Finding]:
    from ..arch.asked import surveyed
    from ..runtime.loadable import refusal

    model = header.architecture in surveyed() and header.tensors and header.order == "<"
    if model and (reason := refusal(header.path)):
        return [Finding("error", "llama.cpp", f"does not load the file: {reason}")]
    return []


def _tokenizer_faults(header: Header, found: Sequence[Finding]) -> list[Finding]:
    """Findings of the tokenizer check, without those already reported."""
    from ..jobs.tokenizer import CheckTokenizerRequest

    if "tokenizer.ggml.tokens" not in header.metadata:
        return [Finding("note", "tokenizer", "not checked: the file has no vocabulary")]
    if any(f.severity == "error" and f.where.startswith("tokenizer.") for f in found):
        return [Finding("note", "tokenizer", "not run: its errors are listed above")]
    report = CheckTokenizerRequest(file=header.path).run().report
    return [Finding(f.level, f"tokenizer: {f.check}", f.message) for f in report.findings]
