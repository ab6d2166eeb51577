"""Updates that happen only where the loss and the gradient are finite."""

import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from limoe_tf.mesh import conditional, replicas


def apply(model, gradients, *, finite):
    """Lets the model's optimizer move the weights, or, if not finite, only counts the step.

    A skipped step changes neither weights nor the optimizer's slots. `optimizer.iterations` goes on
    all the same: it is the step's number, by which schedules, checkpoints and the order of the data
    go, so that a run which is stopped and goes on reads what it would have read.

    Args:
      model: compiled model.
      gradients: list of <float>[...] of the global batch, one a trainable variable, or what
        `gradients.scaled` makes of it.
      finite: <bool>[], the same on all replicas.
    """
    optimizer, mesh = model.optimizer, replicas.current().mesh

    def move(*found):
        # Where replicas are threads, this runs in another than its surroundings.
        with replicas.scope(replicas.of_strategy(mesh)):
            optimizer.apply(list(found), model.trainable_variables)

    def skip(*_):
        optimizer.iterations.assign_add(1)

    if in_stateless_scope():
        return _apply_and_choose(model, gradients, finite)
    conditional.either(finite, move, skip, gradients)


def _apply_and_choose(model, gradients, finite):
    """As `apply`, without branches: those could not hand the values of a scope out."""
    optimizer = model.optimizer
    kept = [v for v in optimizer.variables if v is not optimizer.iterations]
    kept += model.trainable_variables
    before = [tf.convert_to_tensor(variable.value) for variable in kept]
    optimizer.apply(gradients, model.trainable_variables)
    for variable, value in zip(kept, before):
        variable.assign(tf.where(finite, tf.convert_to_tensor(variable.value), value))
