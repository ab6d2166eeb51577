"""Asks a fine-tuned model, which `tpu_jobs.export` wrote, about photos and sentences.

    python -m tpu_jobs.ask --model=DIR photo.png "what colour is the square?"

What a model takes is what its task is: of questions a photo and a question, of retrieval a photo
and a text, of statements two photos and a statement, of image classes a photo, of sentence pairs
two sentences. Needs TensorFlow and TensorFlow Text, for --plot also Matplotlib, and no other part
of this package.
"""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401, the model's tokenizer is an operation of it.
from absl import app, flags

from tpu_jobs import errors, usage
from tpu_jobs.classify import or_one_line, upright

SIGNATURES = ("answer", "match", "classify_image", "classify_pair")
# Inputs in the order of the command line, with what they are called there.
_INPUTS = {
    "image": "PHOTO",
    "other_image": "OTHER_PHOTO",
    "question": "QUESTION",
    "text": "TEXT",
    "statement": "STATEMENT",
    "premise": "PREMISE",
    "hypothesis": "HYPOTHESIS",
}
_PHOTOS = ("image", "other_image")


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("model", None, "folder of the SavedModel")
    flags.DEFINE_integer("top", 5, "number of answers or classes shown", lower_bound=1)
    flags.DEFINE_string("plot", None, "a PNG to draw: photos and sentences beside the answers")


def ask(model: Any, values: Sequence[str]) -> tuple[dict[str, str], dict[str, float]]:
    """Asks a model.

    Args:
      model: what `tf.saved_model.load` returns.
      values: paths of photos and sentences, as many as the model takes.

    Returns:
      dict of the values by the name of the model's input, and dict from each answer to its
      probability, the most probable first.

    Raises:
      ValueError: if the model is not for this, or the values are not what it takes.
    """
    name = next((name for name in SIGNATURES if name in model.signatures), None)
    if name is None:
        raise ValueError(
            f"--model must have one of the signatures {', '.join(SIGNATURES)}. "
            f"Received: {', '.join(sorted(model.signatures)) or 'none'}"
        )
    function = model.signatures[name]
    takes = function.structured_input_signature[1]
    names = [one for one in _INPUTS if one in takes]
    if len(values) != len(names):
        raise ValueError(
            f"The model takes {len(names)} values: {' '.join(_INPUTS[one] for one in names)}. "
            f"Received: {len(values)}, {list(values)}"
        )
    given = dict(zip(names, values))
    files = {name: _read(path) for name, path in given.items() if name in _PHOTOS}

    def answer(inputs):
        found = function(**{name: tf.constant([value]) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    try:
        found = or_one_line(answer, {**given, **files})
    except ValueError as error:
        raise ValueError(_fault(answer, given, files, error)) from error
    return given, _probabilities(found)


def _read(path):
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.OpError as error:
        raise ValueError(f"{path}: {error.message.split('; ')[-1]}") from error


def _fault(answer, given, files, error):
    """Returns what is wrong with the inputs: which photo, if it is one."""
    for name, file in files.items():
        try:
            or_one_line(answer, {**given, **dict.fromkeys(files, file)})
        except ValueError as of_this:
            if str(of_this).startswith("Images"):
                return f"{given[name]}: {re.sub(r' Received.*', '', str(of_this))}"
    return re.sub(r" Received.*", "", str(error))


def _probabilities(found):
    """Returns a dict by answer, the most probable first, of the outputs of any signature."""
    if "probability" in found:
        share = float(found["probability"][0])
        return {"they belong together": share}
    names = found["answers"][0] if "answers" in found else found["classes"]
    numbers = found["probabilities"][0]
    order = (-numbers).argsort(kind="stable")
    return {names[place].decode("utf-8"): float(numbers[place]) for place in order}


def table(found: Mapping[str, float], *, top: int) -> str:
    """Returns the most probable answers as lines of aligned text.

    Args:
      found: dict by answer of probabilities, the largest first.
      top: number of answers shown.
    """
    rows = [("answer", "probability")]
    rows += [(name, f"{100 * number:.1f} %") for name, number in list(found.items())[:top]]
    left, right = (max(map(len, column)) for column in zip(*rows))
    return "\n".join(f"{name:<{left}}  {number:>{right}}" for name, number in rows)


def draw(path: str, given: Mapping[str, str], found: Mapping[str, float], *, top: int) -> None:
    """Draws the photos, the sentences above them, and bars of the most probable answers."""
    from matplotlib.figure import Figure

    photos = [value for name, value in given.items() if name in _PHOTOS]
    sentences = [value for name, value in given.items() if name not in _PHOTOS]
    figure = Figure(figsize=(3.5 * (1 + len(photos)), 3.5), layout="constrained")
    *left, right = figure.subplots(1, len(photos) + 1, squeeze=False)[0]
    for axes, name in zip(left, photos):
        axes.imshow(upright(name))
        axes.set_axis_off()
    width = 40 * (1 + len(photos))
    figure.suptitle("\n".join(textwrap.fill(text, width) for text in sentences), parse_math=False)
    names = list(found)[:top][::-1]
    bars = right.barh(range(len(names)), np.array([100 * found[name] for name in names]))
    right.set_yticks(range(len(names)), names, parse_math=False)
    right.bar_label(bars, fmt="%.1f %%", padding=2)
    right.set_xlim(0, 125)
    right.spines[["top", "right"]].set_visible(False)
    right.set_xticks([])
    figure.savefig(path, dpi=120)


def run(model: str | None, values: Sequence[str], *, top: int = 5, plot: str | None = None) -> None:
    """Prints the table and draws the plot; see the flags and `ask`.

    Raises:
      ValueError: if the model is not given, or as `ask` says.
    """
    if not model:
        raise ValueError("--model must be given.")
    given, found = ask(tf.saved_model.load(model), values)
    print(table(found, top=top), flush=True)
    if plot:
        draw(plot, given, found, top=top)


def _main(arguments):
    values = flags.FLAGS
    plot = values.plot and os.path.expanduser(values.plot)
    run(values.model and os.path.expanduser(values.model), arguments, top=values.top, plot=plot)


main = errors.in_one_line(_main, takes_arguments=True)

if __name__ == "__main__":
    define_flags()
    flags.FLAGS.set_gnu_getopt(True)  # Flags may follow the values.
    app.run(main, flags_parser=usage.parse_flags)
