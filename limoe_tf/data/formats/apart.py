"""Functions that a graph calls, rather than holds."""

from collections.abc import Callable

import tensorflow as tf

FILE = tf.TensorSpec([], tf.string)


def apart(*signature: tf.TensorSpec) -> Callable[[Callable], Callable]:
    """Decorates a function of tensors that is to be traced once, and prepared when first called.

    The readers of all formats have many operations, and each that is part of a dataset's graph
    takes time whenever the dataset is iterated over, though most files are JPEGs.

    Args:
      signature: of the function's arguments.
    """
    return tf.function(
        input_signature=signature, autograph=False, experimental_attributes={"_noinline": True}
    )
