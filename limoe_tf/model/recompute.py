"""Gradient checkpointing: a layer's activations are recomputed in the backward pass, not stored."""

from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.variables import AutocastScope
from tensorflow.compiler.tf2xla.python import xla

from limoe_tf.custom_gradient import custom_gradient
from limoe_tf.mesh import replicas
from limoe_tf.xla import in_xla


def recomputed(layer: keras.layers.Layer, inputs: Any, **options) -> Any:
    """Returns `layer(inputs, **options)`; only inputs and weights are stored for gradients.

    Args:
      layer: built Keras layer; it may also change weights that are not trained, such as counters.
      inputs: nest of <float> tensors.
      **options: further arguments; no gradient flows to them.

    Reference: https://arxiv.org/abs/1604.06174.
    """
    trained, others = layer.trainable_variables, layer.non_trainable_variables
    with AutocastScope(None):  # The layer itself casts the weights that its policy casts.
        weights, fixed = ([tf.convert_to_tensor(v.value) for v in vs] for vs in (trained, others))
    num_inputs = len(tf.nest.flatten(inputs))
    structure, changed = [], []

    def call(arguments):
        """Returns the flat outputs of the layer as a function of inputs and weights."""
        pairs = [*zip(trained, arguments[num_inputs:]), *zip(others, fixed)]
        with keras.StatelessScope(pairs, initialize_variables=False) as scope:
            outputs = layer(tf.nest.pack_sequence_as(inputs, arguments[:num_inputs]), **options)
        structure[:] = [outputs]
        changed[:] = [scope.get_current_value(v) for v in others]
        return tf.nest.flatten(outputs)

    @custom_gradient
    def run(*arguments):
        context = replicas.current().snapshot()
        outputs, was_changed = call(arguments), list(changed)

        def gradient(*upstream):
            with replicas.scope(context), tf.GradientTape() as tape:
                delayed = _delayed(arguments, upstream)
                tape.watch(delayed)
                recomputed_outputs = call(delayed)
            changed[:] = was_changed
            return tape.gradient(
                recomputed_outputs,
                delayed,
                output_gradients=list(upstream),
                unconnected_gradients="zero",
            )

        return outputs, gradient

    outputs = run(*tf.nest.flatten(inputs), *weights)
    for variable, before, value in zip(others, fixed, changed):
        if value is not before:  # A frozen weight, which replicas could not assign.
            variable.assign(value)
    return tf.nest.pack_sequence_as(structure[0], outputs)


def _delayed(values, upstream):
    """Returns `values`, as tensors that exist only once the gradients `upstream` are computed."""
    with tf.control_dependencies([x for x in upstream if isinstance(x, tf.Tensor)]):
        values = [tf.identity(value) for value in values]
    if not in_xla():
        return values
    # Without the barrier XLA merges both passes, as common subexpressions, and keeps the first.
    return xla.optimization_barrier(*values, *upstream)[: len(values)]
