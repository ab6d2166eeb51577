"""The time of each part of the sparse layer by itself, forward with backward.

Axis letters: S tokens of the batch, D width, E experts.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from benchmarks import sparse_layer, timing
from limoe_tf import tokens
from limoe_tf.moe import assign, dispatch, mlp, observe
from limoe_tf.objectives.total import DEFAULT_WEIGHTS, total

CASES = tuple(
    itertools.starmap(
        sparse_layer.Case,
        (
            (2048, 384, 8),
            (2048, 384, 32),
            (2048, 384, 128),
            (8192, 384, 8),
            (8192, 384, 512),
            (8192, 768, 8),
            (8192, 768, 32),
        ),
    )
)
DENSE = "dense"  # the first column: 1.00
REMARKS = """\
float32, hidden width 4 x width, K = 1, C = 1.05, batch priority; gradients
of all inputs and weights. Ratios to the dense MLP with a compiled GELU, medians of the ratios
within rounds. "streams" joins the streams to one group and splits it again; "router" is the matmul,
the noise and the softmaxes; "assign" gives tokens their slots; "dispatch, combine" copies tokens
to the experts' buffers and sums the weighted outputs; "experts" are the E MLPs in the two forms for
CPUs, of which the layer uses one; "weights" reads the experts' weights twice and writes as much
once, as a step must, and computes nothing; "losses" are all auxiliary losses and metrics. "layer"
is everything together.
"""


def measure(*, rounds: int, progress: Callable, cases: Sequence = CASES) -> timing.Table:
    """Times the parts of each layer.

    Args:
      rounds: how often each part is measured.
      progress: called with text to show.
      cases: `sparse_layer.Case`s.

    Returns:
      `timing.Table` with a row for each Case.
    """
    records = []
    for case in cases:
        progress(f"{case.tokens} x {case.width}, {case.experts} experts ")
        batch = sparse_layer.draw_batch(case.tokens, case.width)
        steps = {DENSE: sparse_layer.dense_steps(batch)[sparse_layer.OWN]}
        steps |= _steps(sparse_layer.make_layer(case), batch)
        times = timing.interleaved(steps, rounds=rounds, after_round=lambda: progress("."))
        progress("\n")
        records.append({
            **case._asdict(),
            "milliseconds": {name: timing.spread(1000 * t.wall) for name, t in times.items()},
            "ratio": {name: timing.spread(t.wall / times[DENSE].wall) for name, t in times.items()},
        })  # fmt: skip
    parts = list(records[0]["ratio"])[1:]
    return timing.Table(
        title="The parts of the sparse layer",
        remarks=REMARKS,
        columns=["tokens x width", "experts", "dense, ms", *parts],
        rows=[
            [
                f"{record['tokens']} x {record['width']}",
                str(record["experts"]),
                f"{record['milliseconds'][DENSE]['median']:.1f}",
                *(f"{record['ratio'][name]['median']:.3f}" for name in parts),
            ]
            for record in records
        ],
        records=records,
    )


def _steps(layer, batch):
    """Returns functions without arguments that compute the parts of `layer`, by name."""
    streams, valid = batch[0], sparse_layer.VALID
    joined, flags, layout = tokens.join(streams, valid)
    _, size, width = joined.shape
    gates = layer.router(joined, layout=layout, training=True)
    limits = {"num_choices": layer.num_choices}
    slots = assign.capacity(
        size, num_experts=layer.num_experts, capacity_factor=layer.capacity_factor, **limits
    )

    def give_slots(probabilities):
        priority = assign.priority(layer.dispatch_order, probabilities, layout, **limits)
        return assign.assign(
            probabilities, valid=flags, priority=priority, num_slots=slots, **limits
        )

    assignment = give_slots(gates.probabilities)
    packed = dispatch.packed_routes(assignment, num_experts=layer.num_experts)
    padded = dispatch.padded_routes(assignment, num_experts=layer.num_experts, num_slots=slots)
    packs = layer.experts.packs(slots)
    routes = packed if packs else padded
    flat = tf.reshape(joined, [-1, width])
    weight = tf.reshape(assignment.weight, [-1, layer.num_choices])
    buffers = tf.reshape(dispatch.dispatch(flat, padded), [layer.num_experts, slots, width])
    weights = [variable.value for variable in layer.experts.trainable_variables]
    rows = dispatch.dispatch(flat, packed)

    def route(probabilities):
        found = give_slots(probabilities)
        if packs:
            return dispatch.packed_routes(found, num_experts=layer.num_experts)
        return dispatch.padded_routes(found, num_experts=layer.num_experts, num_slots=slots)

    def losses(probabilities, clean, logits, noisy):
        report = observe.observe(
            type(gates)(probabilities, clean, logits, noisy), assignment, flags, layout, **limits,
            noise_std=layer.router.noise_std, min_experts=layer.min_experts,
        )  # fmt: skip
        return total(report.losses, DEFAULT_WEIGHTS), list(report.metrics.values())

    def split(*parts):
        group, _, found = tokens.join(dict(zip(streams, parts)), valid)
        return list(tokens.split(2 * group, found).values())

    return {
        "streams": _step(split, list(streams.values())),
        "router": _step(
            lambda x, *_: layer.router(x, layout=layout, training=True),
            [joined, *(variable.value for variable in layer.router.trainable_variables)],
        ),
        "assign": _step(
            lambda x: [part for part in route(x) if part is not None], [gates.probabilities]
        ),
        "dispatch, combine": _step(
            lambda x, w: dispatch.combine(dispatch.dispatch(x, routes), w, routes), [flat, weight]
        ),
        "experts packed": _step(
            lambda x, *w: mlp.packed_mlp(x, packed.sizes, *w, training=True), [rows, *weights]
        ),
        "experts padded": _step(
            lambda x, *w: mlp.padded_mlp(x, *w, training=True), [buffers, *weights]
        ),
        "weights": _moves([weight for weight in weights if weight.shape.rank == 3]),
        "losses": _step(losses, list(gates)),
        "layer": sparse_layer.sparse_step(layer, batch),
    }


def _moves(kernels):
    """Returns a step that reads `kernels` twice and writes as much, as a train step must."""
    compute = tf.function(lambda: [(tf.reduce_max(x), x + 1.0) for x in kernels], autograph=False)
    return lambda: compute()


def _step(function, inputs):
    """Returns a step that computes `function(*inputs)` and its gradients, given random ones."""
    random = np.random.default_rng(0)
    outputs = tf.nest.flatten(function(*inputs))
    floats = [number for number, value in enumerate(outputs) if value.dtype.is_floating]
    upstream = [
        tf.constant(random.normal(size=outputs[number].shape), tf.float32) for number in floats
    ]

    @tf.function(autograph=False)
    def compute(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            results = tf.nest.flatten(function(*inputs))
        targets = [results[number] for number in floats]
        gradients = tape.gradient(targets, inputs, output_gradients=upstream) if targets else []
        return results, gradients

    return lambda: compute(inputs, upstream)
