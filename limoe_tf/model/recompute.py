"""Calls a layer so that its inside is computed again in the backward pass instead of being kept."""

import keras
import tensorflow as tf
from keras.src.backend.common.variables import AutocastScope
from tensorflow.compiler.tf2xla.python import xla

from limoe_tf.mesh import replicas
from limoe_tf.xla import in_xla


def recomputed(layer, inputs, **options):
    """Returns `layer(inputs, **options)`; only inputs and weights are kept for gradients.

    Args:
      layer: built Keras layer; it may also change weights that are not trained, such as counters.
      inputs: nest of <float> tensors.
      **options: further arguments; no gradient flows to them.

    Reference: https://arxiv.org/abs/1604.06174.
    """
    trained, others = layer.trainable_variables, layer.non_trainable_variables
    with AutocastScope(None):  # The layer itself will round the weights that its policy rounds.
        weights, fixed = ([tf.convert_to_tensor(v.value) for v in vs] for vs in (trained, others))
    num_inputs = len(tf.nest.flatten(inputs))
    form, changed = [], []

    def call(arguments):
        """Returns the flat outputs of the layer as a function of inputs and weights."""
        pairs = [*zip(trained, arguments[num_inputs:]), *zip(others, fixed)]
        with keras.StatelessScope(pairs, initialize_variables=False) as scope:
            outputs = layer(tf.nest.pack_sequence_as(inputs, arguments[:num_inputs]), **options)
        form[:] = [outputs]
        changed[:] = [scope.get_current_value(v) for v in others]
        return tf.nest.flatten(outputs)

    @tf.custom_gradient
    def run(*arguments):
        everyone = replicas.current().again()
        outputs, was_changed = call(arguments), list(changed)

        def gradient(*upstream):
            with replicas.scope(everyone), tf.GradientTape() as tape:
                again = _later(arguments, upstream)
                tape.watch(again)
                repeated = call(again)
            changed[:] = was_changed
            return tape.gradient(
                repeated, again, output_gradients=list(upstream), unconnected_gradients="zero"
            )

        return outputs, gradient

    outputs = run(*tf.nest.flatten(inputs), *weights)
    for variable, value in zip(others, changed):
        variable.assign(value)
    return tf.nest.pack_sequence_as(form[0], outputs)


def _later(values, upstream):
    """Returns `values`, as tensors that are not there before the backward pass has come so far."""
    with tf.control_dependencies([x for x in upstream if isinstance(x, tf.Tensor)]):
        values = [tf.identity(value) for value in values]
    if not in_xla():
        return values
    # XLA sees that both passes compute the same and would keep the first unless it is hidden.
    return xla.optimization_barrier(*values, *upstream)[: len(values)]
