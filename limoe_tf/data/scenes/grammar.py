"""Captions of scenes: many ways to say a part of what is true."""

import random

from limoe_tf.data.scenes import lexicon
from limoe_tf.data.scenes.structure import Kind, Relation, Scene, Thing

# Around a description.
FRAMES = (
    "{}",
    "{}",
    "a picture of {}",
    "a drawing of {}",
    "an image of {}",
    "this shows {}",
    "here we see {}",
)
# From the first object to the second, and back.
RELATION_WORDS = {
    "left": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over", "higher than"), ("below", "under", "lower than")),
    "inside": (("inside", "within"), ("around", "containing")),
    "touching": (("touching", "in contact with"), ("touching", "in contact with")),
    "front": (("in front of", "partly hiding"), ("behind", "partly hidden by")),
}
BESIDE_WORDS = ("beside", "next to")
BETWEEN_WORDS = ("between", "flanked by")
# Of single objects and of those in quarters of the image, by (row, column); None says nothing.
PLACE_WORDS = {
    (0, 0): ("at the top left", "in the top left corner"),
    (0, 1): ("at the top",),
    (0, 2): ("at the top right", "in the top right corner"),
    (1, 0): ("on the left", "at the left"),
    (1, 1): ("in the middle", "in the centre"),
    (1, 2): ("on the right", "at the right"),
    (2, 0): ("at the bottom left", "in the bottom left corner"),
    (2, 1): ("at the bottom",),
    (2, 2): ("at the bottom right", "in the bottom right corner"),
}
# Where a coordinate has a name: first and last pixel of each third; between them it has none.
THIRDS = ((0, 23), (27, 36), (40, 63))
# How likely a description mentions each attribute, and names the shape.
_MENTIONED = {"size": 0.4, "texture": 0.55, "colour": 0.75, "shape": 0.9}


def captions(scene: Scene, rng: random.Random) -> list[str]:
    """Returns three captions, all true: what there is; how it stands; with the background.

    Args:
      scene: Scene.
      rng: decides which part of it is told, and in which words.
    """
    return [
        rng.choice(FRAMES).format(_what(scene, rng)),
        rng.choice(FRAMES).format(_how(scene, rng)),
        f"{_what(scene, rng)} on {_background(scene, rng)}",
    ]


def with_article(words: str) -> str:
    """Returns a noun phrase after "a" or "an"."""
    is_vowel = words[0] in "aeiou" or words.startswith("hour")
    return f"{'an' if is_vowel else 'a'} {words}"


def triple_name(kind: Kind) -> str:
    """Returns the name of a triple, such as "striped red star"."""
    return f"{lexicon.TEXTURES[kind.texture].words[0]} {pair_name(kind)}"


def pair_name(kind: Kind) -> str:
    """Returns the name of a colour and a shape, such as "red star"."""
    return f"{lexicon.COLOURS[kind.colour].words[0]} {lexicon.SHAPES[kind.shape].words[0]}"


def _what(scene, rng):
    """Returns the objects, or some of them, or how many there are."""
    things = scene.things
    if scene.layout == "counted":
        return _counted(things, rng)
    if len(things) == 1:
        return _one(things[0], rng)
    if rng.random() < 0.1:
        return f"{rng.choice(lexicon.COUNTS[len(things)])} {rng.choice(lexicon.ANY_SHAPE.plurals)}"
    # Of three or four objects two or three are named, in any order.
    told = rng.sample(things, min(len(things), rng.choice((2, 2, 3))))
    *first, last = [_one(thing, rng, brief=len(told) > 2) for thing in told]
    return f"{', '.join(first)} and {last}"


def _counted(things, rng):
    """Returns the equal objects with their number, and the other one, if it is told."""
    like = [thing for thing in things if thing.kind == things[0].kind]
    number = rng.choice(lexicon.COUNTS[len(like)])
    said = f"{number} {_noun(like[0], rng, plural=True)}"
    others = [_one(thing, rng) for thing in things[len(like) :]]
    parts = [said, *others] if rng.random() < 0.7 else [said]
    return " and ".join(parts if rng.random() < 0.5 else parts[::-1])


def _how(scene, rng):
    """Returns a relation of two or three objects, or where one of them is."""
    if scene.relations and rng.random() < 0.85:
        return _relation(rng.choice(scene.relations), scene.things, rng)
    if scene.layout == "counted":
        return _counted(scene.things, rng)
    placed = [(thing, place(thing)) for thing in scene.things]
    placed = [(thing, where) for thing, where in placed if where is not None]
    if not placed or scene.layout not in ("alone", "quarters"):
        return _what(scene, rng)
    thing, where = rng.choice(placed)
    words = _one(thing, rng)
    return f"{words} {rng.choice(PLACE_WORDS[where])}"


def place(thing: Thing) -> tuple[int, int] | None:
    """Returns (row, column) of the part of the image in which an object is; None if unclear."""
    found = [
        [i for i, (first, last) in enumerate(THIRDS) if first <= at <= last]
        for at in (thing.y, thing.x)
    ]
    return (found[0][0], found[1][0]) if all(found) else None


def _relation(relation: Relation, things, rng):
    nouns = [_one(things[i], rng, brief=len(relation.things) > 2) for i in relation.things]
    if relation.word == "between":
        middle, *ends = nouns
        rng.shuffle(ends)
        return f"{middle} {rng.choice(BETWEEN_WORDS)} {ends[0]} and {ends[1]}"
    forward, backward = RELATION_WORDS[relation.word]
    if relation.word == "left" and rng.random() < 0.2:
        forward = backward = BESIDE_WORDS
    if rng.random() < 0.5:
        return f"{nouns[0]} {rng.choice(forward)} {nouns[1]}"
    return f"{nouns[1]} {rng.choice(backward)} {nouns[0]}"


def _one(thing, rng, *, brief=False):
    return with_article(_noun(thing, rng, brief=brief))


def _noun(thing, rng, *, plural=False, brief=False):
    """Returns a noun with some of an object's attributes, at least one of colour and texture.

    Several equal objects are always called by their shape: so their number is that of all of it.
    A brief description tells colour or texture, not both.
    """
    told = {name for name, share in _MENTIONED.items() if rng.random() < share}
    if not told & {"colour", "texture"}:
        told.add("colour")
    if brief:
        told -= {"size", "texture" if "colour" in told else ""}
    shape = lexicon.SHAPES[thing.kind.shape] if plural or "shape" in told else lexicon.ANY_SHAPE
    before, after = [], []
    if "size" in told:
        before.append(rng.choice(lexicon.SIZES[thing.size]))
    if "texture" in told:
        texture = lexicon.TEXTURES[thing.kind.texture]
        follows = rng.random() < 0.3
        (after if follows else before).append(
            rng.choice(texture.phrases if follows else texture.words)
        )
    if "colour" in told:
        before.append(rng.choice(lexicon.COLOURS[thing.kind.colour].words))
    return " ".join((*before, rng.choice(shape.plurals if plural else shape.words), *after))


def _background(scene, rng):
    """Returns words for the colour of the background, its texture, or both."""
    colour = rng.choice(lexicon.GROUNDS[scene.ground.colour].words)
    texture = rng.choice(lexicon.GROUND_TEXTURES[scene.ground.texture])
    told = rng.choice((colour, texture, f"{texture} {colour}"))
    return with_article(f"{told} {rng.choice(('background', 'ground', 'backdrop'))}")
