"""Keras models and optimizers as pure functions of their variables' values."""

import contextlib
from collections.abc import Callable, Iterator

import keras
from keras.src.backend.common import global_state
from keras.src.optimizers.base_optimizer import BaseOptimizer

# Methods that Keras' optimizers override on TensorFlow, for tf.distribute.
_METHODS = ("assign", "assign_add", "assign_sub", "_apply_weight_decay", "_backend_update_step")


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Makes Keras variables created within have a shape but no value, so that none is allocated."""
    waiting = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True)
    before = list(waiting)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Otherwise Keras would initialize them at the end of its next scope.
        waiting[:] = before


def stateless(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Makes an optimizer update the values of a `keras.StatelessScope` instead of variables.

    It cannot be used otherwise afterwards. The optimizer is modified in place, and returned.

    Args:
      optimizer: Keras optimizer, built or not.
    """
    for name in _METHODS:
        # Methods that a subclass overrides itself, such as its own weight decay, stay.
        owner = next(kind for kind in type(optimizer).__mro__ if name in vars(kind))
        if owner.__module__.startswith("keras.src.backend."):
            setattr(optimizer, name, getattr(BaseOptimizer, name).__get__(optimizer))
    optimizer._var_key = id
    variables = enumerate(optimizer._trainable_variables)
    optimizer._trainable_variables_indices = {id(v): index for index, v in variables}
    return optimizer


def compiled_without_memory(
    make_model: Callable[[], keras.Model], optimizer: keras.optimizers.Optimizer, **options
) -> keras.Model:
    """Returns a compiled model whose variables, and whose optimizer's, have shapes but no values.

    Args:
      make_model: function that returns the model.
      optimizer: Keras optimizer, not built.
      **options: further arguments of the model's `compile`.
    """
    with without_memory():
        model = make_model()
        model.compile(stateless(optimizer), **options)
    return model
