"""Reads captions of `endless_scenes` back, and says whether they are true of a scene.

It knows the words, as lists, and nothing of how captions are made of them. What is true is worked
out from the places and outlines of the objects.
"""

import itertools
import re
from typing import NamedTuple

from limoe_tf.data.scenes import grammar, lexicon
from limoe_tf.data.scenes.placing import overlap

_FRAMES = sorted({frame.format("") for frame in grammar.FRAMES}, key=len, reverse=True)
_GROUND = re.compile(r"(.+) on an? (.+) (?:background|ground|backdrop)")
_MARGIN = 2


class Noun(NamedTuple):
    """What a noun phrase says: how many, and attributes by name."""

    count: int
    attributes: dict


def _indexed(kind, lists):
    return {word: (kind, i) for i, words in enumerate(lists) for word in words}


def _one(kind, words, value=None):
    return dict.fromkeys(words, (kind, value))


_RELATIONS = {
    word: ("relation", (name, is_back))
    for name, both in grammar.RELATION_WORDS.items()
    for is_back, words in enumerate(both)
    for word in words
}
_PLACES = {word: ("place", where) for where, words in grammar.PLACE_WORDS.items() for word in words}
WORDS = {
    **_indexed("size", lexicon.SIZES),
    **_indexed("colour", [c.words for c in lexicon.COLOURS]),
    **_indexed("texture", [t.words + t.phrases for t in lexicon.TEXTURES]),
    **_indexed("shape", [s.words + s.plurals for s in lexicon.SHAPES]),
    **_one("shape", (*lexicon.ANY_SHAPE.words, *lexicon.ANY_SHAPE.plurals)),
    **{word: ("count", n) for n, words in lexicon.COUNTS.items() for word in words},
    **_one("count", ("a", "an"), 1),
    **_RELATIONS,
    **_one("relation", grammar.BESIDE_WORDS, ("beside", False)),
    **_one("relation", grammar.BETWEEN_WORDS, ("between", False)),
    **_PLACES,
    **_one("and", ("and", ",")),
}


class Told(NamedTuple):
    """What a caption says; None for what it does not."""

    nouns: list
    relation: tuple | None
    place: tuple | None
    ground: str | None


def is_true(caption, scene):
    """Returns whether a caption is true of a scene; raises KeyError for a word it does not know."""
    told = read(caption)
    if told.ground is not None and not _ground_is(told.ground, scene.ground):
        return False
    options = [_groups_like(noun, scene.things) for noun in told.nouns]
    return any(
        _distinct(groups)
        and _holds(told.relation, groups, scene.things)
        and _is_at(told.place, groups[0])
        for groups in itertools.product(*options)
    )


def read(caption):
    """Returns what a caption says."""
    nouns, relation, place, ground = [], None, None, None
    caption = caption[len(next(f for f in _FRAMES if caption.startswith(f))) :]
    if found := _GROUND.fullmatch(caption):
        caption, ground = found.groups()
    for kind, value in _tokens(caption):
        if kind == "count":
            nouns.append(Noun(value, {}))
        elif kind == "relation":
            relation = value
        elif kind == "place":
            place = value
        elif kind != "and":
            assert kind not in nouns[-1].attributes, caption
            nouns[-1].attributes[kind] = value
    assert all("shape" in noun.attributes for noun in nouns), caption
    return Told(nouns, relation, place, ground)


def _tokens(caption):
    words = caption.replace(",", " ,").split()
    while words:
        for length in range(min(len(words), 5), 0, -1):
            if (phrase := " ".join(words[:length])) in WORDS:
                break
        yield WORDS[phrase]
        words = words[length:]


def _ground_is(words, ground):
    colours, textures = (
        lexicon.GROUNDS[ground.colour].words,
        lexicon.GROUND_TEXTURES[ground.texture],
    )
    true = {*colours, *textures, *(f"{t} {c}" for t in textures for c in colours)}
    return words in true


def _groups_like(noun, things):
    """Returns the groups of objects that a noun can mean: one, or all that are like it."""
    like = [thing for thing in things if _is_like(thing, noun.attributes)]
    if noun.count == 1:
        return [[thing] for thing in like]
    return [like] if len(like) == noun.count else []


def _is_like(thing, attributes):
    true = {"size": thing.size, **thing.kind._asdict()}
    return all(value in (None, true[name]) for name, value in attributes.items())


def _distinct(groups):
    things = [thing for group in groups for thing in group]
    return len(set(things)) == len(things)


def _is_at(place, group):
    if place is None:
        return True
    (thing,) = group
    # Thirds of 64 pixels with doubtful seams: 21 and 43 part them.
    return place == tuple(0 if at < 24 else 2 if at > 39 else 1 for at in (thing.y, thing.x))


def _holds(relation, groups, things):
    if relation is None:
        return True
    name, is_back = relation
    meant = [group[0] for group in (groups[::-1] if is_back else groups)]
    return _TRUTHS[name](*meant, things)


def _left(one, other, _):
    return other.x - one.x > abs(other.y - one.y) + _MARGIN


def _above(one, other, _):
    return other.y - one.y > abs(other.x - one.x) + _MARGIN


def _beside(one, other, _):
    return _left(one, other, _) or _left(other, one, _)


def _between(middle, one, other, _):
    return any(
        is_first(first, middle, _) and is_first(middle, last, _)
        for is_first in (_left, _above)
        for first, last in ((one, other), (other, one))
    )


def _inside(inner, outer, _):
    reach = max(abs(inner.x - outer.x), abs(inner.y - outer.y)) + inner.radius
    # The hole of a ring has half of its radius, the other shapes hold a larger circle.
    return reach <= outer.radius * 0.52


def touching(one, other):
    """Returns whether two objects have no pixel in common but neighbouring ones."""
    steps = [other._replace(x=other.x + dx, y=other.y + dy)
             for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]  # fmt: skip
    return not overlap(one, other) and any(overlap(one, step) for step in steps)


def _front(front, back, things):
    return things.index(front) > things.index(back) and overlap(front, back) > 0


_TRUTHS = {
    "left": _left,
    "above": _above,
    "beside": _beside,
    "between": _between,
    "inside": _inside,
    "touching": lambda one, other, _: touching(one, other),
    "front": _front,
}
