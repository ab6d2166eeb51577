"""A picture of some icons of an archive with their captions, one of each of as many sets."""

import hashlib
import io
import os
import textwrap

import matplotlib.image
from matplotlib.figure import Figure
from PIL import Image  # Matplotlib needs it too.

from limoe_tf.data import icon_pictures, icon_sets, icon_words

# Those that ask for no more than a notice.
LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause", "ISC", "CC0-1.0", "Unlicense")
_COLUMNS, _ROWS = 12, 8
_INCHES = {"width": 11, "height": 8.4}
# Of the letters of a caption, and of the line between them.
_POINTS, _LETTERS = 7, 16
# Of the file, which is a third of one in all colours.
_NUM_COLOURS = 96
# The picture in a cell of one by one: an icon of one inch in 72 dots.
_ICON, _TEXT = 0.66, 0.28


def some_icons(path: str | os.PathLike, *, count: int) -> list[icon_sets.Icon]:
    """Returns one icon of each of `count` sets of an archive; hashes of their names choose.

    Sets under other licences than `LICENCES`, and those of logos, are left out.

    Args:
      path: the archive; see `icon_sets.read_sets`.
      count: icons, fewer if there are fewer sets.
    """
    countries = icon_words.countries(icon_sets.read_sets(path))
    firsts = [
        min(found, key=_hash)
        for icon_set in icon_sets.read_sets(path)
        if _may_be_shown(icon_set["info"])
        and (found := list(icon_sets.icons_of(icon_set, countries)))
    ]
    return sorted(firsts, key=_hash)[:count]


def gallery(path: str | os.PathLike) -> bytes:
    """Returns a PNG of 96 icons on white, each with its first caption.

    Args:
      path: the archive; see `icon_sets.read_sets`.
    """
    icons = some_icons(path, count=_COLUMNS * _ROWS)
    figure = Figure(figsize=(_INCHES["width"], _INCHES["height"]), dpi=100)
    drawn = icon_pictures.drawn(icons, lambda icon: icon.svg, num_processes=1)
    for place, (icon, picture) in enumerate(drawn):
        row, column = divmod(place, _COLUMNS)
        left, bottom = column / _COLUMNS, 1 - (row + 1) / _ROWS
        corner = left + (1 - _ICON) / 2 / _COLUMNS, bottom + _TEXT / _ROWS
        axes = figure.add_axes((*corner, _ICON / _COLUMNS, _ICON / _ROWS))
        axes.set_axis_off()
        if isinstance(picture, bytes):
            axes.imshow(matplotlib.image.imread(io.BytesIO(picture), format="png"))
        middle = left + 0.5 / _COLUMNS, bottom + (_TEXT - 0.04) / _ROWS
        text = "\n".join(textwrap.wrap(icon.captions[0], _LETTERS, max_lines=2))
        figure.text(*middle, text, fontsize=_POINTS, ha="center", va="top")
    return _in_few_colours(figure)


def _in_few_colours(figure):
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png")
    picture = Image.open(whole).convert("RGB").quantize(_NUM_COLOURS, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


def _may_be_shown(info):
    return info["license"].get("spdx") in LICENCES and info.get("category") != "Logos"


def _hash(icon):
    return hashlib.sha256(f"{icon.prefix}/{icon.name}".encode()).digest()
