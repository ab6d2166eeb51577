"""Layouts: where the objects of a scene stand, and the relations that are true of them."""

import random

import numpy as np

from limoe_tf.data.scenes import structure
from limoe_tf.data.scenes.lexicon import SHAPES
from limoe_tf.data.scenes.outlines import NUM_TURNS, outline
from limoe_tf.data.scenes.patterns import IMAGE_SIZE
from limoe_tf.data.scenes.structure import Relation, Scene, Thing

SMALL, MEDIUM, LARGE = range(3)
# Radii in pixels, by size.
RADII = ((7, 9), (11, 13), (15, 20))
_LARGEST_OF_TWO = 15
# What an object can stand within.
_OUTER_SHAPES = tuple(
    i for i, s in enumerate(SHAPES) if s.words[0] in ("circle", "ring", "square", "pentagon")
)
_ALL_SHAPES = tuple(range(len(SHAPES)))
_MIDDLE = IMAGE_SIZE // 2


def draw_scene(rng: random.Random, *, held_out: bool) -> Scene:
    """Draws a scene, but for its captions and noise.

    Args:
      rng: decides everything.
      held_out: whether all triples of colour, texture and shape are held out, or none.

    Returns:
      Scene.
    """
    layout = structure.draw_layout(rng)
    shapes = _OUTER_SHAPES if layout == "inside" else _ALL_SHAPES
    kinds, grounds = structure.draw_kinds(_number_of_kinds(layout, rng), held_out, shapes, rng)
    things, relations = LAYOUTS[layout](kinds, rng)
    ground = structure.draw_ground(grounds, rng)
    return Scene(layout, tuple(things), tuple(relations), ground, *structure.draw_light(rng))


def _number_of_kinds(layout, rng):
    if layout == "counted":
        return rng.choice((1, 1, 2))
    return {"alone": 1, "between": 3, "quarters": rng.choice((3, 4))}.get(layout, 2)


def _alone(kinds, rng):
    size, radius = _draw_size(rng, RADII[LARGE][1])
    return [_thing(kinds[0], size, radius, _anywhere(radius, rng), rng)], []


def _in_line(kinds, rng):
    """Returns objects side by side, along x, that do not touch, and one relation a pair."""
    sizes = _draw_sizes_in_line(len(kinds), rng)
    free = IMAGE_SIZE - 2 - sum(2 * radius + 2 for _, radius in sizes)
    cuts = sorted(rng.randrange(free + 1) for _ in kinds)
    largest = max(radius for _, radius in sizes)
    level = rng.randrange(largest + 3, IMAGE_SIZE - largest - 3)
    things, start = [], 1
    for kind, (size, radius), cut in zip(kinds, sizes, cuts):
        centre = start + cut + radius + 1, level + rng.randrange(-2, 3)
        things.append(_thing(kind, size, radius, centre, rng))
        start += 2 * radius + 2
    return things, [Relation("left", (i, i + 1)) for i in range(len(kinds) - 1)]


def _draw_sizes_in_line(count, rng):
    while True:
        sizes = [_draw_size(rng, _LARGEST_OF_TWO) for _ in range(count)]
        if sum(2 * radius + 2 for _, radius in sizes) <= IMAGE_SIZE - 2:
            return sizes


def _stacked(things, relations):
    """Returns objects of a row as a column: x and y change places."""
    things = [thing._replace(x=thing.y, y=thing.x) for thing in things]
    words = {"left": "above"}
    return things, [Relation(words.get(r.word, r.word), r.things) for r in relations]


def _column(kinds, rng):
    return _stacked(*_in_line(kinds, rng))


def _between(kinds, rng):
    things, _ = _in_line(kinds, rng)
    relations = [Relation("between", (1, 0, 2))]
    return _stacked(things, relations) if rng.random() < 0.5 else (things, relations)


def _inside(kinds, rng):
    """Returns a large object and a small one within its outline."""
    radius = rng.randrange(18, RADII[LARGE][1] + 1)
    outer = _thing(kinds[0], LARGE, radius, _anywhere(radius, rng), rng)
    # The hole of a ring has half of its radius.
    inner = _thing(kinds[1], SMALL, radius // 2 - 2, (outer.x, outer.y), rng)
    return [outer, inner], [Relation("inside", (1, 0))]


def _touching(kinds, rng):
    """Returns two objects that have neighbouring pixels, and none in common."""
    axis = rng.choice(("x", "y"))
    (first, second), relations = _in_line(kinds, rng) if axis == "x" else _column(kinds, rng)
    # Moved together until they would overlap, then one pixel back.
    while not overlap(first, second):
        second = _moved(second, axis, -1)
        if getattr(second, axis) < max(getattr(first, axis), second.radius + 1):
            return _touching(kinds, rng)  # They passed each other, or the edge of the image.
    return [first, _moved(second, axis, 1)], [*relations, Relation("touching", (0, 1))]


def _moved(thing, axis, by):
    return thing._replace(**{axis: getattr(thing, axis) + by})


def _front(kinds, rng):
    """Returns an object, and another that hides a fifth to a half of it."""
    while True:
        sizes = [_draw_size(rng, 17) for _ in kinds]
        back, front = (
            _thing(k, *size, _anywhere(size[1], rng), rng) for k, size in zip(kinds, sizes)
        )
        hidden, areas = overlap(back, front), [int(solid(thing).sum()) for thing in (back, front)]
        if areas[0] / 5 <= hidden <= min(areas) / 2:
            return [back, front], [Relation("front", (1, 0))]


def _counted(kinds, rng):
    """Returns two to four equal objects, perhaps with another one of another shape."""
    if len(kinds) == 2 and kinds[0].shape == kinds[1].shape:
        kinds = kinds[:1]
    count = rng.choice((2, 3, 4) if len(kinds) == 1 else (2, 3))
    things, _ = _in_quarters([kinds[0]] * count + kinds[1:], rng)
    first = things[0]
    like = [t._replace(size=first.size, radius=first.radius) for t in things[:count]]
    like = [_within_quarter(thing) for thing in like]
    return [*like, *things[count:]], []


def _in_quarters(kinds, rng):
    """Returns objects in quarters of the image, and the relations of neighbouring ones."""
    cells = rng.sample(((0, 0), (1, 0), (0, 1), (1, 1)), len(kinds))
    things = []
    for kind, (column, row) in zip(kinds, cells):
        size, radius = _draw_size(rng, 14)
        centre = [_MIDDLE * cell + rng.randrange(8, 24) for cell in (column, row)]
        things.append(_within_quarter(_thing(kind, size, radius, centre, rng)))
    relations = []
    for i, (column, row) in enumerate(cells):
        relations += [Relation("left", (i, j)) for j, c in enumerate(cells)
                      if c == (column + 1, row)]  # fmt: skip
        relations += [Relation("above", (i, j)) for j, c in enumerate(cells)
                      if c == (column, row + 1)]  # fmt: skip
    return things, relations


def _within_quarter(thing):
    """Returns a thing moved into its quarter of the image, with a margin of one pixel."""
    x, y = (
        _MIDDLE * (at // _MIDDLE)
        + min(max(at % _MIDDLE, thing.radius + 1), _MIDDLE - 2 - thing.radius)
        for at in (thing.x, thing.y)
    )
    return thing._replace(x=x, y=y)


def _draw_size(rng, largest):
    sizes = [i for i, (low, _) in enumerate(RADII) if low <= largest]
    size = rng.choice(sizes)
    low, high = RADII[size]
    return size, rng.randrange(low, min(high, largest) + 1)


def _anywhere(radius, rng):
    return tuple(rng.randrange(radius + 1, IMAGE_SIZE - 1 - radius) for _ in range(2))


def _thing(kind, size, radius, centre, rng):
    piece = rng.randrange(IMAGE_SIZE), rng.randrange(IMAGE_SIZE), rng.randrange(8)
    return Thing(kind, size, radius, rng.randrange(NUM_TURNS), *centre, piece)


def solid(thing: Thing) -> np.ndarray:
    """Returns which pixels of the square around an object it covers by half or more, <bool>."""
    return outline(thing.kind.shape, thing.radius, thing.turn).solid


def overlap(one: Thing, other: Thing) -> int:
    """Returns how many pixels both of two objects cover by half or more."""
    # Of the part that their squares share, from the first one's centre: x, then y.
    bounds = [
        (max(-one.radius, by - other.radius), min(one.radius, by + other.radius) + 1, by)
        for by in (other.x - one.x, other.y - one.y)
    ]
    if any(first >= last for first, last, _ in bounds):
        return 0
    (left, right, dx), (top, bottom, dy) = bounds
    of_one = _part(one, left, right, top, bottom)
    return int((of_one & _part(other, left - dx, right - dx, top - dy, bottom - dy)).sum())


def _part(thing, left, right, top, bottom):
    r = thing.radius
    return solid(thing)[top + r : bottom + r, left + r : right + r]


LAYOUTS = {
    "alone": _alone,
    "row": _in_line,
    "column": _column,
    "inside": _inside,
    "touching": _touching,
    "front": _front,
    "between": _between,
    "counted": _counted,
    "quarters": _in_quarters,
}
