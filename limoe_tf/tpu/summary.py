"""Memory, operations and collectives of a compiled step, as text."""

import collections

import keras

from limoe_tf.tpu.compile import Compiled


def model_flops(model: keras.Model, global_batch: int) -> int:
    """Returns the model FLOPs of one step: a backward pass counts as two forward passes.

    Recomputed blocks and empty slots are not counted.

    Args:
      model: `Limoe`, `TwoTower`, `VlMoe`, or one of `limoe_tf.downstream`.
      global_batch: examples of one step; for a `VlMoe` each is a pair, an image and a text.
    """
    return 3 * global_batch * model.useful_flops


def lines(compiled: Compiled, *, useful_flops: float) -> list[str]:
    """Returns the summary of a step.

    Args:
      compiled: `compile.Compiled`.
      useful_flops: as of `model_flops`.

    Returns:
      List of lines.
    """
    chip, gib = compiled.chip, 2**30
    return [
        f"{compiled.topology}: {compiled.num_chips} chips; of each chip:",
        f"  HBM        {compiled.memory / gib:8.2f} of {chip.memory_bytes / gib:.0f} GiB: "
        f"{compiled.arguments / gib:.2f} weights, optimizer and batch, "
        f"{compiled.temporaries / gib:.2f} while a step runs",
        f"  operations {compiled.flops / 1e12:8.2f} TFLOP, peak {chip.flops / 1e12:.0f} a second",
        f"  HBM moved  {compiled.bytes_moved / 1e9:8.2f} GB, "
        f"peak {chip.memory_bandwidth / 1e9:.0f} a second",
        *_collectives(compiled),
        f"  peaks from {chip.source}",
        f"Step, by roofline: {compiled.seconds * 1e3:.1f} ms; model FLOPs utilisation "
        f"{compiled.utilisation(useful_flops):.0%}",
    ]


def _collectives(compiled):
    grouped = collections.defaultdict(list)
    for collective in compiled.collectives:
        grouped[collective.kind, collective.group].append(collective)
    return [
        f"  {kind:<18} {len(found):4d} among {group}: {sum(c.size for c in found) / 1e6:.1f} MB, "
        f"{sum(c.sent for c in found) / 1e6:.1f} sent"
        for (kind, group), found in sorted(grouped.items())
    ]
