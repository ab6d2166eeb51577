"""How the sparse layer's time grows with its experts and with its tokens: forward with backward."""

import gc
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import sparse_layer, timing

WIDTH = 384
NUM_TOKENS, EXPERTS = 8192, (8, 16, 32, 64, 128, 256, 512)
NUM_EXPERTS, TOKENS = 32, (1024, 2048, 4096, 8192, 16384)

REMARKS = """\
float32, hidden width 4 x width, K = 1, C = 1.05, batch priority, router
noise and default auxiliary losses; gradients of tokens and weights. Ratios of more experts
are to the first row, timed interleaved with it; those of more tokens to the fastest dense MLP for
as many.
Milliseconds are medians over rounds; ratios are taken within rounds, and given as median
(quartiles). "processor" is the same ratio in processor time.
"""


def measure(
    *,
    rounds: int,
    progress: Callable,
    width: int = WIDTH,
    num_tokens: int = NUM_TOKENS,
    experts: Sequence[int] = EXPERTS,
    num_experts: int = NUM_EXPERTS,
    tokens: Sequence[int] = TOKENS,
) -> timing.Table:
    """Times a step of layers with more and more experts, and of one with more and more tokens.

    Args:
      rounds: how often each layer is measured.
      progress: called with text to show.
      width: D.
      num_tokens: S, where the experts grow; a multiple of 256.
      experts: tuple of E; the ratios are to the first.
      num_experts: E, where the tokens grow.
      tokens: tuple of S, multiples of 256.

    Returns:
      `timing.Table` with a row for each E, then one for each S.
    """
    records = [
        *_more_experts(experts, num_tokens, width, rounds=rounds, progress=progress),
        *_more_tokens(tokens, num_experts, width, rounds=rounds, progress=progress),
    ]
    return timing.Table(
        title="Growth of the sparse layer, forward with backward",
        remarks=REMARKS,
        columns=[
            "tokens x width",
            "experts",
            "ms",
            "ns per token",
            "against",
            "ratio",
            "processor",
        ],
        rows=[_row(record) for record in records],
        records=records,
    )


def _more_experts(experts, num_tokens, width, *, rounds, progress):
    """Returns a record for each number of experts, against the first."""
    progress(f"{num_tokens} x {width} ")
    batch = sparse_layer.draw_batch(num_tokens, width)
    first = _step(width, experts[0], batch)
    records = []
    for number in experts:
        # One other layer at a time: the weights and gradients of 512 experts take gigabytes.
        steps = {"first": first, "grown": _step(width, number, batch)}
        times = timing.interleaved(steps, rounds=rounds, after_round=lambda: progress("."))
        size = {"tokens": num_tokens, "width": width, "experts": number}
        against = f"{experts[0]} experts"
        records.append({**size, **_compare(times["grown"], against, times["first"])})
        del steps
        gc.collect()
    progress("\n")
    return records


def _more_tokens(tokens, num_experts, width, *, rounds, progress):
    """Returns a record for each number of tokens, against the fastest dense MLP."""
    records = []
    for number in tokens:
        progress(f"{number} x {width} ")
        batch = sparse_layer.draw_batch(number, width)
        steps = {**sparse_layer.dense_steps(batch), "sparse": _step(width, num_experts, batch)}
        times = timing.interleaved(steps, rounds=rounds, after_round=lambda: progress("."))
        progress("\n")
        fastest = min(sparse_layer.DENSE, key=lambda name: np.median(times[name].wall))
        size = {"tokens": number, "width": width, "experts": num_experts}
        against = f"dense, {fastest}"
        records.append({**size, **_compare(times["sparse"], against, times[fastest])})
    return records


def _step(width, num_experts, batch):
    case = sparse_layer.Case(tokens=None, width=width, experts=num_experts)
    return sparse_layer.sparse_step(sparse_layer.make_layer(case), batch)


def _compare(times, against, other):
    """Returns the numbers of a record from the `timing.Times` of a layer and of another."""
    return {
        "against": against,
        **timing.compared(times, other),
        "other_milliseconds": timing.spread(1000 * other.wall),
    }


def _row(record):
    """Returns a record as the text of a row."""
    milliseconds = record["milliseconds"]["median"]
    return [
        f"{record['tokens']} x {record['width']}",
        str(record["experts"]),
        f"{milliseconds:.1f}",
        f"{1e6 * milliseconds / record['tokens']:.0f}",
        record["against"],
        timing.shown(record["ratio"]),
        timing.shown(record["processor_ratio"]),
    ]
