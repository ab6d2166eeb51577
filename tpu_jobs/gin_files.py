"""Parses gin files and builds the Experiment that they describe; every line must be used."""

import os
import re
import tokenize
from collections.abc import Sequence

import tensorflow as tf

import gin
from tpu_jobs import gin_imports, gin_paths
from tpu_jobs.experiment import Experiment

# What gin raises about what it parses.
_ERRORS = (
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


def parse(gin_files: Sequence[str | os.PathLike], bindings: Sequence[str]) -> None:
    """Parses gin files and single bindings, after clearing those parsed before.

    Raises:
      ValueError: if a file is missing, a line is wrong, or a required value is not given.
    """
    paths = [gin_paths.find(path) for path in gin_files]
    gin.clear_config()
    try:
        bindings = gin_paths.with_found_includes("\n".join(bindings))
        gin.parse_config_files_and_bindings(paths, bindings)
    except _ERRORS as error:
        # For a macro without a value gin's message also contains the whole configuration.
        message = gin_paths.as_written(str(error)).split(" in config string")[0]
        message = re.sub(r"/(gin\.)?macro(\.value)?\b", "", message)
        advice = gin_imports.advice(message)
        raise ValueError(f"A gin file or binding is wrong. {message}{advice}") from error


def build() -> Experiment:
    """Returns the Experiment that the parsed gin files describe, in the scope of a strategy.

    Raises:
      ValueError: if a line is not used, or the Experiment cannot be built.
    """
    try:
        gin.get_bindings(Experiment, resolve_references=False)
    except ValueError as error:
        raise ValueError("The gin files must describe a tpu_jobs.experiment.Experiment.") from error
    experiment = gin.get_configurable(Experiment)()
    # The bindings of the batches are used when the batches are made; made now, errors show early.
    experiment.open_batches(_NoVocabulary(experiment.model))
    check_used()
    return experiment


class _NoVocabulary:
    """Stands for the vocabulary of a model where batches are described, and none is read."""

    path = "none"

    def __init__(self, model):
        self.size, self.text_length = model.vocabulary_size, model.text_length

    def words(self):
        return [0]

    def __call__(self, captions, *others):
        text = tf.zeros([tf.shape(captions)[0], self.text_length], tf.int32)
        return text, text == 0


def check_used() -> None:
    """Raises a ValueError if a line of the parsed gin files has not been used."""
    if unused := _unused_bindings():
        raise ValueError(f"Every line of a gin file must have a use. Received: {', '.join(unused)}")


def _unused_bindings():
    """Returns the names of the bindings that no call has used."""
    # gin's public functions return these tables only as text, with shortened names.
    bound = {(*key, name) for key, names in gin.config._CONFIG.items() for name in names}
    used = set()
    for (scope, selector), names in gin.config._OPERATIVE_CONFIG.items():
        scopes = scope.split("/") if scope else []
        enclosing = ["/".join(scopes[:length]) for length in range(len(scopes), -1, -1)]
        for name in names:
            # Of several bindings the one with the longest scope counts.
            places = ((outer, selector, name) for outer in enclosing)
            used.add(next((place for place in places if place in bound), None))
    return sorted(_as_written(*place) for place in bound - used)


def _as_written(scope, selector, name):
    if selector == "gin.macro":
        return scope
    return f"{scope}/{selector}.{name}" if scope else f"{selector}.{name}"
