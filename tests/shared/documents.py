"""Reads the pages of the documentation."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of code: its page, language, first line's number and text."""

    page: str
    language: str
    line: int
    text: str


def pages():
    """Returns the paths of all pages, relative to the root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def read(path):
    """Returns the text of a file of the repository."""
    return (ROOT / path).read_text("utf-8")


def blocks(page):
    """Returns list of Block."""
    text = read(page)
    return [
        Block(page, found[1], text.count("\n", 0, found.start()) + 2, found[2])
        for found in _FENCE.finditer(text)
    ]


def prose(page):
    """Returns the text of a page without its blocks of code."""
    return _FENCE.sub("", read(page))


def inline_code(page):
    """Returns what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page):
    """Returns the targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", prose(page)))


def anchors(path):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page, head):
    """Returns the rows of the table with that head, as tuples of the cells' texts."""
    lines = read(page).splitlines()
    found = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        found.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return found


def commands(text):
    """Returns the commands of a shell block, each on one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def words(command):
    """Returns the variables set in front of a command, a dict, and then its words."""
    parts = shlex.split(command, comments=True)
    number = next(i for i, part in enumerate(parts) if not re.match(r"[A-Z_]+=", part))
    return [dict(part.split("=", 1) for part in parts[:number]), *parts[number:]]
