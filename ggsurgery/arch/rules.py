"""Applying a family's rules to headers and plans.

Every output layer must have the kind of its main source layer. Arrays are gathered, counts
recounted, and patterns written explicitly if a header can state them. Then the new header is read
as llama.cpp would read it, and a layer of any other kind stops the surgery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArchitectureError, PlanError
from ..ggufio.types import Header, Value
from ..plan.edits import KeepChannels, KeepGroups
from ..plan.ops import expert_edits
from ..plan.text import format_layers
from ..plan.types import BlockRef, Plan, has_edit, main_reference, references
from . import arrays, layer_count, layer_kinds, properties
from .rulefile import RuleFile
from .types import LayerKind, MetadataChange


@dataclass(frozen=True)
class ArchRules:
    """The rules of one architecture.

    Args:
        family: the architecture's name as in the header.
        known: whether a rule file describes it.
        rules: the rule file; empty for an unknown architecture.
        allow_unknown: permit operations that may break an unknown architecture.
    """

    family: str
    known: bool
    rules: RuleFile
    allow_unknown: bool = False

    def n_tail(self, header: Header) -> int:
        """MTP / nextn layers behind the trunk, which `block_count` includes."""
        return layer_kinds.n_tail(header)

    def kinds(self, header: Header) -> tuple[LayerKind, ...]:
        """The kind of every layer, trunk and tail."""
        return layer_kinds.kinds(self.rules, header)

    def rewrite(
        self, headers: Sequence[Header], plan: Plan, *, force_kinds: bool = False
    ) -> MetadataChange:
        """Everything in the output that depends on a layer's index or on their count.

        Args:
            force_kinds: permit blends of layers of different kinds.

        Raises:
            ArchitectureError: a layer's kind would change in the output, and metadata cannot
            prevent it.
            PlanError: the plan uses a layer that its source does not have.
        """
        _check_references(headers, plan)
        change = MetadataChange()
        if any(expert_edits(block) for block in plan.stack):
            from . import experts

            change.set |= experts.rewrite(headers, plan)
        if self._moves(headers, plan):
            self._move(headers, plan, change, force_kinds=force_kinds)
        if any(has_edit(block, KeepGroups) for block in plan.stack):
            from . import groups

            change.set |= groups.rewrite(headers, plan)
        if any(has_edit(block, KeepChannels) for block in plan.stack):
            from . import channels

            change.set |= channels.rewrite(headers, plan, change.set)
        return change

    def _move(
        self, headers: Sequence[Header], plan: Plan, change: MetadataChange, *, force_kinds: bool
    ) -> None:
        """Add to `change` what follows where layers change their places or their number."""
        shell = headers[plan.shell]
        refs = [main_reference(b) for b in plan.stack]
        n_trunk, n_tail = len(plan.blocks), len(plan.tail)
        self._check_sources(headers, plan)
        if not self.known:
            from .generic import check_unknown  # for few files

            change.warnings += check_unknown(self.family, headers, plan, allow=self.allow_unknown)
        for source in sorted({r.source for r in refs}):
            arrays.check_lengths(headers[source])
            if not self.allow_unknown:
                arrays.check_unknown(headers[source])
        kinds = [self.kinds(h) for h in headers]
        wanted = [kinds[r.source][r.index] for r in refs]
        self.blendable(headers, plan, force=force_kinds)
        folded, warnings = layer_count.switches(
            self.rules, headers, refs[:n_trunk], n_trunk, plan.shell
        )
        change.warnings += tuple(warnings)
        if folded and plan.computes:
            raise ArchitectureError(
                f"{warnings[-1]}; that cannot be done together with blends and edits",
                file=shell.path,
                hint="Change the number of layers first, then blend the result.",
            )
        change.tensors |= folded
        change.set[properties.full_key(shell, "block_count")] = properties.number(
            shell, "block_count", len(refs)
        )
        if n_tail != layer_kinds.n_tail(shell):
            key = properties.full_key(shell, "nextn_predict_layers")
            change.set[key] = properties.number(shell, "nextn_predict_layers", n_tail)
        change.set |= arrays.gather(self.rules, headers, refs, n_trunk, plan.shell)
        change.set |= arrays.first_layer(shell, change.set)
        change.set |= layer_count.implied(self.rules, shell, n_trunk)
        change.set |= layer_count.shared_kv(self.rules, headers, refs, wanted, plan.shell)
        draft = _draft(headers, shell, change, refs)
        change.set |= self._state(draft, wanted, n_trunk)
        draft = _draft(headers, shell, change, refs)
        self._compare(headers, draft, refs, wanted, n_trunk)
        change.tensors |= layer_count.slabs(self.rules, headers, refs[:n_trunk], plan.shell)

    def blendable(self, headers: Sequence[Header], plan: Plan, *, force: bool = False) -> None:
        """Refuse blends whose parents differ in kind.

        Raises:
            ArchitectureError: naming the parents and their kinds.
        """
        if force:
            return
        kinds: dict[int, tuple[LayerKind, ...]] = {}
        for block in plan.stack:
            refs = references(block)
            if len(refs) < 2:
                continue
            for ref in refs:
                kinds.setdefault(ref.source, self.kinds(headers[ref.source]))
            first = kinds[refs[0].source][refs[0].index]
            for ref in refs[1:]:
                other = kinds[ref.source][ref.index]
                if other != first:
                    raise ArchitectureError(
                        f"layers {refs[0].index} and {ref.index} are of different kinds",
                        file=headers[ref.source].path,
                        expected=first.label,
                        found=other.label,
                        hint="`ggsurgery inspect` shows the kinds; `force_kinds` overrides.",
                    )

    # -- steps of rewrite ------------------------------------------------------------

    def _moves(self, headers: Sequence[Header], plan: Plan) -> bool:
        """Whether any layer changes its position or its file, or the layer count changes."""
        shell = headers[plan.shell]
        tail = layer_kinds.n_tail(shell)
        identity = Plan.identity(shell.n_layers, tail)
        stays = [
            tuple(replace(r, source=plan.shell) for r in references(b)) for b in identity.stack
        ]
        return [references(b) for b in plan.stack] != stays or len(plan.tail) != tail

    def _check_sources(self, headers: Sequence[Header], plan: Plan) -> None:
        """All used sources must be of one architecture and agree in every scalar."""
        shell = headers[plan.shell]
        for source in sorted({r.source for b in plan.stack for r in references(b)}):
            header = headers[source]
            if header.architecture != shell.architecture:
                raise ArchitectureError(
                    "sources of different architectures",
                    file=header.path,
                    expected=shell.architecture,
                    found=header.architecture,
                )
            for key, ours, theirs in arrays.disagreements(shell, header):
                raise ArchitectureError(
                    "the sources differ in a value that holds for the whole model",
                    file=header.path,
                    tensor=key,
                    expected=ours,
                    found=theirs,
                    hint="Take the layers from models of one family and size.",
                )
        if self.rules.refuse:
            raise ArchitectureError(
                f"layers of {self.family} cannot be moved: {self.rules.refuse}", file=shell.path
            )

        depth_before = shell.n_layers - layer_kinds.n_tail(shell)
        if self.rules.depth_fixed and len(plan.blocks) != depth_before:
            raise ArchitectureError(
                f"the number of layers of {self.family} must stay: {self.rules.depth_fixed}",
                file=shell.path,
                expected=depth_before,
                found=len(plan.blocks),
            )

    def _state(self, draft: Header, wanted: Sequence[LayerKind], n_trunk: int) -> dict[str, Value]:
        """Keys that state the wanted kinds if the header does not already."""
        rules, now = self.rules, layer_kinds.kinds(self.rules, draft)
        changes: dict[str, Value] = {}
        if rules.window and _differ(now, wanted, "attention"):
            windowed = [k.attention == rules.window.kind for k in wanted]
            changes |= properties.write_windows(rules.window, draft, windowed)
        if rules.recurrent and _differ(now, wanted, "attention"):
            recurrent = [k.attention == "recurrent" for k in wanted]
            changes |= properties.write_recurrents(rules.recurrent, draft, recurrent)
        if rules.rope and _differ(now, wanted, "rope"):
            changes |= properties.write_ropes(rules.rope, draft, [k.rope == "rope" for k in wanted])
        if rules.experts and _differ(now, wanted, "ffn"):
            moe = [k.ffn == "moe" for k in wanted[:n_trunk]]
            changes |= properties.write_experts(rules.experts, draft, moe)
        for rule in rules.prefix:
            values = [dict(k.extra).get(rule.name) for k in wanted]
            changes |= properties.write_prefix(rule, draft, values)
        return changes

    def _compare(
        self,
        headers: Sequence[Header],
        draft: Header,
        refs: Sequence[BlockRef],
        wanted: Sequence[LayerKind],
        n_trunk: int,
    ) -> None:
        """Refuse the output if llama.cpp would run any layer differently from its source."""
        now = layer_kinds.kinds(self.rules, draft)
        wrong = [i for i, (a, b) in enumerate(zip(now, wanted, strict=True)) if a != b]
        if not wrong:
            return
        first = wrong[0]
        layers = sorted({refs[i].index for i in wrong})
        named = f"layer{'s' if len(layers) > 1 else ''} {format_layers(layers)}"
        source = headers[refs[first].source]
        single = len({r.source for r in refs}) == 1
        leading = self.rules.experts is not None and self.rules.experts.leading
        hint = "Choose layers so that every one keeps its kind; `ggsurgery inspect` shows them."
        if leading and wanted[first].ffn == "dense" and now[first].ffn == "moe":
            hint = "Dense layers must stay in front of the mixture-of-experts layers."
        elif single and all(i < n_trunk for i in wrong):
            hint = self._proposals(source, refs[:n_trunk]) or hint
        raise ArchitectureError(
            f"{named} would change kind, and {self.family} metadata cannot prevent it; the first "
            f"is layer {refs[first].index} at place {first}",
            file=source.path,
            expected=wanted[first].label,
            found=now[first].label,
            hint=hint,
        )

    def _proposals(self, source: Header, refs: Sequence[BlockRef]) -> str:
        """The nearest layer lists that keep every kind, as a hint."""
        own = [self._fixed(k) for k in self.kinds(source)]
        n_trunk = source.n_layers - layer_kinds.n_tail(source)
        if all(k == own[0] for k in own):
            return ""

        def place(n: int) -> list[Any]:
            return [self._fixed(k) for k in self.kinds(_resized(source, n)) if not k.mtp]

        from .suggest import nearest  # only where an operation is refused

        lists = nearest([r.index for r in refs], own[:n_trunk], place)
        return (
            ""
            if not lists
            else "Nearest lists that keep every kind: "
            + " or ".join(f"keep --layers {format_layers(layers)}" for layers in lists)
        )

    def _fixed(self, kind: LayerKind) -> tuple[Any, ...]:
        """The part of a kind that depends only on a layer's position."""
        rules = self.rules
        fixed = {p.name for p in rules.prefix if p.numbered or not p.key}
        return (
            kind.rope if rules.rope and rules.rope.pattern == "step" else None,
            kind.ffn if rules.experts and rules.experts.step else None,
            kind.shared_kv if rules.shared_kv and not rules.shared_kv.key else None,
            tuple(item for item in kind.extra if item[0] in fixed),
        )


def _check_references(headers: Sequence[Header], plan: Plan) -> None:
    tails = [layer_kinds.n_tail(h) for h in headers]
    for block, in_tail in [(b, False) for b in plan.blocks] + [(b, True) for b in plan.tail]:
        for ref in references(block):
            header = headers[ref.source]
            if not 0 <= ref.index < header.n_layers:
                raise PlanError(
                    f"layer {ref.index} does not exist",
                    file=header.path,
                    expected=f"0 to {header.n_layers - 1}",
                )
            if (ref.index >= header.n_layers - tails[ref.source]) != in_tail:
                raise ArchitectureError(
                    f"layer {ref.index} is a{'n MTP' if not in_tail else ' trunk'} layer and must "
                    f"stay {'behind' if not in_tail else 'in'} the trunk",
                    file=header.path,
                    hint="MTP layers move only together with the tail; `drop_mtp` leaves them out.",
                )


def _draft(
    headers: Sequence[Header], shell: Header, change: MetadataChange, refs: Sequence[BlockRef]
) -> Header:
    """The output's header as far as it is known: metadata, and the layers' tensors renamed."""
    tensors = [t for t in shell.tensors if t.layer is None]
    for new, ref in enumerate(refs):
        for suffix, tensor in headers[ref.source].layer_tensors(ref.index).items():
            tensors.append(replace(tensor, name=f"blk.{new}.{suffix}"))
    return replace(shell, metadata=shell.metadata | change.set, tensors=tuple(tensors))


def _resized(source: Header, n: int) -> Header:
    """The source as if it had `n` trunk layers and no arrays: the kinds that the positions
    imply."""
    tail = layer_kinds.n_tail(source)
    drop = set(arrays.layer_arrays(source))
    metadata = {k: v for k, v in source.metadata.items() if k not in drop}
    key = properties.full_key(source, "block_count")
    metadata[key] = properties.number(source, "block_count", n + tail)
    return replace(source, metadata=metadata)


def _differ(now: Sequence[LayerKind], wanted: Sequence[LayerKind], name: str) -> bool:
    return any(getattr(a, name) != getattr(b, name) for a, b in zip(now, wanted, strict=True))
