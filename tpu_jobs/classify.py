"""Classifies images into classes that you name, with a model that `tpu_jobs.export` wrote.

    python -m tpu_jobs.classify --model=DIR a.png b.jpg --classes "a red circle, a blue star"
    python -m tpu_jobs.classify --model=DIR *.png --class "a circle, red" --class "a blue star"

Needs TensorFlow and TensorFlow Text, for --plot also Matplotlib, and no other part of this package.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401, the model's tokenizer is an operation of it.
from absl import app, flags

from tpu_jobs import errors, usage

_AT_A_TIME = 64
_PLOT_SIDE = 512


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("model", None, "folder of the SavedModel")
    flags.DEFINE_string("classes", None, "names of the classes, with commas between them")
    flags.DEFINE_multi_string("class", [], "name of one class, which may hold commas")
    flags.DEFINE_string("classes_file", None, "text file with the name of one class a line")
    flags.DEFINE_integer("top", 5, "number of classes shown for each picture", lower_bound=1)
    flags.DEFINE_string("plot", None, "a PNG to draw: the pictures beside their probabilities")


def classify(
    model: Any, paths: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Classifies image files; a file that cannot be classified does not stop the others.

    Args:
      model: what `tf.saved_model.load` returns.
      paths: list of file names.
      classes: list of class names.

    Returns:
      dict by path of <float32>[C] probabilities, and dict by path of the error of each other file.

    Raises:
      ValueError: if the model cannot classify, or the class names are not valid.
    """
    if "classify_bytes" not in model.signatures:
        raise ValueError("--model must be a folder that `tpu_jobs.export` wrote.")
    names, files, faults = tf.constant(classes, tf.string), {}, {}

    def answer(some):
        files_now = tf.constant([files[path] for path in some], tf.string)
        found = model.signatures["classify_bytes"](images=files_now, classes=names)
        return dict(zip(some, found["probabilities"].numpy()))

    or_one_line(answer, [])  # Raises if the class names are not valid.
    for path in paths:
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                files[path] = file.read()
        except tf.errors.OpError as error:
            faults[path] = error.message.split("; ")[-1]
    found, readable = {}, list(files)
    for start in range(0, len(readable), _AT_A_TIME):
        some = readable[start : start + _AT_A_TIME]
        try:
            found.update(answer(some))
        except tf.errors.InvalidArgumentError:
            for path in some:  # One by one, to find which.
                try:
                    found.update(or_one_line(answer, [path]))
                except ValueError as error:
                    faults[path] = re.sub(r" Received.*", "", str(error))
    return found, faults


def or_one_line(answer: Callable[..., Any], *inputs: Any) -> Any:
    """Returns the answer to inputs.

    Raises:
      ValueError: in the place of the model's error about them.
    """
    try:
        return answer(*inputs)
    except tf.errors.InvalidArgumentError as error:
        match = re.search(r"assertion failed: \[(.*?)\] \[(.*?)\]", error.message)
        raise ValueError(f"{match[1]} {match[2]}" if match else error.message) from error


def table(found: dict[str, np.ndarray], classes: Sequence[str], *, top: int) -> str:
    """Returns the most probable classes of each picture, as lines of aligned text.

    Args:
      found: dict by path of <float32>[C] probabilities.
      classes: their names.
      top: number of classes shown for each picture.
    """
    rows = [("picture", "class", "probability")]
    for path, probabilities in found.items():
        for place, label in enumerate((-probabilities).argsort(kind="stable")[:top]):
            name = "" if place else path
            rows.append((name, classes[label], f"{100 * probabilities[label]:.1f} %"))
    left, middle, right = (max(map(len, column)) for column in zip(*rows))
    return "\n".join(f"{a:<{left}}  {b:<{middle}}  {c:>{right}}" for a, b, c in rows)


def draw(path: str, found: dict[str, np.ndarray], classes: Sequence[str], *, top: int) -> None:
    """Draws each picture beside bars of its most probable classes; see `table`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.2 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 2, squeeze=False, width_ratios=(1, 2))
    for (left, right), (name, probabilities) in zip(axes, found.items()):
        left.imshow(upright(name))
        left.set_axis_off()
        left.set_title(name[-40:], fontsize=8)
        order = (-probabilities).argsort(kind="stable")[:top][::-1]
        bars = right.barh([classes[label] for label in order], 100 * probabilities[order])
        right.bar_label(bars, fmt="%.1f %%", padding=2)
        right.set_xlim(0, 115)
        right.spines[["top", "right"]].set_visible(False)
        right.set_xticks([])
    figure.savefig(path, dpi=120)


def upright(path: str) -> np.ndarray:
    """Returns an image as the model sees it, in small: <uint8>[H, W, 4].

    Matplotlib draws transparent pixels on white.
    """
    from PIL import Image, ImageOps  # A requirement of Matplotlib.

    with tf.io.gfile.GFile(path, "rb") as file, Image.open(file) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGBA")
        image.thumbnail((_PLOT_SIDE, _PLOT_SIDE))
        return np.asarray(image)


def run(
    model: str | None,
    paths: Sequence[str],
    classes: Sequence[str],
    *,
    top: int = 5,
    plot: str | None = None,
) -> None:
    """Prints the table, and a line for each bad file; see the flags.

    Raises:
      ValueError: if an argument is missing, or, at the end, if some files are bad.
    """
    if not model:
        raise ValueError("--model must be given.")
    if not paths:
        raise ValueError("Pictures must be named: IMAGE...")
    if not classes:
        raise ValueError(
            'Classes must be given, such as --classes "a red circle, a blue star"; with commas '
            "in their names each by --class, or in a --classes_file."
        )
    found, faults = classify(tf.saved_model.load(model), paths, classes)
    if found:
        print(table(found, classes, top=top), flush=True)
    if found and plot:
        draw(plot, found, classes, top=top)
    for path, fault in faults.items():
        print(f"{path}: {fault}", file=sys.stderr)
    if faults:
        raise ValueError(f"{len(faults)} of {len(found) + len(faults)} pictures have no answer.")


def class_names(
    together: str | None = None, single: Sequence[str] = (), path: str | None = None
) -> list[str]:
    """Returns the names of classes that the flags give, in this order.

    Args:
      together: names with commas between them.
      single: names that may hold commas.
      path: text file with one name a line, on this machine or in a bucket.

    Raises:
      tf.errors.OpError: if the file cannot be read.
    """
    names = [*(together.split(",") if together else ()), *single]
    if path:
        with tf.io.gfile.GFile(path) as file:
            names += [line for line in file.read().splitlines() if line.strip()]
    return [name.strip() for name in names]


def _main(paths):
    values = flags.FLAGS
    path = values.classes_file and os.path.expanduser(values.classes_file)
    classes = class_names(values.classes, values["class"].value, path)
    run(values.model, paths, classes, top=values.top, plot=values.plot)


main = errors.in_one_line(_main, takes_arguments=True)

if __name__ == "__main__":
    define_flags()
    flags.FLAGS.set_gnu_getopt(True)  # Flags may follow the pictures.
    app.run(main, flags_parser=usage.parse_flags)
