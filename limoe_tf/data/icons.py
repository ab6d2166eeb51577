"""The dataset `icon_names`: 380,000 icons of open sets, with their names as captions.

Importing this module registers the dataset, so that
`tfds.load("icon_names", split="train", data_dir=...)` finds and reads it, and builds it if the
archive lies in the folder of manual downloads. Nothing of the archive is part of this package.
"""

import collections
import hashlib
import io
import json
import time
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from limoe_tf.data import icon_pictures, icon_sets, icon_splits, icon_words

PACKAGE = "@iconify/json@2.2.535"
ARCHIVE = "iconify-json-2.2.535.tgz"
_NAMED_BROKEN = 20
_SECONDS_BETWEEN_LINES = 10


class IconNames(tfds.core.GeneratorBasedBuilder):
    """Icons on a transparent ground, with captions made of their names.

    Features: `image` <uint8>[64, 64, 4], `captions` (the name and the style; the words of other
    names), `labels` (the class, if the name is one of the 500 commonest), `set`, `name`, `licence`
    and `category`. `info.metadata` says by reason how many icons of the archive make no pair.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": f"The open sets of {PACKAGE}."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"The folder of manual downloads must hold {ARCHIVE}. `npm pack {PACKAGE}` fetches it."
    )
    # Processes that draw; None takes the number of cores. The dataset does not depend on it.
    num_processes: int | None = None

    def _info(self):
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Icons of the open sets of {PACKAGE}, with their names as captions. "
            "Each keeps the licence of its set.",
            homepage="https://iconify.design",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(icon_pictures.SIZE, icon_pictures.SIZE, 4), encoding_format="png"
                    ),
                    "captions": tfds.features.Sequence(text),
                    # The names are known when the archive has been read.
                    "labels": tfds.features.Sequence(tfds.features.ClassLabel()),
                    **dict.fromkeys(("set", "name", "licence", "category"), text),
                }
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        path = dl_manager.manual_dir / ARCHIVE
        if not path.exists():
            raise FileNotFoundError(f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS} Received: no {path}")
        icon_pictures.require_resvg()
        plan = icon_sets.plan(path)
        self.info.features["labels"].feature.names = plan.class_names
        self._counts = collections.Counter(plan.left_out)
        self._pairs, self._broken = collections.Counter(), []
        self._plan = plan
        splits = (icon_splits.TRAIN, icon_splits.NAMES, icon_splits.SETS, icon_sets.ZERO_SHOT)
        # TFDS takes no split without examples, which a part of the sets may have.
        return {one: self._generate_examples(path, one) for one in splits if plan.icons[one]}

    def _generate_examples(self, path, split):
        icons = (
            icon
            for icon_set in icon_sets.read_sets(path)
            for icon in icon_sets.icons_of(icon_set, self._plan.countries)
            if self._belongs(icon, split)
        )
        icons = _with_progress(icons, split, self._plan.icons[split])
        drawn = icon_pictures.drawn(icons, lambda icon: icon.svg, num_processes=self.num_processes)
        seen, counts, broken = set(), collections.Counter(), []
        for icon, picture in drawn:
            reason = _fault(picture) or _repeats(icon, picture, seen)
            counts[reason or split] += 1
            if reason == icon_sets.BROKEN:
                broken.append(f"{icon.prefix}/{icon.name}: {picture}")
            if reason is None:
                yield f"{icon.prefix}/{icon.name}", self._example(icon, picture)
        self._pairs[split] = counts.pop(split, 0)
        if split != icon_sets.ZERO_SHOT:  # Its icons are those of `test_sets`.
            self._counts += counts
            self._broken += broken

    def _belongs(self, icon, split):
        if split == icon_sets.ZERO_SHOT:
            return icon.split == icon_splits.SETS and self._labels(icon) != []
        return icon.split == split

    def _labels(self, icon):
        label = self._plan.class_of.get(icon_words.key_of(icon.thing))
        return [] if label is None else [label]

    def _example(self, icon, picture):
        described = self._plan.sets[icon.prefix]
        return {
            "image": io.BytesIO(picture),
            "captions": icon.captions,
            "labels": self._labels(icon),
            "set": icon.prefix,
            "name": icon.name,
            "licence": described["licence"],
            "category": described["category"],
        }

    def _download_and_prepare(self, *args, **kwargs):
        super()._download_and_prepare(*args, **kwargs)
        summary = {
            "icons": sum(described["icons"] for described in self._plan.sets.values()),
            "pairs": dict(self._pairs),
            "left_out": dict(self._counts),
            "aliases": dict(self._plan.aliases),
            "broken": self._broken[:_NAMED_BROKEN],
            "sets": self._plan.sets,
        }
        self.info.metadata.update(summary)
        print(report(summary), flush=True)


def report(summary: dict[str, Any]) -> str:
    """Returns the lines that say what became of the icons of an archive.

    Args:
      summary: the metadata of the built dataset, `tfds.builder("icon_names").info.metadata`.
    """
    lines = [f"icon_names: {summary['icons']:,} icons of {len(summary['sets'])} sets"]
    lines += [f"  {count:>9,} pairs in {split}" for split, count in summary["pairs"].items()]
    left_out = sorted(summary["left_out"].items())
    lines += [f"  {count:>9,} left out: {reason}" for reason, count in left_out]
    aliases = sorted(summary["aliases"].items())
    lines += [f"  {count:>9,} other names: {kind}" for kind, count in aliases]
    return "\n".join([*lines, *(f"  cannot be drawn: {one}" for one in summary["broken"])])


def _fault(picture):
    """Returns why a picture is none, or None if it is one."""
    if isinstance(picture, bytes):
        return None
    return picture if picture == icon_pictures.EMPTY else icon_sets.BROKEN


def _repeats(icon, picture, seen):
    """Returns a reason if the set has this very picture under the same name; remembers it."""
    digest = hashlib.sha256(json.dumps([icon.prefix, icon.thing]).encode() + picture).digest()
    if digest in seen:
        return icon_sets.REPEATED
    seen.add(digest)
    return None


def _with_progress(icons, split, total):
    """Yields icons, and prints now and then how many of all they are."""
    printed = time.monotonic()
    for number, icon in enumerate(icons):
        if time.monotonic() - printed > _SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            print(f"{split}: {number:,} of {total:,} icons drawn, in {icon.prefix}", flush=True)
        yield icon
