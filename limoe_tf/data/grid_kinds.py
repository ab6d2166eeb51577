"""Kinds of things in `grid_scenes`, such as "small thing", "ring" and "red square"."""

from typing import NamedTuple

from limoe_tf.data import grid_scenes
from limoe_tf.data.grid_scenes import Thing


class Kind(NamedTuple):
    """What is told of a thing: indices as in `grid_scenes.Thing`; None is any."""

    size: int | None = None
    colour: int | None = None
    shape: int | None = None

    @property
    def name(self) -> str:
        """Its words in the order of captions; without a shape it is a "thing"."""
        words = [] if self.size is None else [grid_scenes.SIZES[self.size]]
        words += [] if self.colour is None else [grid_scenes.COLOURS[self.colour]]
        return " ".join([*words, "thing" if self.shape is None else grid_scenes.SHAPES[self.shape]])

    @property
    def plural(self) -> str:
        """The name of several."""
        return self.name + ("es" if self.name.endswith("s") else "s")

    def among(self, things: list[Thing]) -> list[Thing]:
        """Returns those of the things that are of this kind."""
        return [thing for thing in things if self.includes(thing)]

    def includes(self, thing: Thing) -> bool:
        """Returns whether a thing is of this kind."""
        return all(
            part is None or part == getattr(thing, key) for key, part in self._asdict().items()
        )


SIZES = tuple(Kind(size=size) for size in range(len(grid_scenes.SIZES)))
COLOURS = tuple(Kind(colour=colour) for colour in range(len(grid_scenes.COLOURS)))
SHAPES = tuple(Kind(shape=shape) for shape in range(len(grid_scenes.SHAPES)))
# Each colour in each shape: the index of one is colour * 4 + shape.
PAIRS = tuple(colour._replace(shape=kind.shape) for colour in COLOURS for kind in SHAPES)
