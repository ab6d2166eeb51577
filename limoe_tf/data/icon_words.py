"""Names of icons as words: what is shown, the style it is drawn in, and what is neither.

`account-circle-outline` shows an "account circle" in the style "outline". A set of Iconify lists
the endings or beginnings that stand for its styles; of the others, a word that is known to be one
of styles counts where many names of the set end in it, so that the "line" of `chart-line` does not.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_STYLES = """
bold broken duo duotone fill filled flat light line linear monochrome monotone outline outlined
plain rounded round sharp solid stroke thin twotone
"""
STYLE_WORDS = frozenset(_STYLES.split())
# Of two words, and so looked for first.
_STYLE_PAIRS = (("two", "tone"),)
# Titles of styles that say nothing of what can be seen.
_SILENT = {"baseline", "basic", "branded", "colors", "default", "normal", "path", "regular"}
# At least this share of a set's names end in a style's word, or in a size, that is one.
_LEAST_SHARE = 0.04
_SIZES = frozenset(map(str, (8, 10, 11, 12, 14, 15, 16, 18, 20, 24, 28, 32, 36, 48, 64, 96, 128)))
_SIZE = re.compile(r"\d+(px)?|\d+x\d+")
_NUMBER_OR_CHARACTER = re.compile(r"\d+|.")
# As the code points by which some sets name emojis; "3d" and "2fa" are words.
_HEXADECIMAL = re.compile(r"(?=.*\d)[0-9a-f]{4,}")
# Of these the names are codes of countries, regions and languages.
CODE_SETS = ("cif", "circle-flags", "flag", "flagpack")
_CODE = re.compile(r"[a-z]{2}(-[a-z]{2,3})?|(lang|language)-.+|[a-z]{2}-.+")


class Words(NamedTuple):
    """What an icon is called: the words of its name and of its style, joined by spaces."""

    name: str
    style: str

    @property
    def caption(self) -> str:
        """The name and behind it the style, if any."""
        return f"{self.name} {self.style}".strip()

    @property
    def thing(self) -> str:
        """The name without numbers behind it: "arrow left 2" is another "arrow left"."""
        words = self.name.split()
        while len(words) > 1 and words[-1].isdigit():
            words.pop()
        return " ".join(words)


class Styles:
    """The styles of one set, which parse its names.

    Args:
      icon_set: dict of a set as Iconify writes it: `prefix`, `icons`, `info` and, where it has
        them, `suffixes` or `prefixes`, dicts of titles by the ending or beginning of names.
    """

    def __init__(self, icon_set: Mapping[str, Any]):
        suffixes, prefixes = icon_set.get("suffixes", {}), icon_set.get("prefixes", {})
        self._suffixes = _longest_first(suffixes)
        self._prefixes = _longest_first(prefixes)
        self._plain = suffixes.get("", prefixes.get("", ""))
        self._of_set = [w for w in _split(icon_set["info"]["name"]) if w in STYLE_WORDS]
        self._endings = _common_endings(icon_set["icons"])

    def parse(self, name: str) -> Words:
        """Returns the words of an icon's or alias' name, such as `account-circle-outline`."""
        name, style = self._without_listed(name)
        words = name.split("-")
        ending = []
        while len(words) > 1 and (length := self._length_of_style(words)):
            ending = words[-length:] + ending
            del words[-length:]
        style = _visible(ending + style) or self._of_set
        return Words(" ".join(words), " ".join(dict.fromkeys(style)))

    def _without_listed(self, name):
        """Returns a name without the listed ending or beginning, and the words of that."""
        for suffix in self._suffixes:
            if name.endswith(f"-{suffix}") and len(name) > len(suffix) + 1:
                return name.removesuffix(f"-{suffix}"), suffix.split("-")
        for prefix in self._prefixes:
            if name.startswith(f"{prefix}-") and len(name) > len(prefix) + 1:
                return name.removeprefix(f"{prefix}-"), prefix.split("-")
        return name, _split(self._plain)

    def _length_of_style(self, words):
        for pair in _STYLE_PAIRS:
            if len(words) > 2 and tuple(words[-2:]) == pair:
                return 2
        return 1 if words[-1] in self._endings else 0


def key_of(thing: str) -> str:
    """Returns what spellings of one thing share: "arrow left" and "arrowleft"."""
    return thing.replace(" ", "")


def says_nothing(name: str, *, prefix: str = "") -> bool:
    """Whether a name says nothing of the picture: numbers, single characters or codes alone.

    Args:
      name: words joined by spaces, without style.
      prefix: that of the set; in those of flags also the codes of countries say nothing.
    """
    words = name.split()
    if prefix in CODE_SETS and _CODE.fullmatch("-".join(words)):
        return True
    return all(_NUMBER_OR_CHARACTER.fullmatch(w) or _HEXADECIMAL.fullmatch(w) for w in words)


def countries(icon_sets: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns names of flags by the code of their country: {"at": "flag austria"}.

    They are read from sets of emojis, in which a flag has the code points of two letters.
    """
    found = {}
    for icon_set in icon_sets:
        for points, name in icon_set.get("chars", {}).items():
            letters = [int(point, 16) - 0x1F1E6 for point in points.split("-")]
            if len(letters) == 2 and all(0 <= letter < 26 for letter in letters):
                code = "".join(chr(ord("a") + letter) for letter in letters)
                found.setdefault(code, name.replace("-", " "))
    return found


def _longest_first(titles):
    return sorted((part for part in titles if part), key=lambda part: (-len(part), part))


def _split(title):
    return re.sub(r"[^a-z0-9]+", " ", title.lower()).split()


def _visible(words):
    return [word for word in words if word not in _SILENT and not _SIZE.fullmatch(word)]


def _common_endings(names):
    last = collections.Counter(name.split("-")[-1] for name in names if "-" in name)
    known = STYLE_WORDS | _SIZES
    return {word for word, n in last.items() if word in known and n >= _LEAST_SHARE * len(names)}
