"""How well a `VlMoe` fills in what is masked: losses beside their floors, and what it sees for it.

Axis letters: B examples, P patches of an image, M masked places, K codes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.masked_batches import masked_batches
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary
from limoe_tf.evaluate import look
from limoe_tf.mesh import rows


def code_floors(codes: np.ndarray, num_codes: int) -> dict[str, float]:
    """Returns what a model of masked patches must at least beat, in nats, and the codes in use.

    Args:
      codes: <int>[n, P] of images, row by row of a square of patches.
      num_codes: K.

    Returns:
      dict of `used_codes`, `entropy` of the codes, and `entropy_given_left`, their cross-entropy
      where the code of the patch on the left is known: of every second image, by the counts of the
      others, to each of which one is added.
    """
    side = round(codes.shape[1] ** 0.5)
    counts = np.bincount(codes.ravel(), minlength=num_codes)
    share = counts[counts > 0] / counts.sum()
    grid = codes.reshape(-1, side, side)
    pairs = grid[:, :, :-1], grid[:, :, 1:]
    table = np.ones((num_codes, num_codes))
    np.add.at(table, tuple(part[::2].ravel() for part in pairs), 1)
    chance = table / table.sum(axis=1, keepdims=True)
    left, own = (part[1::2].ravel() for part in pairs)
    return {
        "used_codes": int((counts > 0).sum()),
        "entropy": float(-(share * np.log(share)).sum()),
        "entropy_given_left": float(-np.log(chance[left, own]).mean()),
    }


class _OnMaskedBatches:
    """A task that reads masked batches; a subclass is called with a model and a vocabulary."""

    def __init__(self, source, *, batch_size, num_batches, batches, seed):
        self.source = look.checked_source(source, may_be_mixture=True)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.num_batches = checks.positive_int("num_batches", num_batches)
        self.batches, self.seed = batches, checks.integer_in("seed", seed, 0)
        self.read = {}

    def check(self, model: Any) -> None:
        """Raises a ValueError if pairs cannot be read."""
        for part in look.parts(self.source):
            look.first(part, model)

    def _each(self, model, vocabulary, **others):
        """Yields the batches; sets `read`."""
        companions.check(model, vocabulary=vocabulary)
        bad_records = BadRecords()
        batches = self.batches(
            self.source,
            vocabulary=vocabulary,
            batch_size=self.batch_size,
            seed=self.seed,
            bad_records=bad_records,
            **model.data_options,
            **others,
        )
        with bad_records.as_value_error():
            yield from batches.take(self.num_batches)
        pairs = self.batch_size * self.num_batches
        self.read = {self.source.name: {"pairs": pairs, "bad_records": bad_records.report()}}


class MaskedLosses(_OnMaskedBatches):
    """The losses of pretraining on other data, without noise and without dropping.

    Args:
      source, lone_images, lone_texts: as of `masked_batches.masked_batches`.
      batch_size: pairs of a batch.
      num_batches: how many.
      batches: `masked_batches`, with the bindings of a gin file; the shares that are masked.
      seed: decides what is masked.
    """

    def __init__(
        self,
        source: Source | Mixture,
        *,
        lone_images: Source | Mixture | None = None,
        lone_texts: Source | Mixture | None = None,
        batch_size: int = 100,
        num_batches: int = 10,
        batches: Callable[..., tf.data.Dataset] = masked_batches,
        seed: int = 0,
    ):
        super().__init__(
            source, batch_size=batch_size, num_batches=num_batches, batches=batches, seed=seed
        )
        self.others = {"lone_images": lone_images, "lone_texts": lone_texts}
        self.others = {name: one for name, one in self.others.items() if one is not None}

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns `mlm`, `mim`, `vlm_text` and `vlm_image`, an accuracy of each, and `floors`.

        The floors are of the codes of the images alone, see `code_floors`.
        """
        step = tf.function(functools.partial(_losses, model), autograph=False)
        found, codes = [], []
        for batch in self._each(model, vocabulary, **self.others):
            found.append(rows.on_each(model.distribute_strategy, step, batch)[0])
            if model.patch_codes is not None:
                codes.append(model.patch_targets(batch["lone_image"]).numpy())
        results = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        if codes:
            floors = code_floors(np.concatenate(codes), model.patch_codes.num_codes)
            results["floors"] = floors
        return results


def _losses(model, batch):
    with model.on_replicas():
        report = model.forward(batch, training=False)
        _, logs = model.loss_and_logs(report, model.default_weights)
    return {name: logs[name] for name in model.per_replica if name in logs}


class Fusion(_OnMaskedBatches):
    """The loss on masked words of pairs, with their images and with those of other pairs.

    Words are masked as in training, images are not. If the model looks at the image, the loss with
    another pair's image is far higher. Only places that show the mask count.

    Args:
      source: of pairs.
      words: dict by name of a group of its words, such as "colour" of six colours; each must be one
        piece of the vocabulary.
      batch_size: pairs of a batch, two or more; in each the images are moved on by one pair.
      num_batches: how many.
      batches: see `MaskedLosses`.
      seed: decides what is masked.
    """

    def __init__(
        self,
        source: Source | Mixture,
        *,
        words: Mapping[str, Sequence[str]],
        batch_size: int = 100,
        num_batches: int = 10,
        batches: Callable[..., tf.data.Dataset] = masked_batches,
        seed: int = 0,
    ):
        checks.integer_in("batch_size", batch_size, 2)
        super().__init__(
            source, batch_size=batch_size, num_batches=num_batches, batches=batches, seed=seed
        )
        self.words = {name: tuple(group) for name, group in words.items()}
        if not self.words or not all(self.words.values()):
            raise ValueError(f"`words` must be groups of words. Received: words={words}")

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns by group `own_image` and `other_image`, nats, and the `floor` of a guess.

        The floor is the entropy of the group's words where they are masked: that of a model that
        knows how often each word is, and nothing else.
        """
        ids = {piece: number for number, piece in enumerate(vocabulary.pieces())}
        groups = {name: _ids(ids, name, group) for name, group in self.words.items()}
        sums = {name: np.zeros(2) for name in groups}
        counts = {name: np.zeros(len(ids)) for name, ids in groups.items()}

        @tf.function(autograph=False)
        def losses(batch):
            streams, _ = model({name: batch[name] for name in _PAIR}, training=False)
            logits = model.word_logits(streams["pair_text"], batch["text_masked"])
            words = tf.gather(batch["text"], batch["text_masked"], batch_dims=1)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=words, logits=tf.cast(logits, tf.float32)
            )

        for batch in self._each(model, vocabulary):
            places = batch["text_masked"].numpy()
            words = np.take_along_axis(batch["text"].numpy(), places, 1)
            shown = np.take_along_axis(batch["text_shown"].numpy(), places, 1)
            hidden = batch["text_masked_present"].numpy() & (shown == model.mask_id)
            moved = {**batch, "image": tf.roll(batch["image"], 1, axis=0)}
            found = [losses(one).numpy() for one in (batch, moved)]
            for name, ids in groups.items():
                of_group = hidden & np.isin(words, ids)
                sums[name] += [one[of_group].sum() for one in found]
                counts[name] += [(words[of_group] == piece).sum() for piece in ids]
        return {name: _means(name, sums[name], counts[name]) for name in groups}


_PAIR = ("image", "text", "text_valid", "text_shown", "text_masked", "text_masked_present")


def _means(name, sums, counts):
    if not counts.sum():
        raise ValueError(f"`words` must occur in the captions. Received: none of {name!r} does")
    share = counts[counts > 0] / counts.sum()
    own, other = (sums / counts.sum()).tolist()
    floor = float(-(share * np.log(share)).sum())
    return {"own_image": own, "other_image": other, "floor": floor}


def _ids(ids, name, words):
    """Returns the ids of words that are one piece each.

    Raises:
      ValueError: if one is not.
    """
    if missing := [word for word in words if f"\u2581{word}" not in ids]:
        raise ValueError(
            "`words` must each be one piece of the vocabulary. "
            f"Received: {name!r} with {missing[0]!r}"
        )
    return [ids[f"\u2581{word}"] for word in words]
