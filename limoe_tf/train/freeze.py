"""Freezing: which weights training leaves as they are, by pattern, and kept with what is saved."""

import re
from collections.abc import Iterable, Sequence

import keras

from limoe_tf.train import names

_MAX_SHOWN = 12


def by_pattern(model: keras.Model, patterns: str | Sequence[str]) -> list[str]:
    """Freezes the weights whose names match; others stay as they are.

    Args:
      model: a built Keras model.
      patterns: one or several regular expressions, each found somewhere in the names of weights.

    Returns:
      The names of the weights that match, as of `names.of_weights`, without "model/".

    Raises:
      ValueError: if a pattern is no regular expression, or matches nothing.
    """
    found = _matching_any(model, patterns)
    by_name(model, found)
    return found


def undo(model: keras.Model, patterns: str | Sequence[str]) -> list[str]:
    """Trains the weights whose names match again; arguments and results as of `by_pattern`."""
    found = _matching_any(model, patterns)
    left = set(frozen(model)) - set(found)
    # Keras takes a value that a layer has already for no change, whatever its weights have.
    model.trainable = False
    model.trainable = True
    by_name(model, left)
    return found


def _matching_any(model, patterns):
    among = _float_names(model)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    return sorted(set().union(*(_matching(pattern, among) for pattern in patterns)))


def _matching(pattern, among):
    try:
        found = {name for name in among if re.search(pattern, name)}
    except (re.error, TypeError) as error:
        raise ValueError(
            f"`patterns` must be regular expressions. Received: {pattern!r} ({error})"
        ) from error
    if not found:
        shown = sorted({name.rpartition("/")[0] or name for name in among})
        more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
        raise ValueError(
            "`patterns` must each match the name of a weight, in layers such as "
            f"{', '.join(shown[:_MAX_SHOWN])}{more}. Received: {pattern!r}, which matches none"
        )
    return found


def frozen(model: keras.Model) -> list[str]:
    """Returns the names of the frozen weights, those that could be trained but are not, sorted."""
    others = set(trained(model))
    return sorted(name for name, v in _float_names(model).items() if id(v) not in others)


def check_as_compiled(model: keras.Model) -> None:
    """Raises ValueError if something has been frozen, or not any more, since a model was compiled.

    Args:
      model: compiled `fit.TrainableModel`.
    """
    now, before = trained(model), model.trained_when_compiled
    if now != before:
        raise ValueError(
            "`compile` must follow a change of what is frozen, before training. "
            f"Received: {len(now)} weights to train, {len(before)} when the model was compiled"
        )


def trained(model: keras.Model) -> tuple[int, ...]:
    """Returns the ids of the variables that training changes; cheaper than their names."""
    return tuple(id(variable) for variable in model.trainable_variables)


def by_name(model: keras.Model, frozen_names: Iterable[str]) -> None:
    """Freezes weights by their full names, and each layer that then has none to train.

    Raises:
      ValueError: if the model has no weight of a name.
    """
    frozen_names = set(frozen_names)
    if not frozen_names:
        return
    weights = _float_names(model)
    unknown = sorted(frozen_names - weights.keys())
    if unknown:
        raise ValueError(f"Frozen weights must be weights of the model. Received: {unknown[:5]}")
    for name in frozen_names:
        weights[name].trainable = False
    for layer in model._flatten_layers():
        of_layer = [v for v in layer.weights if keras.backend.is_float_dtype(v.dtype)]
        if of_layer and not any(v.trainable for v in of_layer):
            layer.trainable = False


def _float_names(model):
    """Returns name -> variable of the weights that a gradient could change; `fixed` ones cannot."""
    return {
        name.removeprefix("model/"): variable
        for name, variable in names.of_weights(model).items()
        if keras.backend.is_float_dtype(variable.dtype) and not getattr(variable, "fixed", False)
    }
