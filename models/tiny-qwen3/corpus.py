"""Text for tiny-qwen3: Python's documentation (PSF licence), cleaned, split by whole files.

    apt-get download python3.11-doc && dpkg -x python3.11-doc_*.deb corpus
    python corpus.py corpus/usr/share/doc/python3.11/html/_sources out/

writes `train.txt`, `heldout_search.txt`, `heldout_report.txt` (no file of the manual is in
two of them) and `chat.jsonl`: questions about functions and terms with the manual's own
first sentence as the answer.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

PARTS = ("faq", "glossary", "howto", "library", "reference", "tutorial", "using")
#: Hundredths of the files that are held out, and for what; about 80 kB each.
SPLIT = {
    0: "heldout_search",
    1: "heldout_search",
    2: "heldout_search",
    3: "heldout_search",
    6: "heldout_report",
    9: "heldout_report",
}
ROLE = re.compile(r":[a-z][a-z:+-]*:`([^`]+)`")
LITERAL = re.compile(r"``([^`]+)``")
TARGET = re.compile(r"^(.*?)\s*<[^>]*>$", re.S)
NOISE = re.compile(
    r"^\s*\.\. (?:_.*:|index::.*|sectionauthor::.*|moduleauthor::.*|highlight::.*|testsetup::.*"
    r"|toctree::.*|currentmodule::.*|versionadded::.*|versionchanged::.*|note that.*)$"
)
FUNCTION = re.compile(r"^( *)\.\. (?:function|class|method|exception|data|decorator):: *(.+)$")


def clean(text: str) -> str:
    """reStructuredText without roles, targets and bookkeeping directives."""

    def role(match: re.Match[str]) -> str:
        shown = TARGET.sub(r"\1", match.group(1))
        return shown.lstrip("~!")

    text = LITERAL.sub(r"\1", ROLE.sub(role, text))
    lines = [line.rstrip() for line in text.split("\n") if not NOISE.match(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def share(name: str) -> int:
    """0–99 by the file's name, so that the split does not depend on the order of files."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100


def first_sentence(lines: list[str]) -> str:
    paragraph = " ".join(" ".join(lines).split())
    match = re.match(r"(.+?[.!])(?: |$)", paragraph)
    return match.group(1) if match else paragraph


def questions(text: str) -> list[tuple[str, str, str]]:
    """(question, thought, answer) for every documented object with a sentence about it."""
    module = re.search(r"^\.\. module:: (\S+)", text, re.M)
    where = module.group(1) if module else "the language"
    lines = clean(text).split("\n")
    found = []
    for number, line in enumerate(lines):
        match = FUNCTION.match(line)
        if not match:
            continue
        indent = len(match.group(1))
        body: list[str] = []
        for following in lines[number + 1 :]:
            if following.strip() and len(following) - len(following.lstrip()) <= indent:
                break
            if not following.strip():
                if body:
                    break
                continue
            if following.lstrip().startswith((".. ", ":")):
                break
            body.append(following)
        answer = first_sentence(body)
        name = re.split(r"[\s(]", match.group(2))[0]
        if 20 <= len(answer) <= 240 and 2 <= len(name) <= 40:
            found.append((f"What is {name}?", f"{name} belongs to {where}.", answer))
    return found


def main(sources: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    texts: dict[str, list[str]] = {"train": [], "heldout_search": [], "heldout_report": []}
    chat = []
    for path in sorted(sources.rglob("*.rst.txt")):
        name = path.relative_to(sources).as_posix()
        if not name.startswith(PARTS):
            continue
        raw = path.read_text(encoding="utf-8")
        part = SPLIT.get(share(name), "train")
        texts[part].append(clean(raw))
        if part == "train":
            chat += questions(raw)
    for part, items in texts.items():
        (out / f"{part}.txt").write_text("\n".join(items), encoding="utf-8")
        print(f"{part}: {len(items)} files, {sum(map(len, items)):,} characters")
    unique = sorted(set(chat))
    with (out / "chat.jsonl").open("w", encoding="utf-8") as file:
        for question, thought, answer in unique:
            file.write(json.dumps({"q": question, "think": thought, "a": answer}) + "\n")
    print(f"chat: {len(unique)} questions")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
