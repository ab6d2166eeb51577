"""The features that a trained LIMoE has of patches, which a codebook can be made of.

Axis letters: B examples, P patches of an image, D width.
"""

import hashlib
import json
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.model import sizes
from limoe_tf.model.limoe import Limoe

_CONFIG = "limoe"
_WEIGHTS = "limoe/"
# Every token meets its expert, nothing is drawn, and the numbers are those of any machine.
_FROZEN = {
    "modalities": ["image"],
    "min_experts": None,
    "inference_capacity_factor": None,
    "attention_chunks": None,
    "recompute_blocks": False,
    "dtype": "float32",
}


class LimoeFeatures:
    """The encoded patches of a frozen image tower: the tokens that its head would pool.

    It is no layer, so what holds it neither trains its weights nor saves them.

    Args:
      arrays: dict that `packed` has returned.

    Attributes:
      patch_size, image_size: sides in pixels of the model's images.
      sha256: hash of the arrays.

    Raises:
      ValueError: if the arrays are not those of a `Limoe` of this version.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        try:
            config = json.loads(arrays[_CONFIG].tobytes())
            model = keras.saving.deserialize_keras_object(config)
            weights = {_WEIGHTS + name: weight for name, weight in _named(model).items()}
            for name, weight in weights.items():
                weight.assign(arrays[name])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"Features must be of a Limoe that this version can read. Received: {error}"
            ) from error
        model.trainable = False
        self._model = model
        self.patch_size, self.image_size = model.image_embed.patch_size, model.image_size
        self.sha256 = _hash(arrays)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, P, D] of <uint8>[B, H, W, 3], or <float>[B, H, W, 3] in [-1, 1]."""
        streams = {"image": self._model.image_embed(images)}
        streams, _ = self._model.encoder(streams, {"image": None}, training=False)
        return streams["image"]


def packed(model: Limoe) -> dict[str, np.ndarray]:
    """Returns the configuration and the weights of a model's image tower by name, for a file.

    Args:
      model: a built `Limoe` or `TwoTower` that takes images, and holds all of its experts.

    Raises:
      ValueError: if it does not take images.
    """
    if "image" not in model.modalities:
        raise ValueError(
            f"Features of patches need a model of images. Received: modalities={model.modalities}"
        )
    values = model.get_config()
    if values["routing"] == "experts_per_modality":  # `num_experts` are then those of all.
        pools = len(model.modalities)
        experts = sizes.checked_experts(values["num_experts"], model.plan, pools=pools)
        values["num_experts"] = list(experts.values())
    alone = type(model).from_config({**values, **_FROZEN, "name": "limoe"})
    config = json.dumps(keras.saving.serialize_keras_object(alone), sort_keys=True)
    weights = _named(model)
    arrays = {_WEIGHTS + name: np.asarray(weights[name]) for name in _named(alone)}
    return {_CONFIG: np.frombuffer(config.encode(), np.uint8), **arrays}


def _named(model):
    """Returns the weights by their path, without the name of the model."""
    return {weight.path.removeprefix(f"{model.name}/"): weight for weight in model.weights}


def _hash(arrays):
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
