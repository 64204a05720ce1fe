"""Count what texts use of a vocabulary, and choose the tokens that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from ..errors import PlanError, RequestError
from ..files.progress import Progress
from ..find.plot import check_plot, save_plot
from ..ggufio.header import read_header
from ..ggufio.types import Header
from ..runtime import worker
from ..surgery.trim_vocab import check_trimmable
from ..surgery.vocab_map import VocabMap
from ..tensors.parts import counts_tokens
from ..tokenizer.usage import Usage, tokens_after, usage
from .fields import Force, Model, ParseSpecial, Plot, corpus
from .request import FilePath, FilePaths, Settings, Texts, option

#: The size is rounded up to a multiple of it: llama.cpp's kernels take 8 or 16 rows at a time on
#: processors and up to 64 on graphics cards (ggml-cpu/repack.cpp, ggml-cuda/mmq.cuh, 0c1e570).
MULTIPLE = 64

#: Shares of a text's tokens whose vocabulary sizes are shown, and those that a plot shows.
SHARES = (0.9, 0.99, 0.999, 0.9999, 1.0)
DRAWN = (*(n / 20 for n in range(10, 20)), 0.97, 0.98, 0.99, 0.995, 0.998, *SHARES[2:])

_Texts = Annotated[
    FilePaths, option("UTF-8 text whose tokens are counted; may be repeated.", short="-f")
]


@dataclass(frozen=True, slots=True)
class CountResult:
    """The tokens of a vocabulary that texts use."""

    file: Path
    usage: Usage

    def curve(self, shares: Sequence[float] = SHARES) -> list[tuple[int, float]]:
        """Sizes, from the smallest possible, and the share of the texts' tokens that stay whole.

        Args:
            shares: for which a size is sought.
        """
        order = self.usage.order
        sizes = {order.least, len(order.counts)}
        sizes |= {order.size_for(share) for share in shares}
        return [(n, order.coverage(n)) for n in sorted(sizes)]

    def plot(self, path: Path, *, force: bool = False) -> None:
        """Draw the curve."""
        dense = [{"tokens": n, "coverage": c} for n, c in self.curve(DRAWN)]
        save_plot(self.to_json() | {"curve": dense}, path, force=force)

    def to_json(self) -> dict[str, Any]:
        found = self.usage
        return {
            "file": str(self.file),
            "vocabulary": len(found.order.counts),
            "needed": found.order.least,
            "text": {"bytes": found.n_bytes, "tokens": found.n_tokens},
            "used": int((found.order.counts > 0).sum()),
            "scripts": {k: asdict(g) for k, g in found.scripts.items()},
            "kinds": {k: asdict(g) for k, g in found.kinds.items()},
            "curve": [{"tokens": n, "coverage": c} for n, c in self.curve()],
        }


class CountVocabRequest(Settings, frozen=True, kw_only=True):
    """Count which tokens some texts use.

    Example:
        >>> CountVocabRequest(file="m.gguf", text=["t.txt"]).run()  # doctest: +SKIP
    """

    file: Model
    text: _Texts
    parse_special: ParseSpecial = False
    plot: Plot = None
    force: Force = False

    def agree(self) -> None:
        if not self.text:
            raise RequestError("`text`", expected="at least one text", found="none")

    def check(self) -> list[str]:
        """Refuse a vocabulary that cannot be trimmed, and a plot in the way."""
        check_trimmable(read_header(self.file))
        if self.plot is not None:
            inputs = [Path(self.file), *map(Path, self.text)]
            check_plot(Path(self.plot), inputs, force=self.force)
        return []

    def run(self, progress: Progress | None = None) -> CountResult:
        """Count in a child process."""
        texts = [corpus(t) for t in self.text]
        found = worker.run(
            usage, self.file, texts, parse_special=self.parse_special, progress=progress
        )
        result = CountResult(Path(self.file), found)
        if self.plot is not None:
            result.plot(Path(self.plot), force=self.force)
        return result


@dataclass(frozen=True, slots=True)
class TrimResult:
    """The tokens that stay, and what that does to the texts.

    Args:
        kept: the map.
        least: the fewest tokens that could stay.
        tokens: of the texts, before and after; None without texts.
        whole: the share of the texts' tokens that stay as they are.
        read: bytes of weights that one token of generation reads, before and after.
    """

    kept: VocabMap
    least: int
    tokens: tuple[int, int] | None
    whole: float | None
    read: tuple[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def speedup(self) -> float:
        """Expected of generation, a text at a time: fewer bytes a token, more tokens a text."""
        before, after = self.tokens or (1, 1)
        return self.read[0] / self.read[1] * before / max(after, 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "vocabulary": [self.kept.before, self.kept.after],
            "least": self.least,
            "text_tokens": self.tokens,
            "whole": self.whole,
            "read_per_token": self.read,
            "expected_speedup": self.speedup,
            "map_sha256": self.kept.sha256,
        }


class TrimVocabRequest(Settings, frozen=True, kw_only=True):
    """Choose the tokens that stay.

    Example:
        >>> request = TrimVocabRequest(file="m.gguf", text=["t.txt"], keep=32000)
        >>> request.run().kept  # doctest: +SKIP
    """

    file: Model
    text: _Texts = ()
    keep: Annotated[int, option("How many tokens stay.", ge=1, metavar="N")] | None = None
    coverage: (
        Annotated[
            float,
            option(
                "Keep the tokens that leave this share of the texts' tokens whole, such as 0.9999.",
                gt=0,
                le=1,
            ),
        ]
        | None
    ) = None
    drop_scripts: Annotated[
        Texts,
        option(
            "Scripts whose tokens leave, such as cyrillic,han.", metavar="SCRIPT,…", joined=True
        ),
    ] = ()
    always: Annotated[
        FilePath | None, option("A text whose tokens stay, however rare they are.")
    ] = None
    parse_special: ParseSpecial = False

    def agree(self) -> None:
        if self.keep is not None and self.coverage is not None:
            raise RequestError("`keep` and `coverage` exclude each other")
        if self.keep is None and self.coverage is None and not self.drop_scripts:
            raise RequestError("one of `keep`, `coverage` and `drop_scripts` is needed")
        if not self.text and not (self.keep is None and self.coverage is None):
            raise RequestError("`keep` and `coverage` need a `text` that shows what is used")

    def check(self) -> list[str]:
        """Refuse a vocabulary that cannot be trimmed, and one that is smaller already."""
        count = check_trimmable(read_header(self.file))
        if self.keep is not None and self.keep >= count:
            raise PlanError(
                "nothing to trim", file=self.file, expected=f"`keep` below {count}", found=self.keep
            )
        return []

    def run(self, progress: Progress | None = None) -> TrimResult:
        """Count in a child process, and choose."""
        texts = [corpus(t) for t in self.text]
        always = "" if self.always is None else corpus(self.always)
        found = worker.run(
            usage,
            self.file,
            texts,
            always,
            tuple(self.drop_scripts),
            self.parse_special,
            progress=progress,
        )
        kept = VocabMap(len(found.order.counts), found.order.kept(self._size(found)))
        header = read_header(self.file)
        read = (_read_per_token(header, 1.0), _read_per_token(header, kept.after / kept.before))
        if not texts:
            return TrimResult(kept, found.order.least, None, None, read)
        after = worker.run(tokens_after, self.file, kept, texts)
        whole = found.order.coverage(kept.after)
        warnings = []
        if self.keep is not None and found.n_tokens < 10 * kept.after:
            warnings.append(
                f"the texts have {found.n_tokens:,} tokens, few for choosing {kept.after:,} of "
                f"{kept.before:,}: tokens that they lack leave in the order of their ids"
            )
        if found.of_dropped:
            share = found.of_dropped / found.n_tokens
            warnings.append(f"{share:.3%} of the texts' tokens are in a dropped script")
        return TrimResult(
            kept, found.order.least, (found.n_tokens, after), whole, read, tuple(warnings)
        )

    def _size(self, found: Usage) -> int:
        """How many tokens stay, rounded up.

        Raises:
            PlanError: `keep` is below what the vocabulary needs, or nothing would leave.
        """
        order = found.order
        count = len(order.counts)
        size = count - order.dropped
        if self.coverage is not None:
            size = min(size, order.size_for(self.coverage))
        if self.keep is not None:
            if self.keep < order.least:
                raise PlanError(
                    "`keep` is below what the vocabulary needs: bytes, special tokens, and what "
                    "the chat template and --always use",
                    file=self.file,
                    expected=f"{_rounded(order.least)} or more",
                    found=self.keep,
                )
            size = min(size, self.keep)
        size = _rounded(size)
        if size >= count:
            raise PlanError(
                "nothing to trim: all tokens would stay",
                file=self.file,
                expected=f"fewer than {count}, rounded up to a multiple of {MULTIPLE}",
                found=size,
            )
        return size


def _rounded(size: int) -> int:
    return -(-size // MULTIPLE) * MULTIPLE


def _read_per_token(header: Header, share: float) -> int:
    """Bytes of weights that generation reads for a token, with this share of the vocabulary."""
    experts = header.number("{arch}.expert_count") or 1
    used = header.number("{arch}.expert_used_count") or experts
    tied = "output.weight" not in header.by_name
    total = 0.0
    for tensor in header.tensors:
        if tensor.name == "output.weight" or (tensor.name == "token_embd.weight" and tied):
            total += tensor.nbytes * share
        elif not counts_tokens(tensor.name):
            total += tensor.nbytes * (used / experts if "_exps." in tensor.name else 1)
    return round(total)
