"""Keras models and optimizers as pure functions of their variables' values."""

import contextlib

import keras
from keras.src.backend.common import global_state
from keras.src.optimizers.base_optimizer import BaseOptimizer

# What Keras' optimizers do otherwise on TensorFlow, for the sake of tf.distribute.
_METHODS = ("assign", "assign_add", "assign_sub", "_apply_weight_decay", "_backend_update_step")


@contextlib.contextmanager
def without_memory():
    """Lets Keras variables made within have a shape but no value, however large they are."""
    waiting = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True)
    before = list(waiting)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Keras would give them values when the next scope of its own ends.
        waiting[:] = before


def stateless(optimizer):
    """Makes an optimizer update the values of a `keras.StatelessScope` instead of variables.

    It can do nothing else afterwards. The optimizer is changed, and returned.

    Args:
      optimizer: Keras optimizer, built or not.
    """
    for name in _METHODS:
        # A method that a subclass has of its own, such as a decay of its own, stays.
        owner = next(kind for kind in type(optimizer).__mro__ if name in vars(kind))
        if owner.__module__.startswith("keras.src.backend."):
            setattr(optimizer, name, getattr(BaseOptimizer, name).__get__(optimizer))
    optimizer._var_key = id
    variables = enumerate(optimizer._trainable_variables)
    optimizer._trainable_variables_indices = {id(v): index for index, v in variables}
    return optimizer


def compiled_without_memory(make_model, optimizer, **options):
    """Returns a compiled model whose variables, and whose optimizer's, have shapes but no values.

    Args:
      make_model: function that returns the model.
      optimizer: Keras optimizer, not built.
      **options: what the model's `compile` takes besides.
    """
    with without_memory():
        model = make_model()
        model.compile(stateless(optimizer), **options)
    return model
