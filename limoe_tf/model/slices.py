"""Gradients of a batch that is computed in slices (microbatches): exactly those of the whole batch.

A first pass computes all embeddings, and the sums that the auxiliary losses need; activations are
not stored. The contrastive loss and its gradient with respect to all embeddings follow. In a second
pass each slice is recomputed under a tape, and the gradients of its embeddings and of the auxiliary
losses are backpropagated to the weights. Memory holds the activations of one slice at a time.

Reference: https://arxiv.org/abs/2101.06983 (the contrastive part).
"""

from collections.abc import Mapping

import keras
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.mesh.slices import Slice
from limoe_tf.model import contrast
from limoe_tf.objectives.total import total
from limoe_tf.report import Report


def differentiate(
    model: keras.Model, batch: Mapping[str, tf.Tensor], weights: Mapping[str, float]
) -> tuple[Report, list[tf.Tensor]]:
    """Returns the Report of the batch and the gradients of this replica's share of the loss.

    Args:
      model: compiled `contrastive.ContrastiveModel`; its `num_slices` must divide B.
      batch: dict with `image`, `text` and `text_valid`.
      weights: dict of floats by loss name.

    Returns:
      Report, and a list of <float>[...], one per trainable variable.

    Raises:
      ValueError: if the batch lacks a modality or cannot be divided, or if experts are sharded over
        replicas of a host.
    """
    _check_collectives(replicas.current())
    contrast.check_modalities(batch)
    slices = _sliced(batch, model.num_slices)
    state = _values(model.trainable_variables), _values(model.non_trainable_variables)
    embeddings, scalars, report, sums = _first_pass(model, slices, state)
    sources = {**embeddings, **scalars}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        found = contrast.contrast_of(model, sources, batch)
        share = total({"contrastive": found.loss}, weights) / replicas.current().count
    upstream = tape.gradient(share, sources, unconnected_gradients="zero")
    totals = replicas.current().sum(sums)
    report, gradients = _second_pass(model, slices, state, weights, upstream, totals, report)
    return contrast.joined(found, scalars, report), gradients


def _check_collectives(context):
    if context.mesh is not None and not context.in_one_program:
        raise ValueError(
            "With experts sharded over replicas, slices work on TPUs only: use num_slices=1, or a "
            f"mesh of 'data' alone. Received: mesh={context.mesh.shape}"
        )


def _sliced(batch, num_slices):
    """Returns the batch as dict of [slices, B / slices, ...]."""
    pairs = batch["image"].shape[0]
    if pairs is not None and pairs % num_slices:
        raise ValueError(
            f"`num_slices` must divide the {pairs} pairs of a replica's batch. "
            f"Received: num_slices={num_slices}"
        )
    if pairs is None:
        message = f"`num_slices` must divide a replica's batch. Received: num_slices={num_slices}"
        divides = tf.debugging.assert_equal(
            tf.shape(batch["image"])[0] % num_slices, 0, message=message
        )
        with tf.control_dependencies([divides]):
            batch = {name: tf.identity(value) for name, value in batch.items()}
    return {
        name: tf.reshape(value, tf.concat([[num_slices, -1], tf.shape(value)[1:]], axis=0))
        for name, value in batch.items()
    }


def _values(variables):
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def _call(model, slices, state, part, number):
    """Returns embeddings and Report of a slice, and new values of the non-trainable variables.

    No variable is changed: all slices, in both passes, get the same draw of noise.
    """
    trainable, others = state
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    pairs = list(zip(variables, [*trainable, *others]))
    batch = {name: value[number] for name, value in slices.items()}
    with replicas.scope(part), keras.StatelessScope(pairs, initialize_variables=False) as scope:
        embeddings, report = model(batch, training=True)
    changed = [scope.get_current_value(v) for v in model.non_trainable_variables]
    return embeddings, report, changed


def _popped(values):
    """Takes the scalars out of a dict of embeddings and scalars, and returns them."""
    return {name: values.pop(name) for name in contrast.SCALARS if name in values}


def _first_pass(model, slices, state):
    """Returns all embeddings, the scalars, the Report of one slice, and this replica's sums."""
    context, num_slices = replicas.current(), model.num_slices

    def embed(number):
        part = Slice(context, number, num_slices)
        embeddings, report, changed = _call(model, slices, state, part, number)
        return embeddings, part.parts, (_popped(embeddings), report, changed)

    # The structure of everything is that of the first slice.
    embeddings, sums, (scalars, report, changed) = embed(0)
    arrays = {
        name: tf.TensorArray(value.dtype, num_slices, element_shape=value.shape).write(0, value)
        for name, value in embeddings.items()
    }

    def body(number, arrays, sums):
        more, parts, _ = embed(number)
        arrays = {name: array.write(number, more[name]) for name, array in arrays.items()}
        return number + 1, arrays, [x + y for x, y in zip(sums, parts)]

    _, arrays, sums = _loop(body, (tf.constant(1), arrays, sums), num_slices - 1)
    for variable, before, value in zip(model.non_trainable_variables, state[1], changed):
        if value is not before:
            variable.assign(value)
    whole = {name: _joined(arrays[name], num_slices, embeddings[name].shape) for name in arrays}
    return whole, scalars, report, sums


def _second_pass(model, slices, state, weights, upstream, totals, report):
    """Returns the Report of the global batch, and the gradients of this replica's share."""
    context, num_slices = replicas.current(), model.num_slices
    scalars = {name: gradient / num_slices for name, gradient in _popped(upstream).items()}
    upstream = _sliced(upstream, num_slices)

    def body(number, sums, _):
        part = Slice(context, number, num_slices, totals)
        with tf.GradientTape() as tape:
            tape.watch(state[0])
            embeddings, report, _ = _call(model, slices, state, part, number)
            share = total(report.losses, weights) / context.count
            for name, gradient in scalars.items():
                share += gradient * embeddings[name]
            for name, gradients in upstream.items():
                share += tf.reduce_sum(gradients[number] * embeddings[name])
        found = tape.gradient(share, state[0], unconnected_gradients="zero")
        return number + 1, [x + tf.convert_to_tensor(y) for x, y in zip(sums, found)], report

    zeros = tf.nest.map_structure(tf.zeros_like, (state[0], report))
    _, found, report = _loop(body, (tf.constant(0), *zeros), num_slices)
    return report, found


def _loop(body, start, times):
    """Runs `body` that many times, one after another: no two slices are in memory at once."""
    # A TensorFlow loop, not a Python one: otherwise the executor, and XLA, would share work between
    # the passes, and store the activations of the first for the second.
    return tf.while_loop(
        lambda *_: True, body, start, parallel_iterations=1, maximum_iterations=times
    )


def _joined(array, num_slices, shape):
    """Returns <float32>[B, Z] of an array of the slices' embeddings."""
    stacked = tf.ensure_shape(array.stack(), [num_slices, *shape])
    return tf.reshape(stacked, [-1, shape[-1]])
