"""Gradients of the global batch: summed over replicas, measured, clipped.

Every replica holds most variables whole. A shard of experts is summed over the replicas that hold
the same experts, and counts once in a norm, together with the other shards.
"""

import functools

import keras
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.train.adafactor_update import Scaled
from limoe_tf.train.optimizer import Adafactor, is_expert


def reduced(gradients, paths):
    """Returns the gradients of the global batch from those of the replicas' shares of the loss.

    Args:
      gradients: list of <float>[...], or of slices, one a variable.
      paths: list of the variables' paths.

    Returns:
      list of <float>[...].
    """
    everyone = replicas.current()
    # The vocabulary's gradient comes as slices; sums and norms want it whole.
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    if everyone.mesh is None:
        return everyone.sum(gradients)
    sums = {True: everyone.sum_over_data, False: everyone.sum}
    return [sums[is_expert(path)](gradient) for gradient, path in zip(gradients, paths)]


def norms(gradients, paths):
    """Returns the norm of each variable's gradient, all experts together: <float32>[variables].

    Args:
      gradients: list of <float>[...] of the global batch.
      paths: list of the variables' paths.
    """
    # On a CPU, `l2_loss` is one pass over memory, half of what a square and its sum take.
    squares = 2 * tf.stack([tf.nn.l2_loss(tf.cast(gradient, tf.float32)) for gradient in gradients])
    everyone = replicas.current()
    if everyone.mesh is not None:
        sharded = [is_expert(path) for path in paths]
        squares = tf.where(sharded, everyone.sum_over_experts(squares), squares)
    return tf.sqrt(squares)


def clipped(gradients, paths, *, clipnorm=None, global_clipnorm=None, clipvalue=None):
    """Returns the gradients, clipped as Keras' optimizers do by the arguments of those names.

    Args:
      gradients: list of <float>[...] of the global batch.
      paths: list of the variables' paths.
      clipnorm: bound of the norm of each variable's gradient.
      global_clipnorm: bound of the norm of all gradients together.
      clipvalue: bound of each entry.
    """
    if clipvalue:
        return [tf.clip_by_value(gradient, -clipvalue, clipvalue) for gradient in gradients]
    if not clipnorm and not global_clipnorm:
        return gradients
    if clipnorm:
        factors = tf.unstack(_factor(norms(gradients, paths), clipnorm))
    else:
        norm = tf.norm(norms(gradients, paths))
        factors = [_factor(norm, global_clipnorm)] * len(gradients)
    return [
        gradient * tf.cast(factor, gradient.dtype) for gradient, factor in zip(gradients, factors)
    ]


def scaled(gradients, norm, optimizer):
    """Returns what `optimizer.apply` takes to clip by a norm that is known already.

    Only `Adafactor` can, by its `global_clipnorm`; it then multiplies on its way, and two passes
    over all gradients are saved. For other optimizers and bounds the gradients stay as they are.

    Args:
      gradients: list of <float>[...] of the global batch.
      norm: <float32>[], the norm of them all.
      optimizer: as `with_reduced_gradients` returns it.

    Returns:
      list of <float>[...], or of `Scaled`.
    """
    bound = optimizer.global_clipnorm
    # What Keras accumulates has another norm by the time it is clipped.
    if not bound or optimizer.gradient_accumulation_steps or not isinstance(optimizer, Adafactor):
        return gradients
    factor = _factor(norm, bound)
    return [Scaled(gradient, factor) for gradient in gradients]


def _factor(norm, bound):
    """Returns what a gradient of `norm` is multiplied by to keep within `bound`."""
    return bound / tf.maximum(norm, bound)


def with_reduced_gradients(optimizer):
    """Makes `optimizer.apply` take gradients that are summed over the replicas already.

    Keras sums them itself, but after clipping, and clips by what one replica holds. A step that
    sums first and applies then clips by the norm of the gradient of the global batch, on any number
    of replicas. The optimizer is changed, and returned.

    Raises:
      TypeError: if it is not a Keras optimizer.
      ValueError: if it takes the loss for scaled, as Keras does for float16: the step has not.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer={optimizer!r}"
        )
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if scales or optimizer.loss_scale_factor is not None:
        raise ValueError(
            "`optimizer` must not scale the loss, and the model's dtype policy not be "
            '"mixed_float16", which asks for that; "mixed_bfloat16" does without. '
            f"Received: optimizer={optimizer!r}, loss_scale_factor={optimizer.loss_scale_factor!r}"
        )
    optimizer._all_reduce_sum_gradients = _as_they_are
    optimizer._clip_gradients = functools.partial(_clip_gradients, optimizer)
    return optimizer


def _as_they_are(gradients_and_variables):
    return gradients_and_variables


def _clip_gradients(optimizer, gradients):
    """Clips as `optimizer` says; its own method does not know who holds which experts."""
    if all(isinstance(gradient, Scaled) for gradient in gradients):
        return gradients
    paths = [getattr(v, "path", v.name) for v in optimizer._trainable_variables]
    if len(gradients) != len(paths):
        raise ValueError(
            "The optimizer needs a gradient of every variable it was built for. "
            f"Received: {len(gradients)} gradients for {len(paths)} variables"
        )
    return clipped(
        gradients,
        paths,
        clipnorm=optimizer.clipnorm,
        global_clipnorm=optimizer.global_clipnorm,
        clipvalue=optimizer.clipvalue,
    )
