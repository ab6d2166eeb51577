"""Initial values of kernels."""

import keras


def kernel(stddev: float | None) -> keras.initializers.Initializer:
    """Returns a truncated normal of this standard deviation, or Glorot's uniform one if None.

    Each call returns another one: an initializer of Keras draws the same values at every use.
    """
    if stddev is None:
        return keras.initializers.GlorotUniform()
    return keras.initializers.TruncatedNormal(stddev=stddev)


def of_block(stddev: float | None, number: int) -> dict[str, float | None]:
    """Returns `kernel_stddev` and `output_stddev` of the layers of block `number`, from 0.

    What a block adds to the residual stream starts the smaller the deeper it stands: its output
    matrices are divided by the root of 2 l, l = number + 1.

    Reference: https://arxiv.org/abs/2106.08254, section 2.5.
    """
    output = None if stddev is None else stddev / (2 * (number + 1)) ** 0.5
    return {"kernel_stddev": stddev, "output_stddev": output}
