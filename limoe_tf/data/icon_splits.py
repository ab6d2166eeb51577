"""Which icons are for training, and which names and sets are kept apart for tests.

What one maker has drawn must not be on both sides: sets are grouped into families by their
author, by the beginning of their prefix (`fa6-solid`, `fa-brands`) and by `RELATED`.
"""

import hashlib
import re
from collections.abc import Mapping

# Whole sets that are never trained on: known things in unseen hands. All are under MIT or
# Apache-2.0; glyphs-poly, marketeq, meteocons and catppuccin are colourful.
TEST_SETS = (
    *("carbon", "ri", "iconoir", "teenyicons"),
    *("uil", "uim", "uis", "uit"),
    *("majesticons", "pixelarticons"),
    *("glyphs", "glyphs-poly"),
    *("marketeq", "meteocons", "catppuccin"),
)
# Sets of different authors and prefixes that belong together: one copies drawings of the other (at
# least 2 % of the smaller one's paths are equal), or they follow one design.
RELATED = {
    "material": ("ic", "material-symbols", "mdi", "memory", "zmdi", "line-md", "gcp", "noto"),
    "ionic": ("ion", "famicons"),
    "feather": ("feather", "lucide", "meteor-icons", "mynaui", "vadivam"),
    "font awesome": ("fa", "fa6-solid", "fa7-solid", "la"),
    "boxicons": ("bx", "bxl", "bxs", "boxicons"),
    "icons8": ("icons8", "la", "wpf", "flat-color-icons"),
    "map": ("maki", "temaki", "pinhead", "osmic"),
    "mono": ("mi", "mono-icons"),
    "logos": ("simple-icons", "thesvg", "logos", "devicon"),
    "emoji": ("emojione", "twemoji", "openmoji", "fluent-emoji", "fxemoji", "streamline-emojis"),
    "solar": ("solar", "reicon"),
}
NAMES = "test_names"
SETS = "test_sets"
TRAIN = "train"
# Of the names, by a hash of each.
HELD_OUT_SHARE = 0.02


def families(authors: Mapping[str, str]) -> dict[str, str]:
    """Returns the family of each set: the first prefix of those that belong together.

    Args:
      authors: the author of each set by its prefix.
    """
    parent = {prefix: prefix for prefix in authors}

    def root(prefix):
        while parent[prefix] != prefix:
            prefix = parent[prefix]
        return prefix

    for group in _groups(authors):
        first, *others = sorted({root(prefix) for prefix in group})
        for other in others:
            parent[other] = first
    return {prefix: root(prefix) for prefix in authors}


def _groups(authors):
    """Yields lists of prefixes that belong together for one reason."""
    by_reason = {}
    for prefix, author in authors.items():
        by_reason.setdefault(("author", author.strip().casefold()), []).append(prefix)
        by_reason.setdefault(("prefix", _stem(prefix)), []).append(prefix)
        for name, members in RELATED.items():
            if prefix in members:
                by_reason.setdefault(("related", name), []).append(prefix)
    yield from by_reason.values()


def _stem(prefix):
    """Returns the beginning of a prefix without numbers: "fa" for `fa6-solid`."""
    return re.sub(r"\d+$", "", prefix.split("-")[0])


def check_sides(authors: Mapping[str, str]) -> None:
    """Checks that no family of sets is both for training and for tests.

    Args:
      authors: the author of each set by its prefix.

    Raises:
      ValueError: if one is, with the sets.
    """
    found = {}
    for prefix, family in families(authors).items():
        found.setdefault(family, {}).setdefault(prefix in TEST_SETS, []).append(prefix)
    for sides in found.values():
        if len(sides) == 2:
            raise ValueError(
                "`TEST_SETS` must hold whole families of sets. Received: "
                f"{', '.join(sides[True])} for tests, {', '.join(sides[False])} for training"
            )


def is_held_out(key: str) -> bool:
    """Whether a name, by `icon_words.key_of`, is kept apart from training."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def split_of(prefix: str, key: str) -> str:
    """Returns the split of an icon, by the prefix of its set and the key of its name."""
    if prefix in TEST_SETS:
        return SETS
    return NAMES if is_held_out(key) else TRAIN
