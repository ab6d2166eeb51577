"""Examples of the dataset `endless_scenes`: each is a function of its split and number."""

import random
from typing import Any, NamedTuple

import numpy as np

from limoe_tf import checks
from limoe_tf.data.scenes import grammar, painting, placing
from limoe_tf.data.scenes.lexicon import COLOURS, SHAPES, TEXTURES
from limoe_tf.data.scenes.structure import Kind, Scene

SPLITS = {"train": 1_000_000, "validation": 5_000, "test": 5_000}
# In the order of their labels: see `triple_label` and `pair_label`.
KINDS = tuple(
    Kind(colour, texture, shape)
    for colour in range(len(COLOURS))
    for texture in range(len(TEXTURES))
    for shape in range(len(SHAPES))
)
TRIPLE_NAMES = tuple(grammar.triple_name(kind) for kind in KINDS)
PAIR_NAMES = tuple(grammar.pair_name(kind) for kind in KINDS if kind.texture == 0)


class Example(NamedTuple):
    """One scene.

    Attributes:
      image: <uint8>[64, 64, 3].
      captions: three texts.
      pairs: indices into `PAIR_NAMES` of the objects' colours and shapes, each once.
      triples: indices into `TRIPLE_NAMES` of their colours, textures and shapes, each once.
      seen: whether all triples of the scene occur in "train"; otherwise none does.
      scene: what was drawn.
    """

    image: np.ndarray
    captions: list[str]
    pairs: list[int]
    triples: list[int]
    seen: bool
    scene: Scene


def render(split: str, index: int) -> Example:
    """Draws example `index` of a split; the same arguments always give the same example.

    Scenes of "train" have no triple of colour, texture and shape that is held out. In the other
    splits every second scene (odd indices) has held-out ones only.

    Args:
      split: "train", "validation" or "test".
      index: place of the example in its split, from 0.

    Returns:
      Example.

    Raises:
      ValueError: if there is no such split, or no such example in it.
      TypeError: if `index` is not an integer.
    """
    checks.one_of("split", split, tuple(SPLITS))
    index = checks.integer_in("index", index, 0, SPLITS[split] - 1)
    # A string seeds `random.Random` through SHA-512: the same on every machine.
    rng = random.Random(f"endless_scenes/{split}/{index}")
    seen = split == "train" or index % 2 == 0
    scene = placing.draw_scene(rng, held_out=not seen)
    captions = grammar.captions(scene, rng)
    image = painting.paint(scene, rng.randbytes(painting.NOISE_BYTES))
    kinds = dict.fromkeys(thing.kind for thing in scene.things)
    pairs = dict.fromkeys(pair_label(kind) for kind in kinds)
    return Example(image, captions, list(pairs), [triple_label(k) for k in kinds], seen, scene)


def record(split: str, index: int) -> dict[str, Any]:
    """Returns the features of an example as they are stored, the image as a PNG file."""
    example = render(split, index)._asdict()
    del example["scene"]
    return {**example, "image": painting.encode_png(example["image"])}


def triple_label(kind: Kind) -> int:
    """Returns the label of a colour, texture and shape: an index into `TRIPLE_NAMES`."""
    return (kind.colour * len(TEXTURES) + kind.texture) * len(SHAPES) + kind.shape


def pair_label(kind: Kind) -> int:
    """Returns the label of a colour and shape: an index into `PAIR_NAMES`."""
    return kind.colour * len(SHAPES) + kind.shape
