"""One pass of a model over a dataset, and the routing statistics of each sparse layer."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from limoe_tf.analyze import kinds
from limoe_tf.analyze.patches import TopPatches
from limoe_tf.analyze.routes import Routes, routes_of, sparse_layers
from limoe_tf.analyze.tally import ModalityTally, joined, kinds_of_experts
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import evaluation_batches
from limoe_tf.data.masked_batches import masked_batches
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.records import Source, raw_records
from limoe_tf.data.words import Vocabulary
from limoe_tf.tokens import modality_of


class Findings(NamedTuple):
    """The routing statistics of one sparse layer.

    Attributes:
      tallies: dict of `tally.ModalityTally` by stream.
      patches: `patches.TopPatches`, or None if the layer routes no images.
      thresholds: dict by stream of the entropy threshold of training, log(min_experts); without
        those whose loss has no weight by default.
    """

    tallies: dict[str, ModalityTally]
    patches: TopPatches | None
    thresholds: dict[str, float]

    @property
    def experts(self) -> list[str]:
        """The kind of each expert, see `tally.kinds_of_experts`."""
        return kinds_of_experts(self.tallies)

    def of_modality(self, modality: str) -> ModalityTally | None:
        """Returns the choices of all streams of "image" or "text"; None if there are none."""
        return joined([t for name, t in self.tallies.items() if modality_of(name) == modality])


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


def masked(
    source: Source | Mixture,
    *,
    vocabulary: Vocabulary,
    batch_size: int,
    num_images: int,
    bad_records: BadRecords | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Makes the dataset of pairs, images alone and texts alone, masked as in training.

    Args:
      source: of pairs. No pair is read twice, unless there are fewer than `batch_size`.
      vocabulary: Vocabulary.
      batch_size: B, pairs routed together, and as many images and texts alone.
      num_images: pairs to read at most, rounded up to whole batches.
      bad_records: see `data.batches.training_batches`.
      **options: of `data.masked_batches.masked_batches`, such as the model's `data_options`.
    """
    parts = source.parts.values() if isinstance(source, Mixture) else [source]
    most = -(-num_images // batch_size) * batch_size
    records = sum(
        int(raw_records(part).take(most).reduce(0, lambda count, _: count + 1)) for part in parts
    )
    batches = masked_batches(
        source,
        vocabulary=vocabulary,
        batch_size=batch_size,
        seed=0,
        bad_records=bad_records,
        **options,
    )
    return batches.take(max(1, min(most, records) // batch_size))


def find(
    model: keras.Model, batches: Iterable[dict[str, tf.Tensor]]
) -> tuple[dict[str, Findings], int]:
    """Runs a model on a dataset and counts the experts to which its sparse layers route the tokens.

    Args:
      model: `Limoe` or `VlMoe` with sparse blocks.
      batches: iterable of dicts of tensors, as `pairs` or `masked` makes them. Examples at the end
        of a batch that do not fill all replicas, or a group, are skipped.

    Returns:
      dict of Findings by layer, of the streams that it has routed, and the number of examples.

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
            size = len(next(iter(batch.values()))) // multiple * multiple
            if not size:
                continue
            batch = {name: value[:size] for name, value in batch.items()}
            num_examples += size
            arrays = {name: value.numpy() for name, value in batch.items()}
            for layer, by_stream in routes(batch).items():
                _add(found[layer], by_stream, arrays, model)
    if not num_examples:
        raise ValueError(f"`batches` must hold a batch of at least {multiple}. Received: none")
    found = {layer: _routed(one) for layer, one in found.items()}
    return {layer: one for layer, one in found.items() if one.tallies}, num_examples


def _nothing_yet(model, layer):
    names, weights = layer.modalities, model.default_weights
    patches = None
    if any(modality_of(name) == "image" for name in names):
        patches = TopPatches(layer.num_experts, patch_size=model.image_embed.patch_size)
    return Findings(
        {name: ModalityTally(layer.num_experts, kinds.num_kinds(model, name)) for name in names},
        patches,
        {
            name: math.log(layer.min_experts[name])
            for name in names
            if weights[f"global_entropy_{name}"]
        },
    )


def _routed(findings):
    """Returns the Findings without streams of which no token was routed."""
    tallies = {name: tally for name, tally in findings.tallies.items() if tally.tokens}
    return findings._replace(tallies=tallies)


def _add(findings, by_stream, batch, model):
    for name, routes in by_stream.items():
        num_tokens = routes.expert.shape[1]
        findings.tallies[name].add(
            routes, kinds.kinds_of(model, name, batch, num_tokens=num_tokens)
        )
        if modality_of(name) == "image":
            of_patches = _last(routes, model.image_embed.num_patches)
            findings.patches.add(of_patches, kinds.shown_images(model, name, batch))


def _last(routes, count):
    """Returns the Routes of the last tokens: without the class token."""
    per_token = {name: value[:, -count:] for name, value in routes._asdict().items() if value.ndim}
    return Routes(**{**routes._asdict(), **per_token})
