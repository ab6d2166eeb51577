"""Environment variables that libtpu needs before it is loaded, which importing TensorFlow does."""

import glob
import os
from importlib import metadata

# Without all of these libtpu queries a cloud's metadata server for minutes when it is loaded.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
    "TPU_HOST_BOUNDS": "1,1,1",
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Two processes may run at once: neither uses a chip.
    "TF_CPP_MIN_LOG_LEVEL": "3",  # Otherwise it logs at length that there is no TPU.
}
_COMPILER = ("tensorflow-tpu", "libtpu", "jax", "jaxlib")


def prepare() -> None:
    """Prevents libtpu from searching for a TPU on a machine that has none."""
    if _is_installed("libtpu") and not has_tpu():
        for name, value in _WITHOUT_TPU.items():
            os.environ.setdefault(name, value)


def has_tpu() -> bool:
    """Returns whether this machine is a TPU VM."""
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def check_compiler() -> None:
    """Raises a ValueError if a package of the TPU compiler is missing."""
    missing = [package for package in _COMPILER if not _is_installed(package)]
    if missing:
        raise ValueError(
            "The TPU compiler needs a separate environment: `make venv-tpu` creates it in "
            f".venv-tpu. Received: a Python without {', '.join(missing)}"
        )


def _is_installed(package):
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
