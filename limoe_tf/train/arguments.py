"""What Keras' methods take and a model of images and texts does not: refused by name."""

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

_TARGETS = ("y", "sample_weight", "class_weight")
_LOSSES = ("loss", "metrics", "weighted_metrics")
_REASON = (
    "the losses and logs are the model's own, of batches without targets; "
    "`compile(loss_weights=...)` weighs the losses"
)


def check_call(method: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError if a call asks for targets or weights, also those of validation data.

    Args:
      method: bound method of `keras.Model`, such as `fit`.
      args: of the call.
      kwargs: of the call.
    """
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    _refuse(method.__name__, given, _TARGETS)
    validation = given.get("validation_data")
    if isinstance(validation, (tuple, list)):
        _, targets, weights = keras.utils.unpack_x_y_sample_weight(validation)
        parts = {"y": targets, "sample_weight": weights}
        _refuse(f"{method.__name__}(validation_data=...)", parts, _TARGETS)


def check_compile(options: Mapping[str, Any]) -> None:
    """Raises ValueError if `compile` is given losses or metrics of Keras."""
    _refuse("compile", options, _LOSSES)


def batch_of(data: Any) -> dict[str, tf.Tensor]:
    """Returns the dict in what a data set gives: the dict alone, or (dict, None[, None]).

    Raises:
      TypeError: if there is no dict.
      ValueError: if targets or weights come with it.
    """
    batch, targets, weights = data, None, None
    if isinstance(data, (tuple, list)) and 1 <= len(data) <= 3:
        batch, targets, weights = keras.utils.unpack_x_y_sample_weight(tuple(data))
    if not isinstance(batch, dict):
        raise TypeError(
            "Batches must be dicts with `image`, `text` and `text_valid`. "
            f"Received: {type(data).__name__}"
        )
    _refuse("a batch", {"y": targets, "sample_weight": weights}, _TARGETS)
    return batch


def check_one_replica(model: keras.Model, method: str) -> None:
    """Raises ValueError if a method that would give each replica the same batch has several."""
    num_replicas = model.distribute_strategy.num_replicas_in_sync
    if num_replicas > 1:
        raise ValueError(
            f"`{method}` works on one replica; `fit`, `evaluate`, `predict` and `encode` divide a "
            f"batch among several. Received: {num_replicas} replicas"
        )


def _refuse(method, given, names: Sequence[str]):
    for name in names:
        value = given.get(name)
        empty = isinstance(value, (list, tuple, dict)) and not value
        if value is not None and not empty:
            raise ValueError(
                f"`{name}` has no use in `{method}`: {_REASON}. "
                f"Received: {name}={reprlib.repr(value)}"
            )
