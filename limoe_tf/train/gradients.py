"""Gradients of the global batch: their sums over replicas, their norms, clipping.

Most variables are replicated. The gradient of a shard of experts is summed over the replicas that
have the same experts, and counts once in a norm, together with the other shards.
"""

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.train.adafactor_update import Scaled
from limoe_tf.train.optimizer import Adafactor, is_expert


def reduced(
    gradients: Sequence[tf.Tensor | tf.IndexedSlices], paths: Sequence[str]
) -> list[tf.Tensor]:
    """Returns the gradients of the global batch from those of the replicas' shares of the loss.

    Args:
      gradients: list of <float>[...], or of `tf.IndexedSlices`, one per variable.
      paths: list of the variables' paths.

    Returns:
      list of <float>[...].
    """
    context = replicas.current()
    # The gradient of a table of words is `tf.IndexedSlices`; sums and norms need it dense.
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    if context.mesh is None:
        return context.sum(gradients)
    sums = {True: context.sum_over_data, False: context.sum}
    return [sums[is_expert(path)](gradient) for gradient, path in zip(gradients, paths)]


def norms(gradients: Sequence[tf.Tensor], paths: Sequence[str]) -> tf.Tensor:
    """Returns the norm of each variable's gradient, over all experts: <float32>[variables].

    Args:
      gradients: list of <float>[...] of the global batch.
      paths: list of the variables' paths.
    """
    # On a CPU, `l2_loss` is one pass over memory, half of those of a square and its sum.
    squares = 2 * tf.stack([tf.nn.l2_loss(tf.cast(gradient, tf.float32)) for gradient in gradients])
    context = replicas.current()
    if context.mesh is not None:
        sharded = [is_expert(path) for path in paths]
        squares = tf.where(sharded, context.sum_over_experts(squares), squares)
    return tf.sqrt(squares)


def clipped(
    gradients: Sequence[tf.Tensor],
    paths: Sequence[str],
    *,
    clipnorm: float | None = None,
    global_clipnorm: float | None = None,
    clipvalue: float | None = None,
) -> list[tf.Tensor]:
    """Returns the gradients, clipped as by the arguments of the same names of Keras' optimizers.

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


def scaled(
    gradients: Sequence[tf.Tensor], norm: tf.Tensor, optimizer: keras.optimizers.Optimizer
) -> list[tf.Tensor] | list[Scaled]:
    """Returns gradients for `optimizer.apply`, with the factor that clips them to a known norm.

    Only for `Adafactor` with `global_clipnorm`, which fuses the multiplication into its update: two
    passes over all gradients are saved. Otherwise the gradients are returned as they are.

    Args:
      gradients: list of <float>[...] of the global batch.
      norm: <float32>[], their global norm.
      optimizer: as `with_reduced_gradients` returns it.

    Returns:
      list of <float>[...], or of `Scaled`.
    """
    bound = optimizer.global_clipnorm
    if not bound or not isinstance(optimizer, Adafactor):
        return gradients
    factor = _factor(norm, bound)
    return [Scaled(gradient, factor) for gradient in gradients]


def _factor(norm, bound):
    """Returns the factor that clips a gradient of norm `norm` to `bound`."""
    return bound / tf.maximum(norm, bound)


def with_reduced_gradients(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable] | None = None
) -> keras.optimizers.Optimizer:
    """Makes `optimizer.apply` expect gradients that are already summed over replicas.

    Keras sums them itself, but after clipping, by the norms of one replica. With this, a step that
    sums first clips by the norm of the gradient of the global batch, on any number of replicas. The
    optimizer is modified in place, and returned.

    Args:
      optimizer: Keras optimizer, built or not.
      variables: those that it will have gradients of; None for all it is built for.

    Raises:
      TypeError: if it is not a Keras optimizer.
      ValueError: if it expects a scaled loss, as for float16: the step does not scale it. If it
        accumulates gradients, or is built for other variables.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer={optimizer!r}"
        )
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if scales or optimizer.loss_scale_factor is not None:
        raise ValueError(
            "`optimizer` must not scale the loss, and the model's dtype policy not be "
            '"mixed_float16", which needs that; "mixed_bfloat16" does not. '
            f"Received: optimizer={optimizer!r}, loss_scale_factor={optimizer.loss_scale_factor!r}"
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            "`optimizer` must not accumulate gradients: losses are those of whole batches. A "
            "contrastive model's `compile(num_slices=...)` computes one large batch in "
            "slices, with its own gradients. "
            f"Received: gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
        )
    if variables is not None and optimizer.built:
        _check_built_for(optimizer, variables)
    optimizer._all_reduce_sum_gradients = _identity
    optimizer._clip_gradients = functools.partial(_clip_gradients, optimizer, variables)
    return optimizer


def _check_built_for(optimizer, variables):
    known = {id(variable) for variable in optimizer._trainable_variables}
    unknown = [variable.path for variable in variables if id(variable) not in known]
    if unknown:
        raise ValueError(
            "`optimizer` must be new, or in use for all variables that are trained: one that has "
            f"been frozen before needs a new optimizer. Received: an optimizer without {unknown[0]}"
            f" and {len(unknown) - 1} more"
        )
    if optimizer.use_ema and len(known) != len(variables):
        raise ValueError(
            "`optimizer` with `use_ema` must be new after freezing: Keras mixes up its averages. "
            f"Received: an optimizer of {len(known)} variables for {len(variables)}"
        )


def _identity(gradients_and_variables):
    return gradients_and_variables


def _clip_gradients(optimizer, variables, gradients):
    """Clips as configured in `optimizer`, whose own method does not know of shards of experts."""
    if all(isinstance(gradient, Scaled) for gradient in gradients):
        return gradients
    variables = optimizer._trainable_variables if variables is None else variables
    paths = [getattr(v, "path", v.name) for v in variables]
    if len(gradients) != len(paths):
        raise ValueError(
            "The optimizer needs a gradient of every variable that it trains: after freezing, the "
            "model must be compiled again. "
            f"Received: {len(gradients)} gradients for {len(paths)} variables"
        )
    return clipped(
        gradients,
        paths,
        clipnorm=optimizer.clipnorm,
        global_clipnorm=optimizer.global_clipnorm,
        clipvalue=optimizer.clipvalue,
    )
