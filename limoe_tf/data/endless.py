"""The dataset `endless_scenes`: a million drawn scenes to train on, with captions and labels.

Importing this module registers the dataset, so that
`tfds.load("endless_scenes", split="train", data_dir=...)` finds, builds and reads it. It is not a
configuration of `captioned_shapes`: a dataset with configurations stands in other folders than one
without, and those that are built would no longer be found.
"""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from limoe_tf.data.scenes import examples, workers
from limoe_tf.data.scenes.patterns import IMAGE_SIZE
from limoe_tf.data.scenes.structure import is_held_out

# Scenes of "train", by configuration: a smaller set is the beginning of a larger one.
TRAIN_SCENES = {"1m": examples.SPLITS["train"], "200k": 200_000, "20k": 20_000}
PAIR_NAMES = examples.PAIR_NAMES
TRIPLE_NAMES = examples.TRIPLE_NAMES
TEMPLATES = ("a {}", "a picture of a {}", "a drawing of a {}")
render = examples.render


class EndlessScenes(tfds.core.GeneratorBasedBuilder):
    """Images of one to four textured objects with captions and labels, drawn without a download.

    Features: `image` <uint8>[64, 64, 3], `captions` (three texts), `pairs` (the colour and shape of
    each object, a class of `PAIR_NAMES`), `triples` (with the texture, of `TRIPLE_NAMES`) and
    `seen`, False where the triples never occur in "train".
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "16 colours, 8 textures, 24 shapes."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"{count:,} scenes to train on.")
        for name, count in TRAIN_SCENES.items()
    ]

    def _info(self):
        def classes(names):
            return tfds.features.Sequence(tfds.features.ClassLabel(names=names))

        return tfds.core.DatasetInfo(
            builder=self,
            description="Scenes of one to four textured objects with captions. A fifth of the "
            "triples of colour, texture and shape never occurs in training.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"
                    ),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "pairs": classes(PAIR_NAMES),
                    "triples": classes(TRIPLE_NAMES),
                    "seen": np.bool_,
                }
            ),
            # Neighbouring scenes have nothing in common: they need not be shuffled.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        counts = {**examples.SPLITS, "train": TRAIN_SCENES[self.builder_config.name]}
        return {split: self._generate_examples(split, count) for split, count in counts.items()}

    def _generate_examples(self, split, count):
        yield from enumerate(workers.records(split, count))


def groups() -> dict[str, tuple[int, ...]]:
    """Returns the labels of triples that occur in training, and of those that do not."""
    held_out = [is_held_out(kind) for kind in examples.KINDS]
    return {
        "seen": tuple(label for label, is_out in enumerate(held_out) if not is_out),
        "unseen": tuple(label for label, is_out in enumerate(held_out) if is_out),
    }
