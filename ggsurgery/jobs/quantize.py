"""Quantize a model: one file type, several, the mix of another file, or a mix for a size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ..errors import RequestError
from ..files.atomic import check_output
from ..files.progress import NamedProgress, Progress
from ..ggufio.header import read_header
from ..quantize.ladder import Ladder, ladder
from ..quantize.like import like as like_mix
from ..quantize.like import with_pins
from ..quantize.remap import matching
from ..quantize.split import make_split
from ..quantize.target import Decision, budget_of, for_size
from ..runtime.quantize import Planned, plan
from ..runtime.quantize_plan import QuantizeResult, requantized_warning
from ..surgery.imatrix_lineage import Of
from . import cautions
from .fields import Force, ParseSpecial, SplitMaxSize, Threads, corpus, size_in_bytes
from .request import FilePath, Settings, Texts, option


class QuantizeOptions(Settings, frozen=True, kw_only=True):
    """The options that determine the types besides the file type."""

    tensor_types: Annotated[
        Texts,
        option(
            "Tensors whose name matches get this type; the first match counts.",
            metavar="REGEX=TYPE",
            flag="tensor-type",
        ),
    ] = ()
    pure: Annotated[bool, option("Every tensor in the base type, no mix.")] = False
    leave_output: Annotated[bool, option("Leave output.weight as it is.")] = False
    allow_requantize: Annotated[
        bool, option("Quantize tensors that are quantized already, with a warning.")
    ] = True

    def keywords(self) -> dict[str, Any]:
        """As `runtime.quantize.plan` takes them."""
        names = ("allow_requantize", "pure", "leave_output", "tensor_types")
        return {name: getattr(self, name) for name in names}


class QuantizeSettings(QuantizeOptions, frozen=True, kw_only=True):
    """A recipe's section `quantize`."""

    types: Annotated[Texts, option("File types, each a file of its own.")]
    pin: Annotated[bool, option("Types as the uncut model would have had them.")] = False


@dataclass(frozen=True, slots=True)
class Quantized:
    """The files that were made, or would be.

    Args:
        source_bytes: of the source's tensors.
        notes: what the user may want to know, such as tensors that got another type.
        decision: what was picked for a size.
    """

    results: tuple[QuantizeResult, ...]
    source: Path
    source_bytes: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class QuantizePlan:
    """A quantization that was checked; types and sizes are known, nothing is written.

    Args:
        warnings, notes: to be shown before the work.
    """

    request: QuantizeRequest
    planned: Planned | None
    ladder: Ladder | None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    decision: Decision | None = None

    @property
    def bytes_to_write(self) -> int:
        """Size of the files that do not exist yet."""
        if self.planned is not None:
            return self.planned.result.n_bytes
        assert self.ladder is not None
        return self.ladder.bytes_to_write

    def without_writing(self) -> Quantized:
        """The files that a run would write."""
        rungs = () if self.ladder is None else self.ladder.rungs
        planned = [self.planned] if self.planned is not None else [r.planned for r in rungs]
        return self._found([p.result for p in planned])

    def make(self, progress: NamedProgress | None = None) -> Quantized:
        """Write the files.

        Raises:
            OutputError: one exists, is an input, or the disk has no room.
        """
        request = self.request
        if self.ladder is not None:
            return self._found(list(self.ladder.make(force=request.force, progress=progress)))
        assert self.planned is not None and request.out is not None
        out = Path(request.out)

        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(out.name, done, total)

        if request.split_bytes is None:
            made = self.planned.make(out, force=request.force, progress=report)
        else:
            made = make_split(
                self.planned, out, request.split_bytes, force=request.force, progress=report
            )
        return self._found([made])

    def _found(self, results: list[QuantizeResult]) -> Quantized:
        source = read_header(self.request.file)
        return Quantized(
            tuple(results),
            source.path,
            source.n_bytes,
            tuple(text for r in results for text in cautions.of_quantized(r)),
            tuple(text for r in results for text in cautions.of_types(r)),
            self.decision,
        )


class QuantizeRequest(QuantizeOptions, frozen=True, kw_only=True):
    """Quantize a file to the bytes that llama-quantize of the same version writes.

    Example:
        >>> QuantizeRequest(file="in.gguf", out="q8.gguf", type="Q8_0").run()  # doctest: +SKIP
    """

    file: Annotated[FilePath, option("The model.", metavar="IN")]
    out: Annotated[FilePath | None, option("One output.", metavar="OUT", role="output")] = None
    type: Annotated[str | None, option("One file type: Q4_K_M, Q8_0, IQ3_M …", metavar="TYPE")] = (
        None
    )
    types: Annotated[
        Texts, option("Several file types, into `out_dir`.", metavar="A,B,…", joined=True)
    ] = ()
    out_dir: Annotated[
        FilePath | None, option("Folder for `types`; files are NAME-TYPE.gguf.", role="output")
    ] = None
    imatrix: Annotated[FilePath | None, option("Importance matrix of this model.")] = None
    imatrix_of: Annotated[
        Of | None,
        option("The model of a matrix that keeps no trace of it: IN, or the uncut model (base)."),
    ] = None
    like: Annotated[FilePath | None, option("The mix of another file.", metavar="OTHER")] = None
    pin: Annotated[
        FilePath | None,
        option(
            "Types as the uncut model would have had them; IN's header records what was cut.",
            metavar="UNCUT",
        ),
    ] = None
    target_size: Annotated[
        str | None, option("The largest size: 1.2GiB, 900MB …", metavar="SIZE")
    ] = None
    target_bpw: (
        Annotated[float, option("The most bits per weight.", gt=0, le=32, metavar="BITS")] | None
    ) = None
    text: Annotated[
        FilePath | None,
        option(
            "With a target: measure sensitivities on this text and mix types per tensor.",
            short="-f",
        ),
    ] = None
    parse_special: ParseSpecial = False
    threads: Threads = None
    force: Force = False
    split_max_size: SplitMaxSize = None

    @property
    def split_bytes(self) -> int | None:
        """`split_max_size` in bytes."""
        size = self.split_max_size
        return None if size is None else size_in_bytes("split_max_size", size)

    @property
    def _is_target(self) -> bool:
        return self.target_size is not None or self.target_bpw is not None

    def agree(self) -> None:
        several = self.types or None
        if self.pin is not None and self.type is None and several is None:
            raise RequestError("`pin` goes with `type` or `types`")
        ways = [self.type, several, self.like, self.target_size, self.target_bpw]
        if sum(way is not None for way in ways) != 1:
            raise RequestError(
                "exactly one of `type`, `types`, `like`, `target_size`, `target_bpw` is needed"
            )
        if self.text is not None and not self._is_target:
            raise RequestError("`text` goes with `target_size` or `target_bpw`")
        if self.parse_special and self.text is None:
            raise RequestError("`parse_special` goes with `text`")
        if self.imatrix_of is not None and self.imatrix is None:
            raise RequestError("`imatrix_of` goes with `imatrix`")
        if several and (self.out_dir is None or self.out is not None):
            raise RequestError("`types` needs `out_dir` and no OUT")
        if not several and self.out_dir is not None:
            raise RequestError("`out_dir` goes with `types`")
        if self.split_max_size is not None:
            size_in_bytes("split_max_size", self.split_max_size)
        if self.target_size is not None:
            size_in_bytes("target_size", self.target_size)
        if self._is_target and (self.tensor_types or self.pure or self.leave_output):
            raise RequestError(
                "a target decides the types itself: no `tensor_types`, `pure`, `leave_output`"
            )

    def check(self) -> list[str]:
        """Refuse an output in the way, before the probes of a target."""
        if self.out is not None:
            others = (self.imatrix, self.like, self.pin, self.text)
            inputs = [*read_header(self.file).paths, *(Path(p) for p in others if p is not None)]
            check_output(Path(self.out), inputs, force=self.force)
        return []

    def run(self, progress: Progress | None = None) -> Quantized:
        """Plan and write.

        Raises:
            RequestError: no output is named.
        """
        if self.out is None and not self.types:
            raise RequestError("OUT is missing")
        self.check()
        planned = self.plan()
        made = planned.make(None if progress is None else lambda _, d, n: progress(d, n))
        return replace(made, warnings=(*planned.warnings, *made.warnings))

    def plan(self, progress: NamedProgress | None = None) -> QuantizePlan:
        """Decide the types; with a target and a text, probe the tensors in child processes.

        Args:
            progress: of the probes.

        Raises:
            EngineError: llama.cpp cannot make such a file, or none is small enough.
        """
        notes: list[str] = []
        options = self.keywords() | {"n_threads": self.threads}
        if self.imatrix is not None:
            options["imatrix"], change = matching(self.imatrix, self.file, self.imatrix_of)
            if change is not None:
                better = f"a matrix collected on {Path(self.file).name} is better"
                notes.append(f"{self.imatrix}: {change}; {better}")
        decision = rungs = planned = None
        if self.types:
            assert self.out_dir is not None
            options |= {"pin": self.pin, "split_max_size": self.split_bytes}
            rungs = ladder(self.file, list(self.types), self.out_dir, **options)
            there = [r.path.name for r in rungs.rungs if r.there]
            if there and not self.force:
                notes.append(f"up to date, skipped: {', '.join(there)}")
            result = max((r.result for r in rungs.rungs), key=lambda r: r.requantized)
        else:
            if self._is_target:
                decision = self._decide(options, progress)
                planned = decision.planned
                if self.text is None:
                    notes.append(
                        "no `text`: picking by size alone; with a text types are mixed by "
                        "sensitivity"
                    )
                notes.append(f"picked: {decision.why}")
            else:
                ftype, options = self._mix(options, notes)
                (planned,) = plan(self.file, [ftype], **options)
            result = planned.result
        warning = requantized_warning(result, str(self.file))
        warnings = () if warning is None else (warning,)
        return QuantizePlan(self, planned, rungs, warnings, tuple(notes), decision)

    def _mix(self, options: dict[str, Any], notes: list[str]) -> tuple[str, dict[str, Any]]:
        """The file type and the options, with the types of another file's tensors."""
        if self.like is not None:
            ftype, found, words = like_mix(self.file, self.like)
            notes.append(f"taking {words}")
            return ftype, options | {"tensor_types": [*self.tensor_types, *found]}
        assert self.type is not None
        if self.pin is None:
            return self.type, options
        notes.append(f"types pinned to the types of {Path(self.pin).name}")
        return self.type, with_pins(self.file, self.pin, self.type, options)

    def _decide(self, options: dict[str, Any], progress: NamedProgress | None) -> Decision:
        """The choice for a target size."""
        kept = {k: options[k] for k in ("imatrix", "allow_requantize", "n_threads") if k in options}
        if self.target_size is not None:
            budget = size_in_bytes("target_size", self.target_size)
        else:
            assert self.target_bpw is not None
            budget = budget_of(self.file, self.target_bpw)
        return for_size(
            self.file,
            budget,
            text=None if self.text is None else corpus(self.text),
            parse_special=self.parse_special,
            folder=None if self.out is None else Path(self.out).parent,
            progress=progress,
            **kept,
        )
