"""What a run keeps from start to start, beside its model and optimizer, and how it goes on."""

import os
from typing import NamedTuple

import tensorflow as tf

import gin
from limoe_tf.evaluate import results
from limoe_tf.train import checkpoint_files
from limoe_tf.train.callbacks import read_records
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.rollback import Rollbacks
from tpu_jobs.settings import Settings


class RunState(NamedTuple):
    """What the checkpoints of a run hold beside the model and its optimizer.

    A checkpoint of an earlier version may lack some of it: see `Checkpoints`. Then it has never
    gone back, and its settings are those of `config.gin`.

    Attributes:
      rollbacks: when the run went back, and which batches it leaves out.
      settings: what it is trained with, and was before.
    """

    rollbacks: Rollbacks
    settings: Settings

    def variables(self) -> dict[str, tf.Variable]:
        """Returns dict by name of the variables, as `Checkpoints` takes them for `others`."""
        return {"run/left_out": self.rollbacks.variable, "run/settings": self.settings.variable}

    def restore(self, checkpoints: Checkpoints, workdir: str, *, to_step: int) -> int:
        """Restores the newest checkpoint, if there is one, and changes nothing in the folder.

        Args:
          checkpoints: `Checkpoints` with `variables`.
          workdir: folder of the run.
          to_step: where the run is to end.

        Returns:
          The step to go on from; 0 for a new run.

        Raises:
          ValueError: if something does not fit, or a run was there of which no checkpoint is left.
        """
        is_new = checkpoints.latest is None
        step = checkpoints.restore_latest()
        if is_new:
            check_no_run(workdir)
            self.settings.begin()
            return step
        if step > to_step:
            raise ValueError(
                f"`steps` must be at least the {step} that the run in {workdir!r} has made. "
                f"Received: steps={to_step}"
            )
        self.settings.go_on(step, config=_read(os.path.join(workdir, "config.gin")))
        return step

    def write_config(self, workdir: str) -> None:
        """Writes `config.gin`: what is in effect, and in comments what was before."""
        text = gin.operative_config_str() + self.settings.notes()
        results.write_text(os.path.join(workdir, "config.gin"), text)


def check_no_run(workdir: str) -> None:
    """Checks that a folder without checkpoints does not hold what else a run leaves.

    Raises:
      ValueError: if it does, or there are parts of checkpoints.
    """
    checkpoint_files.check_nothing_lost(os.path.join(workdir, "checkpoints"))
    records = read_records(os.path.join(workdir, "metrics.jsonl"))
    done = max((record["step"] for record in records), default=0)
    if done or tf.io.gfile.exists(os.path.join(workdir, "results.json")):
        raise ValueError(
            "The folder of a run must hold its checkpoints; to begin anew name another folder. "
            f"Received: workdir={workdir!r} without any, in which a run has made {done} steps"
        )


def _read(path):
    if not tf.io.gfile.exists(path):
        return ""
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read().decode("utf-8", errors="replace")
