"""The sparse layer against the dense MLP that it replaces: forward with backward.

Axis letters: B examples, N tokens of a stream, S tokens of the batch, D width, E experts.
"""

import keras
import numpy as np
import tensorflow as tf

from benchmarks import timing
from limoe_tf import SparseFeedForward
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.objectives.total import DEFAULT_WEIGHTS, total

# Tokens S, width D and numbers of experts; the hidden width is 4 D.
SIZES = ((2048, 384, (8, 32)), (8192, 768, (8, 32)))
TEXT_SHARE = 16  # one token of so many is a text's, as with 240 of an image and 16 of a text
EXAMPLE = 256  # tokens of one example, image and text
CAPACITY_FACTOR = 1.05
PLAIN = "TF graph"
DENSE = (PLAIN, "DenseFeedForward", "TF XLA")
VALID = {"image": None, "text": None}


def measure(*, rounds, say, sizes=SIZES):
    """Times one step of each layer at each size.

    Args:
      rounds: turns of each layer.
      say: function that shows progress; called with text.
      sizes: tuples of S, D and a tuple of E.

    Returns:
      `timing.Table` with a row for each S, D and E.
    """
    rows, records = [], []
    for num_tokens, width, experts in sizes:
        say(f"{num_tokens} tokens x {width} ")
        batch = _batch(num_tokens, width)
        sparse = {num_experts: Sparse(batch, num_experts) for num_experts in experts}
        seconds = timing.in_turns(
            {**_dense_steps(batch), **{e: layer.step for e, layer in sparse.items()}},
            rounds=rounds,
            after_round=lambda: say("."),
        )
        say("\n")
        for num_experts, layer in sparse.items():
            record = _record(num_tokens, width, num_experts, layer.kept(), seconds)
            records.append(record)
            rows.append(_row(record))
    columns = ["tokens x width", "experts", "kept", "sparse, ms", *(f"{n}, ms" for n in DENSE),
               f"ratio to {PLAIN}", "ratio to the fastest"]  # fmt: skip
    return timing.Table(
        "Sparse layer and dense MLP, forward with backward",
        f"float32, hidden width 4 x width, K = 1, C = {CAPACITY_FACTOR}, batch priority, router "
        "noise and default auxiliary losses; gradients to tokens and weights. Medians of "
        f"{rounds} interleaved turns; ratios are medians of each turn's, with quartiles. `kept` "
        "is the share of tokens with a seat.",
        columns,
        rows,
        records,
    )


def _batch(num_tokens, width):
    """Returns two dicts of <float32>[B, N, D]: tokens, and gradients that come from above."""
    random = np.random.default_rng(0)
    examples, text = num_tokens // EXAMPLE, EXAMPLE // TEXT_SHARE
    lengths = {"image": EXAMPLE - text, "text": text}
    return tuple(
        {
            name: tf.constant(random.normal(size=[examples, length, width]), tf.float32)
            for name, length in lengths.items()
        }
        for _ in range(2)
    )


def _dense_steps(batch):
    """Returns the steps of the dense MLPs by name."""
    joined = tuple(tf.concat([*streams.values()], axis=1) for streams in batch)
    width = joined[0].shape[-1]
    joined = tuple(tf.reshape(tokens, [-1, width]) for tokens in joined)
    layer = DenseFeedForward(4 * width)
    layer.build({"image": (None, None, width)})
    weights = [weight.value for weight in layer.trainable_weights]

    def plain(tokens):
        kernel_in, bias_in, kernel_out, bias_out = weights
        hidden = tf.nn.bias_add(tf.matmul(tokens, kernel_in), bias_in)
        hidden = tf.nn.gelu(hidden, approximate=True)
        return tf.nn.bias_add(tf.matmul(hidden, kernel_out), bias_out), 0.0

    def own(streams):
        return layer(streams, VALID, training=True)[0], 0.0

    steps = (
        _step(plain, weights, joined),
        _step(own, weights, batch),
        _step(plain, weights, joined, jit_compile=True),
    )
    return dict(zip(DENSE, steps))


class Sparse:
    """A sparse layer, its step, and the share of tokens that it kept in the last one."""

    def __init__(self, batch, num_experts):
        width = batch[0]["image"].shape[-1]
        layer = SparseFeedForward(
            4 * width, num_experts=num_experts, capacity_factor=CAPACITY_FACTOR
        )
        layer.build({"image": (None, None, width)})
        self._layer, self._batch = layer, batch
        self.step = _step(self._call, [w.value for w in layer.trainable_weights], batch)

    def _call(self, streams):
        outputs, report = self._layer(streams, VALID, training=True)
        return outputs, total(report.losses, DEFAULT_WEIGHTS)

    def kept(self):
        """Returns the share of tokens that found a seat, with fresh noise."""
        _, report = self._layer(self._batch[0], VALID, training=True)
        taken = [tf.reduce_sum(report.metrics[f"tokens_{name}"]) for name in VALID]
        tokens = sum(np.prod(stream.shape[:2]) for stream in self._batch[0].values())
        return float(tf.add_n(taken)) / tokens


def _step(function, weights, batch, *, jit_compile=False):
    """Returns a function that computes outputs and all gradients.

    Args:
      function: from tokens to outputs of the same structure and a loss <float32>[].
      weights: variables.
      batch: tokens, and the gradients of the outputs.
      jit_compile: whether XLA compiles it.
    """

    @tf.function(autograph=False, jit_compile=jit_compile)
    def compute(tokens, upstream):
        with tf.GradientTape() as tape:
            tape.watch(tokens)
            outputs, loss = function(tokens)
            pairs = zip(tf.nest.flatten(outputs), tf.nest.flatten(upstream))
            loss += tf.add_n([tf.reduce_sum(value * weight) for value, weight in pairs])
        return outputs, tape.gradient(loss, [tokens, weights])

    return lambda: compute(*batch)


def _record(num_tokens, width, num_experts, kept, seconds):
    fastest = min(DENSE, key=lambda name: np.median(seconds[name]))
    sparse = seconds[num_experts]
    timed = {"sparse": sparse, **{name: seconds[name] for name in DENSE}}
    return {
        "tokens": num_tokens,
        "width": width,
        "experts": num_experts,
        "kept": kept,
        "milliseconds": {name: timing.spread(1000 * value) for name, value in timed.items()},
        "fastest": fastest,
        "ratio_to_plain": timing.spread(sparse / seconds[PLAIN]),
        "ratio_to_fastest": timing.spread(sparse / seconds[fastest]),
    }


def _row(record):
    times = [f"{record['milliseconds'][name]['median']:.1f}" for name in ("sparse", *DENSE)]
    ratios = [
        "{median:.2f} ({low:.2f} to {high:.2f})".format(**record[name])
        for name in ("ratio_to_plain", "ratio_to_fastest")
    ]
    size = f"{record['tokens']} x {record['width']}"
    return [size, str(record["experts"]), f"{record['kept']:.3f}", *times, *ratios]
