"""Fields that several requests have, described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..errors import GGSurgeryError, RequestError
from ..files.piped import kept
from ..files.text import read_corpus
from .request import FilePath, Settings, option

Model = Annotated[FilePath, option("A GGUF file.", metavar="FILE")]
Text = Annotated[FilePath, option("UTF-8 text to predict.", short="-f")]
Ctx = Annotated[int, option("Tokens of a window.", ge=4, short="-c")]
Windows = (
    Annotated[int, option("Use only the first N windows of the text.", ge=1, old=("chunks",))]
    | None
)
ParseSpecial = Annotated[
    bool, option("Read special tokens in the text, such as <|im_start|>, as the tokens they name.")
]
Threads = (
    Annotated[
        int,
        option(
            "Threads; default: GGSURGERY_THREADS, or all that this process may use.",
            ge=1,
            short="-t",
        ),
    ]
    | None
)
Limit = (
    Annotated[int, option("Draw at most N questions, the same share of every subject.", ge=1)]
    | None
)
LimitSeed = Annotated[int, option("Which questions the limit draws.", ge=0, old_keys=("seed",))]
ResultFile = Annotated[
    FilePath | None, option("Write the results to this file.", short="-o", role="output")
]
Plot = Annotated[
    FilePath | None, option("Draw it: a .svg, or with matplotlib a .png or .pdf.", role="output")
]
Journal = Annotated[
    FilePath | None,
    option(
        "Keep every measurement here; the same command continues where it stopped.",
        metavar="JSONL",
        role="output",
    ),
]
AllowUnknownArch = Annotated[
    bool, option("Operate on an architecture without a rule file; check the result well.")
]
SplitMaxSize = (
    Annotated[
        int | str,
        option(
            "Write OUT-0000K-of-0000N.gguf with tensors of at most so much each: 2G, 500M; names "
            "and entries as of llama-gguf-split.",
            metavar="SIZE",
        ),
    ]
    | None
)
Sync = Annotated[bool, option("Wait until the data is on the disk.")]
Force = Annotated[bool, option("Replace an existing output.")]
OutType = Annotated[
    str | None,
    option(
        "Type of the computed matrices: f16, bf16, f32, q8_0, q4_k …; default: the source's, or "
        "f32 where that needs an importance matrix.",
        metavar="TYPE",
    ),
]
Sidecar = Annotated[
    FilePath | None, option("The arrays that `heal --out` or `distil --out` wrote.", metavar="NPZ")
]


class TextSettings(Settings, frozen=True, kw_only=True):
    """A text and how much of it counts: a section of a recipe."""

    text: Text
    ctx: Ctx = 512
    windows: Windows = None
    parse_special: ParseSpecial = False


def size_in_bytes(field: str, value: int | str) -> int:
    """A size as a number of bytes or a text like 2G.

    Raises:
        RequestError: neither, or not above 0.
    """
    from ..quantize.target import parse_size  # more than a plain cut needs

    try:
        size = parse_size(value) if isinstance(value, str) else value
    except GGSurgeryError as error:
        raise RequestError(f"`{field}`: {error}") from None
    if size < 1:
        raise RequestError(f"`{field}`", expected="a size above 0", found=value)
    return size


def corpus(path: str | Path) -> str:
    """A text to run through a model.

    Raises:
        FormatError: it cannot be read, is too long, or is not UTF-8.
    """
    return read_corpus(kept(path))
