"""The strategy under which a job runs: one device, several of this host, or a TPU slice."""

from collections.abc import Callable
from importlib import metadata

import tensorflow as tf

from limoe_tf import checks


def one_device() -> tf.distribute.Strategy:
    """Returns the strategy of a job on one device."""
    return tf.distribute.get_strategy()


def of_host(num_replicas: int) -> tf.distribute.Strategy:
    """Returns a strategy over the first GPUs of this host, or over its logical CPUs.

    Args:
      num_replicas: how many replicas.

    Raises:
      ValueError: if the host has fewer devices.
    """
    checks.positive_int("num_replicas", num_replicas)
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if num_replicas > len(found):
        raise ValueError(
            f"`num_replicas` must be at most the {len(found)} {found[0].device_type}s of this "
            f"host. Received: num_replicas={num_replicas}"
        )
    if num_replicas == 1:
        return one_device()
    return tf.distribute.MirroredStrategy([device.name for device in found[:num_replicas]])


def of_tpu(tpu: str) -> tf.distribute.Strategy:
    """Connects to the chips of a TPU VM, or of a slice of several VMs, and returns their strategy.

    Args:
      tpu: "local" on a single TPU VM; on a slice of several VMs the name of the TPU, on any one of
        them.

    Raises:
      ValueError: if this TensorFlow has no TPU support, or there is no such TPU.
    """
    try:
        metadata.version("tensorflow-tpu")
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            "Training on a TPU needs the package tensorflow-tpu in the place of tensorflow: "
            f"`bash tpu_jobs/setup_tpu_vm.sh` installs it. Received: tpu={tpu!r}"
        ) from error
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            "`tpu` must be 'local' on a TPU VM, or the name of a TPU in this VM's project and "
            f"zone. Received: tpu={tpu!r} ({error})"
        ) from error


def num_replicas() -> int:
    """Returns the number of replicas of the current strategy scope."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def distributed(
    strategy: tf.distribute.Strategy,
    make_batches: Callable[[tf.distribute.InputContext | None], tf.data.Dataset],
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Returns a strategy's dataset, of which each host reads its own part.

    Args:
      strategy: `tf.distribute.Strategy`.
      make_batches: function of a `tf.distribute.InputContext`, or None for one device, to a
        `tf.data.Dataset` of the batches of that host's replicas, each replica's after the other.
    """
    if strategy.num_replicas_in_sync == 1:
        return make_batches(None)
    return strategy.distribute_datasets_from_function(make_batches)
