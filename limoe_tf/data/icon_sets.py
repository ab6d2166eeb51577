"""The icons of an archive of Iconify's sets: what each shows, and why one is left out."""

import collections
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from limoe_tf.data import icon_pictures, icon_splits, icon_words

# The icons of `test_sets` whose name is a class.
ZERO_SHOT = "zero_shot"
NUM_CLASSES = 500
# Why an icon makes no pair, beside `icon_pictures.EMPTY`, a picture that cannot be drawn and one
# that another icon of the same name in the same set has.
HIDDEN = "hidden"
NO_NAME = "name says nothing"
BROKEN = "broken"
REPEATED = "repeated"
_FOLDER = "package/json/"
_ADDED = "a caption more"


class Icon(NamedTuple):
    """One icon: where it is from, what it shows, the split it belongs to, its captions, its SVG."""

    prefix: str
    name: str
    thing: str
    split: str
    captions: list[str]
    svg: str


class Plan(NamedTuple):
    """What is known of an archive before a picture is drawn.

    Args:
      sets: dict by prefix of dicts: `name`, `author`, `licence`, `category`, `icons`.
      countries: see `icon_words.countries`.
      class_names: the commonest names of training that are in the test sets too.
      class_of: label by `icon_words.key_of` a name.
      left_out: number of icons by reason: those that are not drawn at all.
      aliases: number of other names by what became of them.
      icons: number of icons to draw by split.
    """

    sets: dict[str, dict[str, Any]]
    countries: dict[str, str]
    class_names: list[str]
    class_of: dict[str, int]
    left_out: dict[str, int]
    aliases: dict[str, int]
    icons: dict[str, int]


def read_sets(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Yields the sets of the npm package @iconify/json, as dicts, from its .tgz.

    Raises:
      ValueError: if the archive holds no set.
    """
    found = False
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.name.startswith(_FOLDER) and member.name.endswith(".json"):
                found = True
                yield json.load(archive.extractfile(member))
    if not found:
        raise ValueError(f"`path` must be an archive with {_FOLDER}*.json. Received: {path}")


def icons_of(
    icon_set: Mapping[str, Any],
    countries: Mapping[str, str],
    *,
    left_out: collections.Counter | None = None,
    aliases: collections.Counter | None = None,
) -> Iterator[Icon]:
    """Yields the icons of a set in the order of their names.

    Left out are hidden icons and those whose name says nothing. The captions are the icon's own and
    those of its aliases that say something else; of both only such whose names belong to the
    icon's split, so that no name of `test_names` is in `train`.

    Args:
      icon_set: a dict of `read_sets`.
      countries: see `icon_words.countries`.
      left_out: counts icons by the reason why they are left out.
      aliases: counts other names by what became of them.
    """
    left_out = collections.Counter() if left_out is None else left_out
    aliases = collections.Counter() if aliases is None else aliases
    prefix, styles = icon_set["prefix"], icon_words.Styles(icon_set)
    others = _aliases(icon_set, aliases)
    for name, icon in sorted(icon_set["icons"].items()):
        own = _words(styles, name, prefix, countries)
        if reason := _why_left_out(icon, own.name, prefix):
            left_out[reason] += 1
            aliases["of an icon that is left out"] += len(others.get(name, ()))
            continue
        captions = {own.thing: own.caption}
        split = _split_of(own, prefix)
        for alias in others.get(name, ()):
            words = _words(styles, alias, prefix, countries)
            kind = _kind_of_alias(words, prefix, split, captions)
            aliases[kind] += 1
            if kind == _ADDED:
                captions[words.thing] = words.caption
        yield Icon(prefix, name, own.thing, split, list(captions.values()), _svg(icon, icon_set))


def _why_left_out(icon, name, prefix):
    if icon.get("hidden"):
        return HIDDEN
    return NO_NAME if icon_words.says_nothing(name, prefix=prefix) else None


def _split_of(words, prefix):
    return icon_splits.split_of(prefix, icon_words.key_of(words.thing))


def _kind_of_alias(words, prefix, split, captions):
    if icon_words.says_nothing(words.name, prefix=prefix):
        return NO_NAME
    if words.thing in captions:
        return "the same words"
    return _ADDED if _split_of(words, prefix) == split else "of another split"


def _aliases(icon_set, counts):
    """Returns lists of aliases by the icon whose picture they are, unchanged and not hidden."""
    found = {}
    for name, alias in sorted(icon_set.get("aliases", {}).items()):
        if alias.get("hidden"):
            counts[HIDDEN] += 1
        elif set(alias) != {"parent"}:
            counts["of a changed picture"] += 1
        elif alias["parent"] not in icon_set["icons"]:
            counts["of another alias"] += 1
        else:
            found.setdefault(alias["parent"], []).append(name)
    return found


def _words(styles, name, prefix, countries):
    words = styles.parse(name)
    if prefix in icon_words.CODE_SETS and words.name in countries:
        return words._replace(name=countries[words.name])
    return words


def _svg(icon, icon_set):
    defaults = {"left": 0, "top": 0, "width": 16, "height": 16}
    box = {side: icon.get(side, icon_set.get(side, one)) for side, one in defaults.items()}
    return icon_pictures.svg_of(icon["body"], **box)


def plan(path: str | os.PathLike) -> Plan:
    """Reads an archive without drawing anything.

    Raises:
      ValueError: if it holds no set, or a family of sets is on both sides.
    """
    countries = icon_words.countries(read_sets(path))
    left_out, aliases, icons = (collections.Counter() for _ in range(3))
    sets, tested, trained = {}, collections.Counter(), {}
    for icon_set in read_sets(path):
        prefix = icon_set["prefix"]
        sets[prefix] = _described(icon_set)
        for icon in icons_of(icon_set, countries, left_out=left_out, aliases=aliases):
            icons[icon.split] += 1
            key = icon_words.key_of(icon.thing)
            if icon.split == icon_splits.SETS:
                tested[key] += 1
            elif icon.split == icon_splits.TRAIN:
                trained.setdefault(key, collections.Counter())[prefix, icon.thing] += 1
    authors = {prefix: described["author"] for prefix, described in sets.items()}
    icon_splits.check_sides(authors)
    class_names = _commonest(
        {key: found for key, found in trained.items() if key in tested},
        icon_splits.families(authors),
    )
    class_of = {icon_words.key_of(name): label for label, name in enumerate(class_names)}
    icons[ZERO_SHOT] = sum(number for key, number in tested.items() if key in class_of)
    return Plan(sets, countries, class_names, class_of, left_out, aliases, icons)


def _described(icon_set):
    info = icon_set["info"]
    return {
        "name": info["name"],
        "author": info["author"]["name"],
        "licence": info["license"].get("spdx") or info["license"]["title"],
        "category": info.get("category", ""),
        "icons": len(icon_set["icons"]),
    }


def _commonest(found, families):
    """Returns the names that most families of sets have, each in its commonest spelling.

    Args:
      found: by key of a name a Counter of (prefix of a set, spelling).
      families: by prefix.
    """

    def rank(key):
        prefixes = {prefix for prefix, _ in found[key]}
        return -len({families[prefix] for prefix in prefixes}), -len(prefixes), key

    def spelling(key):
        spellings = collections.Counter()
        for (_, thing), number in sorted(found[key].items()):
            spellings[thing] += number
        return spellings.most_common(1)[0][0]

    return [spelling(key) for key in sorted(found, key=rank)[:NUM_CLASSES]]
