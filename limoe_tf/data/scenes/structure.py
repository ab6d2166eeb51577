"""What a scene is: its objects, what is true of them, and the background; drawn from a seed."""

import random
from typing import NamedTuple

from limoe_tf.data.scenes import lexicon, patterns
from limoe_tf.data.scenes.lexicon import COLOURS, SHAPES, TEXTURES

# How often each layout of `placing.LAYOUTS` is drawn, of 20.
_LAYOUTS = (
    *("alone",) * 7,
    *("row",) * 2,
    *("column",) * 2,
    *("inside", "touching", "front", "between", "between"),
    *("counted", "counted", "quarters", "quarters"),
)
# A held-out triple is one whose sum of indices is a multiple of this.
_HELD_OUT_ONE_IN = 5
# Strengths of the noise, in steps of 255; brightness of a scene, in sixteenths.
_NOISES = (0, 6, 12, 18)
_BRIGHTNESSES = (13, 14, 15, 16)


class Kind(NamedTuple):
    """A colour, a texture and a shape: indices into `COLOURS`, `TEXTURES` and `SHAPES`."""

    colour: int
    texture: int
    shape: int


class Thing(NamedTuple):
    """An object: its kind, size (index into `lexicon.SIZES`), radius, turn, centre, and marks.

    Centres are whole pixels, (x, y) from the top left. `piece` is where in the tables of patterns
    the object's marks are cut: column, row, direction.
    """

    kind: Kind
    size: int
    radius: int
    turn: int
    x: int
    y: int
    piece: tuple[int, int, int]


class Relation(NamedTuple):
    """What is true of objects, by their places in the scene.

    `word` is "left", "above", "inside", "touching", "front" or "between"; for "between" the first
    object is the one in the middle.
    """

    word: str
    things: tuple[int, ...]


class Ground(NamedTuple):
    """A background: indices into `GROUNDS` and `GROUND_TEXTURES`; `piece` as that of a Thing."""

    colour: int
    texture: int
    period: int
    piece: tuple[int, int, int]


class Scene(NamedTuple):
    """A scene, without its captions.

    Attributes:
      layout: one of `placing.LAYOUTS`.
      things: tuple of Thing in the order in which they are painted.
      relations: tuple of Relation.
      ground: Ground.
      noise: strength of the noise, in steps of 255.
      brightness: sixteenths to which all pixels are darkened.
    """

    layout: str
    things: tuple[Thing, ...]
    relations: tuple[Relation, ...]
    ground: Ground
    noise: int
    brightness: int


def is_held_out(kind: Kind) -> bool:
    """Returns whether a triple of colour, texture and shape never occurs in "train"."""
    return sum(kind) % _HELD_OUT_ONE_IN == 0


def draw_layout(rng: random.Random) -> str:
    """Draws a name of `placing.LAYOUTS`."""
    return rng.choice(_LAYOUTS)


def draw_kinds(
    count: int, held_out: bool, shapes: tuple[int, ...], rng: random.Random
) -> tuple[list[Kind], tuple[int, ...]]:
    """Draws kinds that can be told apart on each other and have a background in common.

    Args:
      count: how many.
      held_out: whether all of them are held out of "train", or none.
      shapes: indices from which the first one's shape is taken.
      rng: decides.

    Returns:
      list of Kind, and the indices of the backgrounds on which all can be seen.
    """
    while True:
        kinds = [_draw_kind(held_out, shapes, rng)]
        while len(kinds) < count:
            kind = _draw_kind(held_out, _ALL_SHAPES, rng)
            if all(kind.colour in lexicon.SEEN_ON_COLOURS[k.colour] for k in kinds):
                kinds.append(kind)
        grounds = frozenset.intersection(*(lexicon.SEEN_ON_GROUNDS[k.colour] for k in kinds))
        if grounds:
            return kinds, tuple(sorted(grounds))


def draw_ground(grounds: tuple[int, ...], rng: random.Random) -> Ground:
    """Draws a background of one of some colours."""
    texture = rng.randrange(len(lexicon.GROUND_TEXTURES))
    direction = rng.randrange(patterns.NUM_DIRECTIONS)
    is_shaded = lexicon.GROUND_TEXTURES[texture][0] == "shaded"
    corner = (0, 0) if is_shaded else (rng.randrange(64), rng.randrange(64))
    period = rng.randrange(*patterns.GROUND_PERIODS)
    return Ground(rng.choice(grounds), texture, period, (*corner, direction))


def draw_light(rng: random.Random) -> tuple[int, int]:
    """Draws the noise and the brightness of a scene."""
    return rng.choice(_NOISES), rng.choice(_BRIGHTNESSES)


_ALL_SHAPES = tuple(range(len(SHAPES)))


def _draw_kind(held_out, shapes, rng):
    while True:
        kind = Kind(rng.randrange(len(COLOURS)), rng.randrange(len(TEXTURES)), rng.choice(shapes))
        if is_held_out(kind) == held_out:
            return kind
