"""The four streams of `VlMoe`: what a batch holds of each, its loss, and what of it is masked.

Axis letters: B examples, N word pieces of a text, M masked places.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from limoe_tf import tokens


class Stream:
    """What is read of a batch for a stream, its loss, and the argument of its masked share."""

    def __init__(self, key: str, modality: str, loss: str, share: str):
        self.key, self.modality, self.loss, self.share = key, modality, loss, share
        needed = {"image": (key,), "text": (key, f"{key}_valid")}[modality]
        hidden = {"image": ("masked",), "text": ("shown", "masked", "masked_present")}[modality]
        self.needed, self.hidden = needed, tuple(f"{key}_{name}" for name in hidden)


STREAMS = {
    "text": Stream("lone_text", "text", "mlm", "word_share"),
    "image": Stream("lone_image", "image", "mim", "patch_share"),
    "pair_text": Stream("text", "text", "vlm_text", "pair_word_share"),
    "pair_image": Stream("image", "image", "vlm_image", "pair_patch_share"),
}
LOSSES = tuple(stream.loss for stream in STREAMS.values())
_ROUTING_LOSSES = ("importance", "load", "z", "mutual_information")


def default_weights() -> dict[str, float]:
    """Returns 1 for the losses of masked places; of routing, load, for images also importance."""
    others = dict.fromkeys(_ROUTING_LOSSES, 0.0)
    for stream in STREAMS:
        others.update({f"{kind}_entropy_{stream}": 0.0 for kind in ("local", "global")})
    for stream, found in STREAMS.items():
        weights = {"image": (0.005, 0.005), "text": (0.0, 0.01)}[found.modality]
        others.update({f"{stream}/importance": weights[0], f"{stream}/load": weights[1]})
    return {**dict.fromkeys(LOSSES, 1.0), **others}


def check_keys(batch: Mapping[str, Any]) -> None:
    """Raises ValueError unless a batch holds all of each stream that it has anything of."""
    known = {key for stream in STREAMS.values() for key in (*stream.needed, *stream.hidden)}
    given = set(batch)
    faults = sorted(given - known)
    for stream in STREAMS.values():
        for keys in (stream.needed, stream.hidden):
            faults += [key for key in keys if key not in given and given & {*keys}]
        if given & {*stream.hidden} and stream.key not in given:
            faults.append(stream.key)
    if ("image" in given) != ("text" in given) or not given:
        faults.append("image and text")
    if faults:
        raise ValueError(
            "A batch holds `image`, `text` and `text_valid`; `lone_image`; or `lone_text` and "
            "`lone_text_valid`; and all that is masked of each, or nothing. "
            f"Received: keys={sorted(given)}, unknown or incomplete: {faults}"
        )


def check_words(key: str, batch: Mapping[str, Any]) -> None:
    """Raises ValueError if a text, where values are known, is nothing but its end."""
    valid = batch[f"{key}_valid"]
    if isinstance(valid, np.ndarray) or hasattr(valid, "numpy"):
        empty = np.flatnonzero(np.asarray(valid).sum(axis=1) < 2)
        if len(empty):
            raise ValueError(
                f"`{key}` must have words before its end. "
                f"Received: none in {len(empty)} texts, number {empty[0]} first"
            )


def batch_spec(
    size: int | None,
    *,
    image_size: int,
    num_patches: int,
    text_length: int,
    shares: Mapping[str, float],
) -> dict[str, tf.TensorSpec]:
    """Returns the specs of a batch of pairs, images and texts, with what is masked.

    Args:
      size: B of each.
      image_size: side of the images, pixels.
      num_patches: of an image.
      text_length: N.
      shares: dict by name of the masked shares.
    """
    specs = {}
    for stream in STREAMS.values():
        share = shares[stream.share]
        if stream.modality == "image":
            places = tokens.num_masked(share, num_patches)
            pixels = [image_size, image_size, 3]
            found = {"": (pixels, tf.uint8), "_masked": ([places], tf.int32)}
        else:
            places, text = tokens.num_masked(share, text_length - 1), [text_length]
            found = {
                "": (text, tf.int32),
                "_valid": (text, tf.bool),
                "_shown": (text, tf.int32),
                "_masked": ([places], tf.int32),
                "_masked_present": ([places], tf.bool),
            }
        for end, (shape, dtype) in found.items():
            specs[f"{stream.key}{end}"] = tf.TensorSpec([size, *shape], dtype)
    return specs
