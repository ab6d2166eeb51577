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
    chip, gib, bounds = compiled.chip, 2**30, compiled.bounds
    return [
        f"{compiled.topology}: {compiled.num_chips} chips; of each chip:",
        f"  memory     {compiled.memory / gib:8.2f} of {chip.memory_bytes / gib:.0f} GiB: "
        f"{compiled.arguments / gib:.2f} weights, optimizer and batch, "
        f"{compiled.temporaries / gib:.2f} while a step runs",
        _bound("computing", bounds, compiled.flops / 1e12, "TFLOP", chip.flops / 1e12),
        _bound("HBM", bounds, compiled.hbm_bytes / 1e9, "GB", chip.memory_bandwidth / 1e9),
        _bound("network", bounds, compiled.sent / 1e9, "GB", chip.network_bandwidth / 1e9),
        *_collectives(compiled),
        *(
            f"  loop {name}: counted once, its trips are not known"
            for name in compiled.unknown_loops
        ),
        f"  peaks from {chip.source}",
        f"Step, by roofline: {compiled.seconds * 1e3:.3g} ms, bound by "
        f"{max(bounds, key=bounds.get)}; model FLOPs utilisation "
        f"{compiled.utilisation(useful_flops):.0%}",
    ]


def _bound(name, bounds, amount, unit, peak):
    return (
        f"  {name:<10} {amount:8.3g} {unit}, peak {peak:.0f} a second: {bounds[name] * 1e3:.3g} ms"
    )


def _collectives(compiled):
    grouped = collections.defaultdict(list)
    for collective in compiled.collectives:
        grouped[collective.kind, collective.group].append(collective)
    return [
        f"  {kind:<18} {len(found):4d} among {group}: {sum(c.size for c in found) / 1e6:.1f} MB, "
        f"{sum(c.sent for c in found) / 1e6:.1f} sent"
        for (kind, group), found in sorted(grouped.items())
    ]
