"""Plan + headers + rules → the exact output file. Every check happens here.

A `FileLayout` is the table that a dry run prints and the very table that `execute`
consumes: metadata, and for each tensor its place and the job that makes its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..arch.types import MetadataChange
from ..errors import FormatError, GGSurgeryError, PlanError
from ..ggufio.constants import GGUF_VERSION, GGUFValueType, Keys
from ..ggufio.types import ByteOrder, Header, TensorInfo, Value, block_size, tensor_nbytes
from ..ggufio.writer import TENSOR_ALIGNMENT, padded
from ..plan.edits import BlendShell, Lora, Mask
from ..plan.types import Block, BlockRef, Edited, Plan, Take, references
from ..tensors.expr import Expr, Read, Slice, reads
from .aligned_header import aligned_header
from .metadata import kept_tensors
from .types_of_tensors import TypeChooser


@dataclass(frozen=True, slots=True)
class Copy:
    """The bytes of a tensor of source number `source`, as they are.

    Args:
        parts: half-open ranges along its outermost axis, such as experts; None: all of it.
    """

    source: int
    tensor: TensorInfo
    parts: tuple[tuple[int, int], ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        if self.parts is None:
            return self.tensor.shape
        return (*self.tensor.shape[:-1], sum(b - a for a, b in self.parts))


@dataclass(frozen=True, slots=True)
class Compute:
    """Values from an expression, encoded in the output tensor's type."""

    expr: Expr


@dataclass(frozen=True, slots=True)
class Piece:
    """One output tensor and where its bytes come from."""

    info: TensorInfo
    job: Copy | Compute


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The output file before it is written.

    `pieces` are in llama.cpp's own order (outside the layers first, then layer by layer,
    by name), so the same plan gives the same file regardless of the sources' order.
    """

    metadata: dict[str, Value]
    pieces: tuple[Piece, ...]
    order: ByteOrder
    alignment: int
    header: bytes
    warnings: tuple[str, ...]

    @property
    def n_parameters(self) -> int:
        return sum(p.info.n_elements for p in self.pieces)

    @property
    def n_bytes(self) -> int:
        """Size of the whole file."""
        if not self.pieces:
            return len(self.header)
        last = self.pieces[-1].info
        return len(self.header) + padded(last.offset + last.nbytes, self.alignment)

    @property
    def computes(self) -> bool:
        """Whether any tensor is computed and not only copied."""
        return any(isinstance(p.job, Compute) for p in self.pieces)

    def tensor_infos(self) -> tuple[TensorInfo, ...]:
        return tuple(p.info for p in self.pieces)

    def header_at(self, path: Path) -> Header:
        """The header that a file written to `path` will have."""
        return Header(
            (path,),
            GGUF_VERSION,
            self.order,
            self.alignment,
            self.metadata,
            self.tensor_infos(),
            (len(self.header),),
            (self.n_bytes,),
        )


@dataclass(frozen=True, slots=True)
class Pieces:
    """The output's tensors in their order, not yet in their places."""

    items: tuple[Piece, ...]
    warnings: tuple[str, ...] = ()

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        return tuple(p.info for p in self.items)


def pieces_of(
    plan: Plan, headers: Sequence[Header], change: MetadataChange, *, out_type: int | None = None
) -> Pieces:
    """Decide what the bytes of every tensor of the output are made of.

    Args:
        plan: what the new model is made of.
        headers: the sources, in the plan's order.
        change: the architecture's rules applied to this plan.
        out_type: ggml type for tensors that are computed; None keeps the source's type.

    Raises:
        FormatError: a source lacks the tensors of a layer, or byte orders differ.
        ArchitectureError: a layer has other tensors than its place can hold.
        PlanError: `out_type` cannot be written, or an edit concerns no tensor.
    """
    shell = headers[plan.shell]
    for header in headers:
        if header.order != shell.order:
            raise FormatError("byte order differs from the other source", file=header.path)
        _check_layers(header)
    chooser = TypeChooser(out_type)
    pieces = _shell_pieces(plan, headers, change, chooser)
    for index, block in enumerate(plan.stack):
        pieces += _block_pieces(index, block, headers, change, chooser)
    try:
        pieces = _edited(plan, _kept(plan, pieces, shell), headers, chooser)
    except GGSurgeryError as error:
        raise error.at(file=shell.path) from error
    _check_reads(pieces, headers)
    pieces.sort(key=_order)
    warnings = (*change.warnings, *chooser.warnings())
    return Pieces(tuple(pieces), tuple(dict.fromkeys(warnings)))


def pieces_as_they_are(plan: Plan, header: Header) -> Pieces:
    """The tensors of any GGUF file, but for those that the plan drops."""
    pieces = _kept(plan, [Piece(t, Copy(0, t)) for t in header.tensors], header)
    if plan.stack:  # a model: llama.cpp's order
        pieces.sort(key=_order)
    return Pieces(tuple(pieces))


def lay_out(
    pieces: Pieces, metadata: dict[str, Value], headers: Sequence[Header], shell: int = 0
) -> FileLayout:
    """The pieces in their places, with the header in front.

    Args:
        metadata: all metadata of the output.
        headers: the sources, in the plan's order; number `shell` gives order and alignment.
    """
    main = headers[shell]
    alignment = max(main.alignment, TENSOR_ALIGNMENT)
    if alignment != main.alignment:  # llama.cpp aborts on files that are aligned below it
        raised = Value.of(alignment, GGUFValueType.UINT32, order=main.order)
        metadata = metadata | {Keys.General.ALIGNMENT: raised}
    placed = tuple(place(pieces.items, alignment))
    copies = [
        (headers[p.job.source].data_offset[p.job.tensor.shard] + p.job.tensor.offset, p.info)
        for p in placed
        if isinstance(p.job, Copy) and p.job.parts is None
    ]
    infos = [p.info for p in placed]
    metadata, header_bytes = aligned_header(metadata, infos, copies, main.order, alignment)
    return FileLayout(metadata, placed, main.order, alignment, header_bytes, pieces.warnings)


def _order(piece: Piece) -> tuple[int, str]:
    return -1 if piece.info.layer is None else piece.info.layer, piece.info.name


def _kept(plan: Plan, pieces: list[Piece], header: Header) -> list[Piece]:
    kept = kept_tensors([p.info.name for p in pieces], plan.edits, header.path)
    return [p for p in pieces if p.info.name in kept]


def _check_layers(header: Header) -> None:
    count = header.n_layers
    for tensor in header.tensors:
        layer = tensor.layer
        if layer is not None and layer >= count:
            raise FormatError(
                "tensor of a layer that the header does not count",
                file=header.path,
                tensor=tensor.name,
                expected=f"block_count above {layer}",
                found=count,
                hint="`ggsurgery verify` lists what is wrong with this file.",
            )


def _shell_pieces(
    plan: Plan, headers: Sequence[Header], change: MetadataChange, chooser: TypeChooser
) -> list[Piece]:
    """The tensors outside the layers: the shell's, or a blend of all models' tensors."""
    likes = {t.name: t for t in headers[plan.shell].shell}
    exprs: dict[str, Expr | None] = {n: Read(plan.shell, t) for n, t in likes.items()}
    blend = next((e for e in plan.edits if isinstance(e, BlendShell)), None)
    if blend is not None:
        from .model_edits import blended_shell

        for number in blend.sources:
            likes = {t.name: t for t in headers[number].shell} | likes
        exprs = blended_shell(blend, list(likes), headers)
    pieces = []
    for name, like in likes.items():
        expr = change.tensors.get(name) or exprs[name]
        if isinstance(expr, Read) and expr.tensor.shape == like.shape:
            pieces.append(Piece(expr.tensor, Copy(expr.source, expr.tensor)))
        elif expr is not None:
            pieces.append(_computed(name, expr, like, chooser))
    return pieces


def _block_pieces(
    index: int,
    block: Block,
    headers: Sequence[Header],
    change: MetadataChange,
    chooser: TypeChooser,
) -> list[Piece]:
    refs = references(block)
    main = headers[refs[0].source]
    tensors = main.layer_tensors(refs[0].index)
    if not tensors:
        raise FormatError(
            "the layer has no tensors",
            file=main.path,
            tensor=f"blk.{refs[0].index}.*",
            hint="`ggsurgery verify` lists what is wrong with this file.",
        )
    get, likes = _lowering(block, headers), dict(tensors)
    for ref in refs[1:]:  # biases and scales that only another parent has
        likes = headers[ref.source].layer_tensors(ref.index) | likes
    if isinstance(block, Edited):
        from ..tensors.to_expr import check_names

        try:
            check_names(block, likes)
        except PlanError as error:
            raise error.at(file=main.path) from error
    pieces = []
    for suffix, like in likes.items():
        name = f"blk.{index}.{suffix}"
        try:
            expr = change.tensors.get(name) or get(suffix)
        except GGSurgeryError as error:
            raise error.at(file=main.path) from error
        if expr is None:
            continue
        if isinstance(expr, Read) and expr.tensor.shape == like.shape:
            pieces.append(Piece(replace(expr.tensor, name=name), Copy(expr.source, expr.tensor)))
        elif (job := _parts(expr)) is not None:
            nbytes = tensor_nbytes(job.shape, job.tensor.type)
            assert nbytes is not None
            pieces.append(Piece(TensorInfo(name, job.shape, job.tensor.type, 0, nbytes), job))
        else:
            pieces.append(_computed(name, expr, like, chooser))
    return pieces


def _parts(expr: Expr) -> Copy | None:
    """The copy that a slice along the outermost axis is; None for anything else."""
    if not isinstance(expr, Slice) or not isinstance(expr.input, Read):
        return None
    tensor = expr.input.tensor
    whole = tensor.nbytes % tensor.shape[-1] == 0 and block_size(tensor.type) is not None
    if expr.axis != len(tensor.shape) - 1 or not whole:
        return None
    return Copy(expr.input.source, tensor, expr.ranges)


def _lowering(block: Block, headers: Sequence[Header]) -> Callable[[str], Expr | None]:
    def read(ref: BlockRef, suffix: str) -> Expr | None:
        tensor = headers[ref.source].layer_tensors(ref.index).get(suffix)
        return None if tensor is None else Read(ref.source, tensor)

    if isinstance(block, Take):
        ref = block.ref
        return lambda suffix: read(ref, suffix)
    from ..tensors.to_expr import Lowered

    return Lowered(block, read).get


def _check_reads(pieces: Sequence[Piece], headers: Sequence[Header]) -> None:
    """Every tensor that something is computed from must be readable."""
    exprs = [p.job.expr for p in pieces if isinstance(p.job, Compute)]
    if not exprs:
        return
    from ..tensors.read_rows import check_readable

    for read in dict.fromkeys(r for expr in exprs for r in reads(expr)):
        check_readable(headers[read.source], read.tensor)


def _edited(
    plan: Plan, pieces: list[Piece], headers: Sequence[Header], chooser: TypeChooser
) -> list[Piece]:
    """The pieces behind the plan's adapters, and then its masks.

    A weight that changes takes its scale up.
    """
    masks = tuple(e for e in plan.edits if isinstance(e, Mask))
    adapters = [e for e in plan.edits if isinstance(e, Lora)]
    if not masks and not adapters:
        return pieces
    from .lora import adapted
    from .model_edits import check_imatrices, masked, with_folded_scales

    for edit in adapters:
        exprs = {p.info.name: _expression(p) for p in pieces}
        changed = with_folded_scales(adapted(edit, exprs), exprs)
        pieces = _changed(pieces, changed, chooser)
    if masks:
        check_imatrices(masks, headers)
        exprs = {p.info.name: _expression(p) for p in pieces}
        pieces = _changed(pieces, masked(masks, exprs), chooser)
    return pieces


def _changed(
    pieces: Sequence[Piece], changed: Mapping[str, Expr | None], chooser: TypeChooser
) -> list[Piece]:
    """The pieces with some computed otherwise, and without those that are None."""
    out = []
    for piece in pieces:
        if (name := piece.info.name) not in changed:
            out.append(piece)
        elif (expr := changed[name]) is not None:
            out.append(_computed(name, expr, piece.info, chooser))
    return out


def _expression(piece: Piece) -> Expr:
    if isinstance(piece.job, Compute):
        return piece.job.expr
    read = Read(piece.job.source, piece.job.tensor)
    if piece.job.parts is None:
        return read
    return Slice(read, len(read.tensor.shape) - 1, piece.job.parts)


def _computed(name: str, expr: Expr, like: TensorInfo, chooser: TypeChooser) -> Piece:
    from ..tensors.shape import shape_of

    shape = shape_of(expr)
    kind = chooser.choose(shape, like, name)
    nbytes = tensor_nbytes(shape, kind)
    assert nbytes is not None  # the chooser only gives types that can be encoded
    return Piece(TensorInfo(name, shape, kind, 0, nbytes), Compute(expr))


def place(pieces: Sequence[Piece], alignment: int) -> list[Piece]:
    """The pieces one behind the other, each with its offset in the data section."""
    offset, placed = 0, []
    for piece in pieces:
        size = piece.info.nbytes
        if block_size(piece.info.type) is None:  # its size is the distance to the next tensor
            size = padded(size, alignment)
        info = replace(piece.info, offset=offset, shard=0, nbytes=size)
        placed.append(replace(piece, info=info))
        offset += padded(size, alignment)
    return placed
