"""Updates that happen only where the loss and the gradient are finite."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from limoe_tf.mesh import conditional, replicas
from limoe_tf.train.adafactor_update import Scaled


def apply(
    model: keras.Model, gradients: Sequence[tf.Tensor] | Sequence[Scaled], *, finite: tf.Tensor
) -> None:
    """Applies the gradients with the model's optimizer, or, if not finite, only counts the step.

    A skipped step changes neither weights nor the optimizer's slots. `optimizer.iterations` is
    incremented all the same: schedules, checkpoints and the order of the data depend on it, so that
    a resumed run reads the same data.

    Args:
      model: compiled model.
      gradients: list of <float>[...] of the global batch, one per trainable variable, or the
        result of `gradients.scaled`.
      finite: <bool>[], the same on all replicas.
    """
    optimizer, mesh = model.optimizer, replicas.current().mesh

    def update(*found):
        # Where replicas are threads, this runs in another thread than its caller.
        with replicas.scope(replicas.of_strategy(mesh)):
            optimizer.apply(list(found), model.trainable_variables)

    def skip(*_):
        optimizer.iterations.assign_add(1)

    if in_stateless_scope():
        return _apply_and_choose(model, gradients, finite)
    conditional.cond(finite, update, skip, gradients)


def _apply_and_choose(model, gradients, finite):
    """As `apply`, without branches: values of a stateless scope could not leave them."""
    optimizer = model.optimizer
    guarded = [v for v in optimizer.variables if v is not optimizer.iterations]
    guarded += model.trainable_variables
    before = [tf.convert_to_tensor(variable.value) for variable in guarded]
    optimizer.apply(gradients, model.trainable_variables)
    for variable, value in zip(guarded, before):
        variable.assign(tf.where(finite, tf.convert_to_tensor(variable.value), value))
