"""The experts on every token, none dropped, with static shapes: in rounds over small buffers.

Under XLA and on a mesh a buffer has a fixed number of slots. Buffers for the worst case, all tokens
at one expert, would have E times the rows that there are tokens. Here an expert's tokens stand in a
queue, and each round takes the next C of every queue through buffers of C slots, until the
longest queue is empty: one round where the routing is even, more where it is not.

Axis letters: T tokens, E experts, K choices per token, C slots of an expert in a round, D width.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from limoe_tf.custom_gradient import custom_gradient
from limoe_tf.mesh import replicas
from limoe_tf.mesh.loop import repeat
from limoe_tf.moe import assign
from limoe_tf.moe.assign import Assignment

# Slots of an expert in a round, in proportion to an even share of the tokens. Two rounds are twice
# the work, so the routing of a trained model, which is not quite even, should fit into one.
CAPACITY_FACTOR = 1.25


def num_slots(num_tokens: int | tf.Tensor, *, num_experts: int, num_choices: int):
    """Returns the slots C of an expert in one round; T if one round takes all tokens in any case.

    Args:
      num_tokens: T, an int or <int32>[].
      num_experts: E.
      num_choices: K.
    """
    return assign.capacity(
        num_tokens,
        num_experts=num_experts,
        num_choices=num_choices,
        capacity_factor=CAPACITY_FACTOR,
    )


def of_round(assignment: Assignment, number: int | tf.Tensor, num_slots: int) -> Assignment:
    """Returns the choices that are computed in one round, in the slots that they have in it.

    Args:
      assignment: `assign.Assignment` without a limit on slots, of one group.
      number: of the round, from 0.
      num_slots: C.
    """
    slot = assignment.slot - number * num_slots
    inside = tf.logical_and(slot >= 0, slot < num_slots)
    return assignment._replace(slot=slot, kept=tf.logical_and(assignment.kept, inside))


def num_rounds(assignment: Assignment, num_slots: int) -> tf.Tensor:
    """Returns after how many rounds no token is left: <int32>[].

    On a mesh of replicas it is the number of the replica that needs most, as they exchange rows in
    every round.

    Args:
      assignment: `assign.Assignment` without a limit on slots, of one group.
      num_slots: C.
    """
    # Slots are given without a gap, so the largest one tells how long the longest queue is.
    last = tf.reduce_max(tf.where(assignment.kept, assignment.slot, -1))
    rounds = last // num_slots + 1
    context = replicas.current().replica
    if context.mesh is None:
        return rounds
    # In float32, which every collective takes.
    gathered = context.gather(tf.cast(rounds, tf.float32)[tf.newaxis])
    return tf.cast(tf.reduce_max(gathered), tf.int32)


def sum_over_rounds(
    compute: Callable,
    arguments: Sequence[tf.Tensor],
    *,
    like: Sequence[tf.Tensor],
    start: int,
    stop: tf.Tensor,
) -> list[tf.Tensor]:
    """Returns the sums of `compute(number, *arguments)` over rounds, with gradients to arguments.

    XLA cannot differentiate a loop whose length is a value. The backward pass is a loop of its own,
    which computes each round again: nothing is stored but the arguments.

    Args:
      compute: function of the round's number <int32>[] and of `arguments` to a list of tensors. No
        gradient flows to what it closes over.
      arguments: list of <float>[...].
      like: list of tensors in the shapes and dtypes of the results.
      start: number of the first round.
      stop: <int32>[], the number after the last.
    """

    @custom_gradient
    def run(*arguments):
        context = replicas.current().snapshot()

        def forward(number, *sums):
            return [total + part for total, part in zip(sums, compute(number, *arguments))]

        def gradient(*upstream):
            def backward(number, *sums):
                with tf.GradientTape() as tape:
                    tape.watch(arguments)
                    outputs = compute(number, *arguments)
                found = tape.gradient(outputs, arguments, output_gradients=list(upstream))
                return [total + tf.cast(part, total.dtype) for total, part in zip(sums, found)]

            with replicas.scope(context):
                # Not in half precision: a weight's gradient is a sum over many rounds.
                sums = [tf.zeros_like(x, _at_least_float32(x.dtype)) for x in arguments]
                sums = repeat(backward, sums, start=start, stop=stop)
            return [tf.cast(total, x.dtype) for total, x in zip(sums, arguments)]

        zeros = [tf.zeros_like(x) for x in like]
        return repeat(forward, zeros, start=start, stop=stop), gradient

    return run(*arguments)


def _at_least_float32(dtype):
    return tf.float32 if dtype.size < 4 else dtype
