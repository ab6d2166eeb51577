"""The sparse layer against the dense MLP that it replaces: forward with backward.

Axis letters: B examples, N tokens of a stream, S tokens of the batch, D width, E experts.
"""

import numpy as np
import tensorflow as tf

from benchmarks import timing
from limoe_tf import SparseFeedForward, tokens
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.objectives.total import DEFAULT_WEIGHTS, total

# S, D and the numbers of experts; the hidden width is 4 D.
SIZES = ((2048, 384, (8, 32)), (8192, 768, (8, 32)))
LENGTHS = {"image": 240, "text": 16}  # tokens of one example
VALID = dict.fromkeys(LENGTHS)
CAPACITY_FACTOR = 1.05

PLAIN, OWN, XLA = DENSE = ("TF graph", "DenseFeedForward", "TF XLA")
REMARKS = f"""\
float32, hidden width 4 x width, K = 1, C = {CAPACITY_FACTOR}, batch priority, router noise and
default auxiliary losses; gradients of tokens and weights. Milliseconds are medians over rounds in
which each layer had its turn; ratios are taken within rounds, and given as median (quartiles).
"TF graph" and "TF XLA" are the dense MLP in plain TensorFlow. "processor" is the ratio to
"TF graph" in processor time, which other work on the machine disturbs less. "kept" is the share of
tokens that found a seat.
"""


def measure(*, rounds, say, sizes=SIZES):
    """Times a step of each layer at each size.

    Args:
      rounds: turns of each layer.
      say: called with text that shows progress.
      sizes: tuples of S, D and a tuple of E; S a multiple of 256.

    Returns:
      `timing.Table` with a row for each S, D and E.
    """
    records = []
    for num_tokens, width, experts in sizes:
        say(f"{num_tokens} x {width} ")
        batch = draw_batch(num_tokens, width)
        layers = {num_experts: make_layer(width, num_experts) for num_experts in experts}
        steps = {num_experts: sparse_step(layer, batch) for num_experts, layer in layers.items()}
        times = timing.in_turns(
            {**dense_steps(batch), **steps}, rounds=rounds, after_round=lambda: say(".")
        )
        say("\n")
        for num_experts, layer in layers.items():
            size = {"tokens": num_tokens, "width": width, "experts": num_experts}
            kept = _kept(layer, batch) / num_tokens
            records.append({**size, "kept": kept, **_compare(times[num_experts], times)})
    return timing.Table(
        title="Sparse layer and dense MLP, forward with backward",
        remarks=REMARKS,
        columns=[
            "tokens x width", "experts", "kept", "sparse, ms", *(f"{name}, ms" for name in DENSE),
            f"ratio to {PLAIN}", "ratio to the fastest", "processor",
        ],
        rows=[_row(record) for record in records],
        records=records,
    )  # fmt: skip


def draw_batch(num_tokens, width):
    """Returns two dicts of <float32>[B, N, D]: tokens, and the gradients of a layer's outputs."""
    random, examples = np.random.default_rng(0), num_tokens // sum(LENGTHS.values())

    def draw():
        return {
            name: tf.constant(random.normal(size=[examples, length, width]), tf.float32)
            for name, length in LENGTHS.items()
        }

    return draw(), draw()


def make_layer(width, num_experts):
    """Returns a built sparse layer."""
    layer = SparseFeedForward(4 * width, num_experts=num_experts, capacity_factor=CAPACITY_FACTOR)
    layer.build({name: (None, None, width) for name in LENGTHS})
    return layer


def sparse_step(layer, batch):
    """Returns the step of a sparse layer, as a function without arguments."""
    def call(streams):
        outputs, report = layer(streams, VALID, training=True)
        return outputs, total(report.losses, DEFAULT_WEIGHTS)

    return _step(call, [weight.value for weight in layer.trainable_weights], batch)


def _kept(layer, batch):
    """Returns how many tokens find a seat, for a fresh draw of noise."""
    _, report = layer(batch[0], VALID, training=True)
    return sum(float(tf.reduce_sum(report.metrics[f"tokens_{name}"])) for name in LENGTHS)


def dense_steps(batch):
    """Returns the steps of the dense MLPs by name."""
    joined = [tokens.join(streams, VALID)[0][0] for streams in batch]
    width = joined[0].shape[-1]
    layer = DenseFeedForward(4 * width)
    layer.build({name: (None, None, width) for name in LENGTHS})
    weights = [weight.value for weight in layer.trainable_weights]

    def plain(flat):
        kernel_in, bias_in, kernel_out, bias_out = weights
        hidden = tf.nn.bias_add(tf.matmul(flat, kernel_in), bias_in)
        hidden = tf.nn.gelu(hidden, approximate=True)
        return tf.nn.bias_add(tf.matmul(hidden, kernel_out), bias_out), 0.0

    def own(streams):
        return layer(streams, VALID, training=True)[0], 0.0

    return {
        PLAIN: _step(plain, weights, joined),
        OWN: _step(own, weights, batch),
        XLA: _step(plain, weights, joined, jit_compile=True),
    }


def _step(function, weights, batch, *, jit_compile=False):
    """Returns a function that computes a layer's outputs and all gradients.

    Args:
      function: from tokens to outputs of the same structure, and a loss <float32>[].
      weights: variables.
      batch: tokens, and the gradients of the outputs.
      jit_compile: whether XLA compiles it.
    """

    @tf.function(autograph=False, jit_compile=jit_compile)
    def compute(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, loss = function(inputs)
            pairs = zip(tf.nest.flatten(outputs), tf.nest.flatten(upstream))
            loss += tf.add_n([tf.reduce_sum(output * gradient) for output, gradient in pairs])
        return outputs, tape.gradient(loss, [inputs, weights])

    return lambda: compute(*batch)


def _compare(sparse, times):
    """Returns the numbers of one row but its size, from `timing.Times` of all layers."""
    fastest = min(DENSE, key=lambda name: np.median(times[name].wall))
    layers = {"sparse": sparse, **{name: times[name] for name in DENSE}}
    return {
        "fastest": fastest,
        "milliseconds": {name: timing.spread(1000 * t.wall) for name, t in layers.items()},
        "ratio_to_plain": timing.spread(sparse.wall / times[PLAIN].wall),
        "ratio_to_fastest": timing.spread(sparse.wall / times[fastest].wall),
        "processor_ratio_to_plain": timing.spread(sparse.processor / times[PLAIN].processor),
        "processor_milliseconds": {
            name: timing.spread(1000 * t.processor) for name, t in layers.items()
        },
    }


def _row(record):
    """Returns a record as the text of a row."""
    return [
        f"{record['tokens']} x {record['width']}",
        str(record["experts"]),
        f"{record['kept']:.3f}",
        *(f"{record['milliseconds'][name]['median']:.1f}" for name in ("sparse", *DENSE)),
        *(
            "{median:.2f} ({low:.2f}-{high:.2f})".format(**record[name])
            for name in ("ratio_to_plain", "ratio_to_fastest", "processor_ratio_to_plain")
        ),
    ]
