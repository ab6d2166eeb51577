"""The base of the embedded datasets of tasks on drawn scenes."""

from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from limoe_tf.data import shapes


def image() -> tfds.features.Image:
    """Returns the feature of a drawn scene, <uint8>[64, 64, 3]."""
    side = shapes.IMAGE_SIZE
    return tfds.features.Image(shape=(side, side, 3), encoding_format="png")


class GridTask(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Examples that are drawn one by one and stay in their order; no download.

    A subclass has what raises NotImplementedError here, `DESCRIPTION` and `RELEASE_NOTES`.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION: ClassVar[str] = ""

    def features(self) -> dict[str, Any]:
        """Returns the features by name."""
        raise NotImplementedError

    def counts(self) -> Mapping[str, int]:
        """Returns the number of examples of each split."""
        raise NotImplementedError

    def example(self, split: str, index: int) -> dict[str, Any]:
        """Returns the values of the features of an example."""
        raise NotImplementedError

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(self.features()),
            # Neighbours have nothing in common, or belong together: they need not be shuffled.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        return {split: self._generate_examples(split, n) for split, n in self.counts().items()}

    def _generate_examples(self, split, count):
        for index in range(count):
            yield index, self.example(split, index)
