"""NLVR2 as it is published: a statement on two images on each line of JSON."""

import os
import re

from limoe_tf.downstream import entries
from limoe_tf.downstream.examples import Examples, of_published
from limoe_tf.downstream.image_folder import ImageFolder
from limoe_tf.downstream.left_out import Fault, LeftOut

LABELS = ("False", "True")
_NUMBERS = range(2**31)


def read_nlvr2(
    path: str | os.PathLike,
    *,
    images: str | os.PathLike,
    max_left_out: float = 0.1,
    cache_dir: str | os.PathLike | None = None,
) -> Examples:
    """Reads a split of NLVR2, or data of its form.

    The images of "dev-850-0-3" are `dev-850-0-img0.png` and `dev-850-0-img1.png`, in a folder named
    by its `directory` if a line has one. Left out, counted and printed are lines that are no JSON
    or of a wrong form, identifiers that come twice, and statements without an image file.

    Args:
      path: file of JSON lines.
      images: folder of the split's images.
      max_left_out: largest share of lines, or of 1000 if there are fewer, that may be left out.
      cache_dir: see `Examples`.

    Returns:
      Examples of `image`, `other_image`, `statement` <string>[], `label` <int64>[], 1 if it is
      true, and `identifier` <string>[]; `label_names` are "False" and "True".

    Raises:
      ValueError: if the file or folder is missing, or too much is left out.

    Reference: https://github.com/lil-lab/nlvr, nlvr2.
    """
    left_out = LeftOut(os.fspath(path), max_share=max_left_out)
    folder = ImageFolder(images)

    def read(entry):
        identifier = entries.text(entry, "identifier")
        pair = re.fullmatch(r"(.+-\d+-\d+)-\d+", identifier)
        if pair is None:
            raise Fault("`identifier` is not split-set-pair-sentence")
        label = entries.text(entry, "label")
        if label not in LABELS:
            raise Fault("`label` is not True or False")
        first, second = (f"{_directory(entry)}{pair[1]}-img{number}.png" for number in (0, 1))
        return identifier, {
            "image": folder.find(first),
            "other_image": folder.find(second),
            "statement": entries.text(entry, "sentence"),
            "label": LABELS.index(label),
            "identifier": identifier,
        }

    found = entries.by_key(entries.read_json_lines(path, left_out), read, left_out)
    return of_published(list(found.values()), left_out, cache_dir=cache_dir, label_names=LABELS)


def _directory(entry):
    if "directory" not in entry:
        return ""
    number = entries.integer(entry, "directory")
    if number not in _NUMBERS:
        raise Fault("`directory` is no number of a folder")
    return f"{number}/"
