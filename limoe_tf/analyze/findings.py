"""One pass of a model over a dataset, and the routing statistics of each sparse layer."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.analyze.patches import TopPatches
from limoe_tf.analyze.routes import routes_of, sparse_layers
from limoe_tf.analyze.tally import ModalityTally, kinds_of_experts
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import evaluation_batches
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary


class Findings(NamedTuple):
    """The routing statistics of one sparse layer.

    Attributes:
      tallies: dict of `tally.ModalityTally` by modality.
      patches: `patches.TopPatches`, or None if the layer routes no images.
      thresholds: dict by modality of the entropy threshold of training, log(min_experts).
    """

    tallies: dict[str, ModalityTally]
    patches: TopPatches | None
    thresholds: dict[str, float]

    @property
    def experts(self) -> list[str]:
        """The kind of each expert, see `tally.kinds_of_experts`."""
        return kinds_of_experts(self.tallies)


def pairs(
    source: Source,
    *,
    vocabulary: Vocabulary,
    batch_size: int,
    image_size: int,
    num_images: int,
    bad_records: BadRecords | None = None,
) -> tf.data.Dataset:
    """Makes the dataset of a source's images, each once and with one caption.

    Image number n is paired with its caption number n modulo the number of its captions.

    Args:
      source: one with captions, see `data.batches.evaluation_batches`.
      vocabulary: Vocabulary.
      batch_size: B, images routed together; the last batch may be smaller.
      image_size: side of the images in pixels.
      num_images: images to read at most, rounded up to whole batches.
      bad_records: see `data.batches.training_batches`.

    Returns:
      tf.data.Dataset of batches as the model takes them.
    """
    batches = evaluation_batches(
        source, batch_size=batch_size, image_size=image_size, bad_records=bad_records
    )

    def with_text(number, batch):
        captions = batch["captions"]
        places = number * batch_size + tf.range(captions.nrows())
        places = captions.row_starts() + places % captions.row_lengths()
        text, text_valid = vocabulary(tf.gather(captions.flat_values, places))
        return {"image": batch["image"], "text": text, "text_valid": text_valid}

    return batches.take(-(-num_images // batch_size)).enumerate().map(with_text)


def find(
    model: keras.Model, batches: Iterable[dict[str, tf.Tensor]]
) -> tuple[dict[str, Findings], int]:
    """Runs a model on a dataset and counts the experts to which its sparse layers route the tokens.

    Args:
      model: `Limoe` with sparse blocks.
      batches: iterable of dicts of tensors, as `pairs` makes them. Examples at the end of a batch
        that do not fill all replicas, or a group, are skipped.

    Returns:
      dict of Findings by layer, and the number of examples.

    Raises:
      ValueError: if the model has no sparse block, or no batch fills all replicas and groups.
    """
    layers = sparse_layers(model)
    found = {name: _nothing_yet(model, layer) for name, layer in layers.items()}
    multiple = model.distribute_strategy.num_replicas_in_sync
    multiple *= next((layer.group_size for layer in layers.values()), None) or 1
    num_examples = 0
    with routes_of(model) as routes:
        for batch in batches:
            size = len(batch["image"]) // multiple * multiple
            if not size:
                continue
            batch = {name: value[:size] for name, value in batch.items()}
            num_examples += size
            for layer, by_modality in routes(batch).items():
                _add(found[layer], by_modality, batch, model.vocabulary_size)
    if not num_examples:
        raise ValueError(f"`batches` must hold a batch of at least {multiple}. Received: none")
    return found, num_examples


def _nothing_yet(model, layer):
    kinds = {
        "image": model.image_embed.num_tokens,
        "text": model.vocabulary_size + 1,  # The last one is padding.
    }
    patches = None
    if "image" in layer.modalities:
        patches = TopPatches(layer.num_experts, patch_size=model.image_embed.patch_size)
    return Findings(
        {name: ModalityTally(layer.num_experts, kinds[name]) for name in layer.modalities},
        patches,
        {name: math.log(layer.min_experts[name]) for name in layer.modalities},
    )


def _add(findings, by_modality, batch, padding):
    for name, routes in by_modality.items():
        if name == "image":
            kinds = np.broadcast_to(np.arange(routes.expert.shape[1]), routes.expert.shape[:2])
            findings.patches.add(routes, batch["image"].numpy())
        else:
            kinds = np.where(batch["text_valid"], batch["text"], padding)
        findings.tallies[name].add(routes, kinds)
