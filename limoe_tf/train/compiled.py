"""How a model was compiled, as Keras saves it with the model."""

from typing import Any

import keras

from limoe_tf.train import names

_OPTIONS = (
    "loss_weights", "detailed_logs", "jit_compile", "run_eagerly", "steps_per_execution",
)  # fmt: skip


def options(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments of `compile` beside the optimizer.

    Args:
      model: compiled `fit.TrainableModel`.
    """
    return {name: getattr(model, name) for name in (*_OPTIONS, *model.compile_options)}


def config(model: keras.Model) -> dict[str, Any]:
    """Returns plain values with which `from_config` compiles another copy of the model alike."""
    return {
        "optimizer": keras.saving.serialize_keras_object(model.optimizer),
        "variables_of_optimizer": names.of_variables(model, model.optimizer._trainable_variables),
        **options(model),
    }


def from_config(model: keras.Model, values: dict[str, Any]) -> None:
    """Compiles a model with the result of `config`.

    The optimizer is built for the variables that it had: some may have been frozen since. Files of
    version 0.1.0 do not name them.
    """
    values = dict(values)
    optimizer = keras.saving.deserialize_keras_object(values.pop("optimizer"))
    known = values.pop("variables_of_optimizer", None)
    if known is not None:
        weights = names.of_weights(model)
        with model.distribute_strategy.scope():
            optimizer.build([weights[name] for name in known])
    model.compile(optimizer, **values)


def again(model: keras.Model) -> None:
    """Compiles a model again with its optimizer in use, as after freezing a part of it."""
    model.compile(model.optimizer, **options(model))
