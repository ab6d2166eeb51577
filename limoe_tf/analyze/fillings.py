"""A picture of what a `VlMoe` puts in the place of masked patches and words of some pairs."""

import io
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from limoe_tf.data.words import Vocabulary

_INCHES = 2.1
_LETTERS = 60
_GAP = "____"


class Filling(NamedTuple):
    """One pair, as the model saw and filled it.

    Attributes:
      image: <uint8>[H, W, 3].
      shown: <uint8>[H, W, 3] with masked patches in grey.
      filled: the same, with each masked patch in the mean colour of the code that is most likely.
      gaps: the text, with a line in the place of each masked word.
      words: the text, with the word that is most likely there in brackets.
      right: numbers of the gaps that are filled rightly, and of all.
    """

    image: np.ndarray
    shown: np.ndarray
    filled: np.ndarray
    gaps: str
    words: str
    right: tuple[int, int]


def fill(model: Any, batch: Mapping[str, tf.Tensor], vocabulary: Vocabulary) -> list[Filling]:
    """Returns a Filling of each pair of a batch.

    Args:
      model: `VlMoe` whose targets are codes.
      batch: of `masked_batches.masked_batches`.
      vocabulary: of the model.
    """
    batch = {name: value for name, value in batch.items() if not name.startswith("lone_")}
    streams, _ = model(batch, training=False)
    words = tf.argmax(model.word_logits(streams["pair_text"], batch["text_masked"]), axis=-1)
    codes = tf.argmax(model.patch_logits(streams["pair_image"], batch["image_masked"]), axis=-1)
    colours = model.patch_codes.colours(codes).numpy()
    batch, pieces = {name: value.numpy() for name, value in batch.items()}, vocabulary.pieces()
    return [
        Filling(
            batch["image"][row],
            *_patches(batch["image"][row], batch["image_masked"][row], colours[row], model),
            *_texts(
                {name: value[row] for name, value in batch.items()}, words[row].numpy(), pieces
            ),
        )
        for row in range(len(batch["image"]))
    ]


def _patches(image, places, colours, model):
    shown, filled, size = image.copy(), image.copy(), model.patch_size
    for place, colour in zip(places, colours):
        row, column = (size * number for number in divmod(place, model.image_size // size))
        shown[row : row + size, column : column + size] = 128
        filled[row : row + size, column : column + size] = colour
    return shown, filled


def _texts(pair, words, pieces):
    of_place = {
        place: piece
        for place, piece, present in zip(pair["text_masked"], words, pair["text_masked_present"])
        if present
    }
    gaps, filled = [], []
    for place, piece in enumerate(pair["text"][: pair["text_valid"].sum() - 1]):
        masked = place in of_place
        gaps.append(f"\u2581{_GAP}" if masked else pieces[piece])
        filled.append(f"\u2581[{_word(pieces[of_place[place]])}]" if masked else pieces[piece])
    right = sum(pair["text"][place] == piece for place, piece in of_place.items())
    return _joined(gaps), _joined(filled), (int(right), len(of_place))


def _word(piece):
    return piece.replace("\u2581", "")


def _joined(pieces):
    return "".join(pieces).replace("\u2581", " ").strip()


def picture(fillings: list[Filling]) -> bytes:
    """Returns a PNG: a row of each pair, the image, what is shown of it, what is filled in."""
    titles = ("image", "shown", "most likely codes, by their colours")
    figure = Figure(figsize=(5.6 * _INCHES, _INCHES * len(fillings)), dpi=100)
    grid = figure.add_gridspec(len(fillings), 4, width_ratios=(1, 1, 1, 2.4))
    for row, one in enumerate(fillings):
        for column, image in enumerate((one.image, one.shown, one.filled)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image)
            axes.set_axis_off()
            if not row:
                axes.set_title(titles[column], fontsize=7)
        axes = figure.add_subplot(grid[row, 3])
        axes.set_axis_off()
        right, count = one.right
        lines = [
            *textwrap.wrap(one.gaps, _LETTERS),
            "",
            *textwrap.wrap(one.words, _LETTERS),
            f"{right} of {count} right",
        ]
        axes.text(0, 0.95, "\n".join(lines), va="top", fontsize=8, family="monospace")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.94, bottom=0.02, wspace=0.05, hspace=0.08)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
