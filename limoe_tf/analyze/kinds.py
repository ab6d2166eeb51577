"""What each token of a stream is: a patch's place in the image, a word piece, or the class token.

Axis letters: B examples, N tokens of a stream, P patches of an image.
"""

from collections.abc import Mapping

import numpy as np

from limoe_tf.tokens import modality_of

# A masked patch in a picture, as the model cannot see it.
_GREY = 128


def num_kinds(model, stream: str) -> int:
    """Returns the number of kinds of a stream's tokens.

    Of images they are the places of patches, row by row, and the class token where there is one;
    of texts the ids that are embedded, and padding as the last one.
    """
    if modality_of(stream) == "image":
        return model.image_embed.num_tokens
    return model.text_embed.vocabulary_size + 1


def own_names(model) -> tuple[str, ...]:
    """Returns labels of the ids behind those of the vocabulary: mask and class token, or none."""
    return ("(mask)", "(class)") if model.text_embed.vocabulary_size > model.vocabulary_size else ()


def kinds_of(model, stream: str, batch: Mapping[str, np.ndarray], *, num_tokens: int) -> np.ndarray:
    """Returns the kind of each token of a stream, as the model sees it.

    Args:
      model: has `stream_keys`.
      stream: its name.
      batch: dict of arrays, an input of the model.
      num_tokens: N; tokens in front of patches and word pieces are class tokens.

    Returns:
      <int>[B, N].
    """
    key = model.stream_keys[stream]
    if modality_of(stream) == "image":
        patches = np.arange(model.image_embed.num_patches)
        first = [len(patches)] * (num_tokens - len(patches))
        return np.broadcast_to([*first, *patches], [len(batch[key]), num_tokens])
    shown = batch.get(f"{key}_shown", batch[key])
    pieces = np.where(batch[f"{key}_valid"], shown, model.text_embed.vocabulary_size)
    if not (missing := num_tokens - pieces.shape[1]):
        return pieces
    return np.pad(pieces, [[0, 0], [missing, 0]], constant_values=model.class_id)


def shown_images(model, stream: str, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns <uint8>[B, H, W, 3] of a stream of images, with masked patches in grey."""
    key, size = model.stream_keys[stream], model.image_embed.patch_size
    images = batch[key]
    if f"{key}_masked" not in batch:
        return images
    images = images.copy()
    columns = images.shape[2] // size
    for image, places in zip(images, batch[f"{key}_masked"]):
        for place in places:
            row, column = (size * number for number in divmod(int(place), columns))
            image[row : row + size, column : column + size] = _GREY
    return images
