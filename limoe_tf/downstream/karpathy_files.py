"""Captions of COCO and Flickr30K in Karpathy's splits, as `dataset_coco.json` has them."""

import os
from collections.abc import Sequence

from limoe_tf import checks
from limoe_tf.downstream import entries
from limoe_tf.downstream.examples import Examples, of_published
from limoe_tf.downstream.image_folder import ImageFolder
from limoe_tf.downstream.left_out import Fault, LeftOut


def read_karpathy(
    path: str | os.PathLike,
    *,
    images: str | os.PathLike,
    split: str | Sequence[str],
    max_captions: int | None = None,
    max_left_out: float = 0.1,
    cache_dir: str | os.PathLike | None = None,
) -> Examples:
    """Reads the captions of a split, or of several.

    Left out, counted and printed are images that come twice, have no file or no caption, entries of
    a wrong form, and single captions that are blank or no texts.

    Args:
      path: JSON file with a list of `images`: dataset_coco.json or dataset_flickr30k.json.
      images: folder of the images, for COCO that of `train2014` and `val2014`.
      split: "train", "val", "test"; of COCO also "restval", which is joined to train by
        ("train", "restval").
      max_captions: captions of an image that are read; None reads all. COCO has five and more, of
        which retrieval is measured on the first five.
      max_left_out: largest share of entries, or of 1000 if there are fewer, that may be left out.
      cache_dir: see `Examples`.

    Returns:
      Examples of `image` and `captions` <string>[n].

    Raises:
      ValueError: if the file or folder is missing or of another form, there is no such split, or
        too much is left out.

    Reference: https://cs.stanford.edu/people/karpathy/deepimagesent/.
    """
    splits = (split,) if isinstance(split, str) else tuple(split)
    if max_captions is not None:
        checks.positive_int("max_captions", max_captions)
    left_out = LeftOut(f"{os.fspath(path)} ({', '.join(splits)})", max_share=max_left_out)
    folder = ImageFolder(images)
    there = set()

    def read(entry):
        there.add(entries.text(entry, "split"))
        if entry["split"] not in splits:
            return None
        name = entries.text(entry, "filename")
        if "filepath" in entry:
            name = os.path.join(entries.text(entry, "filepath"), name)
        captions = _captions(entry, left_out)
        return name, {"image": folder.find(name), "captions": captions[:max_captions]}

    found = entries.by_key(entries.read_json(path, "images"), read, left_out)
    if there and (unknown := set(splits) - there):
        raise ValueError(
            f"`split` must be one or some of {sorted(there)}. Received: {sorted(unknown)[0]!r}"
        )
    return of_published(list(found.values()), left_out, cache_dir=cache_dir)


def _captions(entry, left_out):
    captions = []
    for sentence in entries.objects(entry, "sentences"):
        try:
            captions.append(entries.text(sentence, "raw"))
        except Fault as fault:
            left_out.note(f"caption left out: {fault.reason}", f"of {entry['filename']}")
    if not captions:
        raise Fault("no caption")
    return captions
