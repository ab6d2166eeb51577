"""What Keras' methods take and a model with losses of its own does not: refused by name."""

import inspect
import reprlib
import types
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


def check_file(path: Any) -> None:
    """Raises ValueError for an HDF5 file, from which a model could not be loaded again."""
    if str(path).endswith((".h5", ".hdf5")):
        raise ValueError(
            f"`filepath` must end in .keras, Keras' own format. Received: filepath={str(path)!r}"
        )


def called(method: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls a method of Keras with data of which each batch is a dict alone; returns its result.

    Args:
      method: bound method of `keras.Model`, such as `fit`.
      args: of the call.
      kwargs: of the call.

    Raises:
      ValueError: if targets or weights are asked for, also those of validation data; if each of
        several replicas would get the same batch; or if values of arrays are out of range.
    """
    if method.__name__.endswith("_on_batch"):
        _check_one_replica(method)
    model = method.__self__
    call = inspect.signature(method).bind(*args, **kwargs)
    given = call.arguments
    _refuse(f"`{method.__name__}`", given, _TARGETS)
    for name in ("x", "validation_data"):
        if name in given:
            given[name] = _alone(f"`{method.__name__}({name}=...)`", given[name])
            if isinstance(given[name], dict):
                model.check_values(given[name])
    return method(*call.args, **call.kwargs)


def _check_one_replica(method):
    num_replicas = method.__self__.distribute_strategy.num_replicas_in_sync
    if num_replicas > 1:
        raise ValueError(
            f"`{method.__name__}` works on one replica; `fit`, `evaluate`, `predict` and `encode` "
            f"divide a batch among several. Received: {num_replicas} replicas"
        )


def _alone(place, data):
    """Returns data without targets and weights of None, which Keras' adapters cannot all take."""
    if isinstance(data, (tuple, list)) and data and isinstance(data[0], (dict, tf.data.Dataset)):
        data, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        _refuse(place, {"y": targets, "sample_weight": weights}, _TARGETS)
    if isinstance(data, keras.utils.PyDataset):
        return _Alone(data)
    if isinstance(data, types.GeneratorType):
        return ((batch_of(one),) for one in data)
    return data


class _Alone(keras.utils.PyDataset):
    """The batches of another `PyDataset`, each as a dict alone."""

    def __init__(self, of):
        super().__init__(of.workers, of.use_multiprocessing, of.max_queue_size)
        self._of = of

    @property
    def num_batches(self):
        return self._of.num_batches

    def __getitem__(self, index):
        return batch_of(self._of[index])

    def on_epoch_begin(self):
        self._of.on_epoch_begin()

    def on_epoch_end(self):
        self._of.on_epoch_end()


def check_compile(options: Mapping[str, Any]) -> None:
    """Raises ValueError if `compile` is given losses or metrics of Keras, or another's options."""
    _refuse("`compile`", options, _LOSSES)
    if "num_slices" in options:
        raise ValueError(
            "`num_slices` is for models that contrast the examples of a batch with each other. "
            f"Received: num_slices={options['num_slices']}"
        )


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
            f"Batches must be dicts of the model's inputs by name. Received: {type(data).__name__}"
        )
    _refuse("a batch", {"y": targets, "sample_weight": weights}, _TARGETS)
    return batch


def _refuse(place, given, names: Sequence[str]):
    for name in names:
        value = given.get(name)
        empty = isinstance(value, (list, tuple, dict)) and not value
        if value is not None and not empty:
            raise ValueError(
                f"`{name}` has no use in {place}: {_REASON}. Received: {name}={reprlib.repr(value)}"
            )
