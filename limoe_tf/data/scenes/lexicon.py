"""What scenes are made of, and the words for it: the first word of each is that of class names."""

from typing import NamedTuple


class Colour(NamedTuple):
    """A colour: its words, its value, and that of the marks of a texture on it."""

    words: tuple[str, ...]
    value: tuple[int, int, int]
    marks: tuple[int, int, int]


class Texture(NamedTuple):
    """A texture of objects: adjectives, and phrases that follow a noun."""

    words: tuple[str, ...]
    phrases: tuple[str, ...]


class Shape(NamedTuple):
    """A shape: its nouns, and their plurals."""

    words: tuple[str, ...]
    plurals: tuple[str, ...]


class GroundColour(NamedTuple):
    """A colour of backgrounds."""

    words: tuple[str, ...]
    value: tuple[int, int, int]


def _rgb(value):
    return tuple(bytes.fromhex(value))


def _colour(value, *words):
    rgb = _rgb(value)
    is_light = 2 * rgb[0] + 5 * rgb[1] + rgb[2] > 8 * 110
    return Colour(words, rgb, (16, 16, 20) if is_light else (248, 248, 244))


def _shape(*words):
    ends = ("s", "x", "h")
    return Shape(words, tuple(f"{w}es" if w.endswith(ends) else f"{w}s" for w in words))


# No first word of a colour or texture begins with a vowel: "a {}" is correct for every class.
COLOURS = (
    _colour("d71e1e", "red", "scarlet"),
    _colour("f58c14", "tangerine", "orange"),
    _colour("f6de1e", "yellow", "lemon"),
    _colour("a0e632", "lime", "chartreuse"),
    _colour("1e8c32", "green", "emerald"),
    _colour("0a736e", "teal", "petrol"),
    _colour("28d2e6", "cyan", "turquoise"),
    _colour("2346d7", "blue", "cobalt"),
    _colour("141e64", "navy", "midnight"),
    _colour("782896", "purple", "violet"),
    _colour("e61ed2", "magenta", "fuchsia"),
    _colour("ffaac8", "pink", "rosy"),
    _colour("7d4b1e", "brown", "chocolate"),
    _colour("141414", "black", "jet"),
    _colour("fafafa", "white", "snowy"),
    _colour("8c8c8c", "grey", "gray"),
)
TEXTURES = (
    Texture(("plain", "solid"), ("without a pattern",)),
    Texture(("striped", "banded"), ("with stripes", "with bands")),
    Texture(("dotted", "spotted"), ("with dots", "with spots")),
    Texture(("checked", "chequered"), ("with checks",)),
    Texture(("netted", "latticed"), ("with a grid", "with a net")),
    Texture(("hollow", "outlined"), ("in outline",)),
    Texture(("shaded", "fading"), ("with a gradient",)),
    Texture(("bordered", "edged"), ("with a border", "with an edge")),
)
SHAPES = (
    _shape("circle", "disc"),
    _shape("ring", "hoop"),
    _shape("square", "box"),
    _shape("rectangle", "oblong"),
    _shape("triangle", "wedge"),
    _shape("diamond", "rhombus"),
    _shape("pentagon"),
    _shape("star"),
    _shape("sparkle", "twinkle"),
    _shape("cross", "plus"),
    _shape("saltire"),
    _shape("heart"),
    _shape("crescent", "moon"),
    _shape("arrow", "pointer"),
    _shape("ellipse", "oval"),
    _shape("semicircle", "half circle"),
    _shape("trapezoid", "trapezium"),
    _shape("hourglass"),
    _shape("drop", "teardrop"),
    _shape("flower", "blossom"),
    _shape("gear", "cog"),
    _shape("house", "cottage"),
    _shape("bolt", "flash"),
    _shape("crown"),
)
ANY_SHAPE = Shape(("shape", "thing", "object"), ("shapes", "things", "objects"))
SIZES = (("small", "little", "tiny"), ("medium", "middling"), ("large", "big", "huge"))
COUNTS = {2: ("two",), 3: ("three",), 4: ("four",)}

GROUNDS = (
    GroundColour(("cream",), _rgb("f0e8d2")),
    GroundColour(("mint",), _rgb("bee6cd")),
    GroundColour(("lilac",), _rgb("d2c3eb")),
    GroundColour(("sky",), _rgb("b4d7f0")),
    GroundColour(("sand",), _rgb("cdb48c")),
    GroundColour(("silver",), _rgb("c8c8cd")),
    GroundColour(("slate",), _rgb("5a6e82")),
    GroundColour(("charcoal",), _rgb("37373c")),
)
# The words for the textures of backgrounds; "shaded" ones grow darker to one side.
GROUND_TEXTURES = (
    ("plain",),
    ("striped", "banded"),
    ("dotted", "spotted"),
    ("checked", "chequered"),
    ("netted", "latticed"),
    ("shaded", "fading"),
)

_LEAST_CONTRAST = 70**2


def contrasts(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    """Returns whether an object of one colour can be seen on the other."""
    return sum((a - b) ** 2 for a, b in zip(one, other)) >= _LEAST_CONTRAST


# By colour, the grounds on which it can be seen; by colour, the colours on which it can be seen.
SEEN_ON_GROUNDS = tuple(
    frozenset(i for i, ground in enumerate(GROUNDS) if contrasts(colour.value, ground.value))
    for colour in COLOURS
)
SEEN_ON_COLOURS = tuple(
    frozenset(i for i, other in enumerate(COLOURS) if contrasts(colour.value, other.value))
    for colour in COLOURS
)
