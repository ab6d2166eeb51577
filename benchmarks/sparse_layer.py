"""The sparse layer against the dense MLP that it replaces: forward, and forward with backward.

Axis letters: B examples, N tokens of a stream, S tokens of the batch, D width, E experts,
K choices.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import timing
from limoe_tf import SparseFeedForward, tokens
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.objectives.total import DEFAULT_WEIGHTS, total

LENGTHS = {"image": 240, "text": 16}  # tokens of one example
VALID = dict.fromkeys(LENGTHS)


class Case(NamedTuple):
    """One sparse layer: S (a multiple of 256), D (the hidden width is 4 D), E, K and the rest."""

    tokens: int
    width: int
    experts: int
    choices: int = 1
    capacity_factor: float = 1.05
    order: str = "batch_priority"


CASES = (
    *itertools.starmap(Case, itertools.product((2048, 8192), (384, 768), (8, 32, 128))),
    *[
        Case(2048, 384, 32, *others)
        for others in itertools.product(
            (1, 2), (1.05, 1.25), ("batch_priority", "first_in_images_first")
        )
    ][1:],  # The first is among those above.
)
PLAIN, OWN, XLA = DENSE = ("TF graph", "DenseFeedForward", "TF XLA")
REMARKS = """\
float32, hidden width 4 x width, router noise and all auxiliary losses and metrics. Forward with
backward: gradients of tokens and weights. Layers are timed interleaved, in rounds. Ratios are taken
within rounds, and given as median (quartiles); milliseconds are medians. "TF graph" and "TF XLA"
are the dense MLP in plain TensorFlow, "DenseFeedForward" compiles the GELU alone. "to the fastest"
of them;
"processor" is the ratio to "TF graph" in processor time, which other work on the machine disturbs
less; "XLA" is the whole sparse layer compiled, "forward" both layers without gradients, in graph
and compiled, all to the fastest dense one. "kept" is the share of choices that are kept.
"""


def measure(*, rounds: int, progress: Callable, cases: Sequence[Case] = CASES) -> timing.Table:
    """Times a step of each layer.

    Args:
      rounds: how often each layer is measured.
      progress: called with text to show.
      cases: Cases; consecutive ones of the same S and D share the dense layers' times.

    Returns:
      `timing.Table` with a row for each Case.
    """
    records = []
    for size, group in itertools.groupby(cases, key=lambda case: case[:2]):
        progress("{} x {} ".format(*size))
        layers = {case: make_layer(case) for case in group}
        batch = draw_batch(*size)
        times = timing.interleaved(
            _steps(layers, batch), rounds=rounds, after_round=lambda: progress(".")
        )
        progress("\n")
        for case, layer in layers.items():
            kept = _kept(layer, batch) / (case.tokens * case.choices)
            records.append({**case._asdict(), "kept": kept, **_compare(case, times)})
    return timing.Table(
        title="Sparse layer and dense MLP",
        remarks=REMARKS,
        columns=[
            "tokens x width", "experts", "K", "C", "order", "kept", "sparse, ms",
            *(f"{name}, ms" for name in DENSE), f"ratio to {PLAIN}", "to the fastest", "processor",
            "XLA", "forward", "forward, XLA",
        ],
        rows=[_row(record) for record in records],
        records=records,
    )  # fmt: skip


def _steps(layers, batch):
    """Returns all steps of one size by (layer, whether gradients are computed, whether by XLA)."""
    steps = {(name, True): step for name, step in dense_steps(batch).items()}
    steps |= {(name, False): step for name, step in dense_steps(batch, gradients=False).items()}
    for (case, layer), gradients, xla in itertools.product(
        layers.items(), (True, False), (False, True)
    ):
        steps[case, gradients, xla] = sparse_step(layer, batch, gradients=gradients, xla=xla)
    return steps


def draw_batch(num_tokens, width):
    """Returns two dicts of <float32>[B, N, D]: tokens, and the gradients of a layer's outputs."""
    random, examples = np.random.default_rng(0), num_tokens // sum(LENGTHS.values())

    def draw():
        return {
            name: tf.constant(random.normal(size=[examples, length, width]), tf.float32)
            for name, length in LENGTHS.items()
        }

    return draw(), draw()


def make_layer(case):
    """Returns the built layer of a Case."""
    layer = SparseFeedForward(
        4 * case.width,
        num_experts=case.experts,
        num_choices=case.choices,
        capacity_factor=case.capacity_factor,
        dispatch_order=case.order,
    )
    layer.build(dict.fromkeys(LENGTHS, (None, None, case.width)))
    return layer


def sparse_step(layer, batch, *, gradients=True, xla=False):
    """Returns the step of a layer in training; see `_step`."""

    def call(streams):
        outputs, report = layer(streams, VALID, training=True)
        return outputs, total(report.losses, DEFAULT_WEIGHTS)

    weights = [weight.value for weight in layer.trainable_weights]
    return _step(call, weights, batch, gradients=gradients, xla=xla)


def _kept(layer, batch):
    """Returns how many choices are kept, for a new draw of noise."""
    _, report = layer(batch[0], VALID, training=True)
    return sum(float(tf.reduce_sum(report.metrics[f"tokens_{name}"])) for name in LENGTHS)


def dense_steps(batch, *, gradients=True):
    """Returns the steps of the dense MLPs by name; see `_step`."""
    joined = [tokens.join(streams, VALID)[0][0] for streams in batch]
    width = joined[0].shape[-1]
    layer = DenseFeedForward(4 * width)
    layer.build(dict.fromkeys(LENGTHS, (None, None, width)))
    weights = [weight.value for weight in layer.trainable_weights]

    def plain(flat):
        kernel_in, bias_in, kernel_out, bias_out = weights
        hidden = tf.nn.bias_add(tf.matmul(flat, kernel_in), bias_in)
        hidden = tf.nn.gelu(hidden, approximate=True)
        return tf.nn.bias_add(tf.matmul(hidden, kernel_out), bias_out), 0.0

    def own(streams):
        return layer(streams, VALID, training=True)[0], 0.0

    return {
        PLAIN: _step(plain, weights, joined, gradients=gradients),
        OWN: _step(own, weights, batch, gradients=gradients),
        XLA: _step(plain, weights, joined, gradients=gradients, xla=True),
    }


def _step(function, weights, batch, *, gradients=True, xla=False):
    """Returns a function that computes a layer's outputs and optionally all gradients.

    Args:
      function: from tokens to outputs of the same structure, and a loss <float32>[].
      weights: variables.
      batch: tokens, and the gradients of the outputs.
      gradients: whether gradients are computed.
      xla: whether XLA compiles it.
    """

    @tf.function(autograph=False, jit_compile=xla)
    def compute(inputs, upstream):
        if not gradients:
            return function(inputs)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, loss = function(inputs)
            pairs = zip(tf.nest.flatten(outputs), tf.nest.flatten(upstream))
            loss += tf.add_n([tf.reduce_sum(output * gradient) for output, gradient in pairs])
        return outputs, tape.gradient(loss, [inputs, weights])

    return lambda: compute(*batch)


def _compare(case, times):
    """Returns the numbers of one row but its Case, from `timing.Times` of all layers."""
    dense = {name: times[name, True] for name in DENSE}
    fastest, fastest_forward = (
        min(DENSE, key=lambda name: np.median(times[name, gradients].wall))
        for gradients in (True, False)
    )
    sparse = times[case, True, False]
    layers = {"sparse": sparse, **dense}

    def ratio(gradients, xla):
        other = times[fastest if gradients else fastest_forward, gradients]
        return timing.spread(times[case, gradients, xla].wall / other.wall)

    return {
        "fastest": fastest,
        "fastest_forward": fastest_forward,
        "milliseconds": {name: timing.spread(1000 * t.wall) for name, t in layers.items()},
        "processor_milliseconds": {
            name: timing.spread(1000 * t.processor) for name, t in layers.items()
        },
        "ratio_to_plain": timing.spread(sparse.wall / dense[PLAIN].wall),
        "ratio_to_fastest": ratio(True, False),
        "processor_ratio_to_plain": timing.spread(sparse.processor / dense[PLAIN].processor),
        "xla_ratio": ratio(True, True),
        "forward_ratio": ratio(False, False),
        "forward_xla_ratio": ratio(False, True),
    }


def _row(record):
    """Returns a record as the text of a row."""
    ratios = ("ratio_to_plain", "ratio_to_fastest", "processor_ratio_to_plain", "xla_ratio",
              "forward_ratio", "forward_xla_ratio")  # fmt: skip
    return [
        f"{record['tokens']} x {record['width']}",
        *(str(record[name]) for name in ("experts", "choices", "capacity_factor", "order")),
        f"{record['kept']:.3f}",
        *(f"{record['milliseconds'][name]['median']:.1f}" for name in ("sparse", *DENSE)),
        *(timing.shown(record[name]) for name in ratios),
    ]
