"""Six domains of text for tiny-moe from Debian 12's packages, split by whole files.

    apt-get download python3.11-doc libpython3.11-stdlib libpython3.11-minimal \
        libreoffice-help-de libreoffice-help-fr libreoffice-help-ru postgresql-doc-15
    for package in *.deb; do dpkg -x "$package" packages; done
    python corpus.py packages data

writes `data/DOMAIN.train.txt` and `data/DOMAIN.heldout.txt` for english, code, german, french,
russian and sql. About four files in a hundred are held out, chosen by the hash of their path
below PACKAGES, so that the split depends on nothing else.
"""

from __future__ import annotations

import hashlib
import html
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

#: Hundredths of the files that are held out.
HELDOUT = 4
#: Shorter documents are menus and redirects.
SHORTEST = 300
#: Longer lines are kept once in a domain: help pages repeat their boilerplate.
REPEATABLE = 40

LANGUAGES = {"german": "de", "french": "fr", "russian": "ru"}
DOMAINS = ("english", "code", *LANGUAGES, "sql")

_DROPPED = re.compile(r"<(script|style|head|nav|footer).*?</\1>", re.I | re.S)
_BREAK = re.compile(r"<(br|/p|/div|/h\d|/li|/tr)[^>]*>", re.I)
_TAG = re.compile(r"<[^>]+>")


def plain(page: str) -> str:
    """The text of an HTML page, a block a line."""
    text = _BREAK.sub("\n", _DROPPED.sub(" ", page))
    text = html.unescape(_TAG.sub(" ", text))
    text = re.sub(r"[ \t\xa0]+", " ", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip() + "\n"


def documents(packages: Path, domain: str) -> Iterator[tuple[str, str]]:
    """Path below `packages` and text of every document of a domain, in a fixed order."""
    if domain == "english":
        root, pattern = packages / "usr/share/doc/python3.11/html/_sources", "*.txt"
    elif domain == "code":
        root, pattern = packages / "usr/lib/python3.11", "*.py"
    elif domain == "sql":
        root, pattern = packages / "usr/share", "postgresql*/**/*.html"
    else:
        root, pattern = packages / "usr", f"{LANGUAGES[domain]}/**/*.html"
    for path in sorted(root.rglob(pattern)):
        name = path.relative_to(packages).as_posix()
        if any(part in name for part in ("/whatsnew/", "/test/", "/lib2to3/")):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        yield name, plain(text) if path.suffix == ".html" else text


def split(packages: Path, domain: str) -> tuple[list[str], list[str]]:
    """Training and held-out documents of a domain."""
    seen: set[bytes] = set()
    train, heldout = [], []
    for name, text in documents(packages, domain):
        lines = []
        for line in text.split("\n"):
            digest = hashlib.sha256(line.encode()).digest()[:8]
            if line and (len(line) < REPEATABLE or digest not in seen):
                lines.append(line)
                seen.add(digest)
        kept = "\n".join(lines) + "\n"
        if len(kept) >= SHORTEST:
            share = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
            (heldout if share < HELDOUT else train).append(kept)
    random.Random(1).shuffle(train)
    return train, heldout


def main() -> None:
    packages, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        parts = dict(zip(("train", "heldout"), split(packages, domain), strict=True))
        for part, texts in parts.items():
            (out / f"{domain}.{part}.txt").write_text("\n".join(texts), encoding="utf-8")
        print(domain, {part: sum(map(len, texts)) for part, texts in parts.items()})


if __name__ == "__main__":
    main()
