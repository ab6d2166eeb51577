"""What must be set and installed before a step can be lowered and compiled for TPUs.

It stands outside of the package, whose import is that of TensorFlow, which loads libtpu.
"""

import os
from importlib import metadata

# Without all of these libtpu asks a cloud's metadata server when it is loaded, for minutes.
_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
    "TPU_HOST_BOUNDS": "1,1,1",
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Two checks may run at once: none of them holds a chip.
    "TF_CPP_MIN_LOG_LEVEL": "3",  # Otherwise it says at length that there is no TPU.
}
_PACKAGES = ("tensorflow-tpu", "libtpu", "jax", "jaxlib")


def prepare():
    """Keeps libtpu from looking for a TPU; call it before TensorFlow and JAX are imported.

    Raises:
      ValueError: if a package is missing, as in the environment for training on CPUs.
    """
    missing = []
    for package in _PACKAGES:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        raise ValueError(
            "The TPU compiler needs an environment of its own: `make venv-tpu` makes it in "
            f".venv-tpu. Received: a Python without {', '.join(missing)}"
        )
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
