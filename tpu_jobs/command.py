"""The flags that the jobs of a run share."""

import os

import tensorflow as tf
from absl import flags

from limoe_tf import checks
from limoe_tf.mesh import system
from tpu_jobs import gin_files
from tpu_jobs.experiment import Experiment

_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "gin file, such as runs/quickstart.gin, your own or one of the package"
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "line that is added to the gin files: 'Name.argument = value'"
)
_TPU = flags.DEFINE_string("tpu", None, "train on a TPU: 'local' on a TPU VM, or its name")
_REPLICAS = flags.DEFINE_integer("replicas", 1, "replicas on this host's GPUs, or logical CPUs")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")


def read(*lines: str) -> tuple[Experiment, str]:
    """Returns the Experiment that the flags describe, and the folder of the run.

    Args:
      *lines: more lines of gin, behind those of the flags.

    Raises:
      ValueError: if a flag is missing, the gin files are wrong, or there is no such TPU.
    """
    parse(*lines)
    strategy, workdir = place()
    with strategy.scope():
        return gin_files.build(), workdir


def place() -> "tuple[tf.distribute.Strategy, str]":
    """Returns the distribution strategy and the folder of the run that the flags specify.

    Raises:
      ValueError: if --workdir is missing or contains a character of path patterns, or there is no
        such TPU.
    """
    if not _WORKDIR.value:
        raise ValueError("--workdir must be given.")
    workdir = checks.plain_path("workdir", os.path.expanduser(_WORKDIR.value))
    strategy = system.of_tpu(_TPU.value) if _TPU.value else system.of_host(_REPLICAS.value)
    return strategy, workdir


def parse(*lines: str) -> None:
    """Parses the gin files and bindings that the flags specify, and more lines of gin.

    Raises:
      ValueError: if the flag is missing, or a gin file is wrong.
    """
    if not _GIN_FILE.value:
        raise ValueError("--gin_file must be given.")
    gin_files.parse(_GIN_FILE.value, [*_GIN_PARAM.value, *lines])
