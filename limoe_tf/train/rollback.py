"""Rollback to a checkpoint, skipping the batches from there to those that were not finite."""

import json
from typing import Any

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.watch import TooManySkipped


class Rollbacks:
    """The rollbacks of a run, and which batches it skips because of them.

    The batch of a step is the one whose number is the step's plus `shift`. A rollback increases
    `shift`, so that training continues with the batch after the last one that was read: the batches
    that led to numbers that are not finite are not read again.

    `variable` belongs in the run's checkpoints: `Checkpoints(..., others={"run/left_out":
    rollbacks.variable})`. So a run that is killed and resumed reads the same batches.

    Args:
      max_rollbacks: how often the run may roll back in total.
    """

    def __init__(self, max_rollbacks: int = 3):
        self.max_rollbacks = checks.integer_in("max_rollbacks", max_rollbacks, 0)
        self.variable = tf.Variable("[]", name="left_out")

    @property
    def done(self) -> list[dict[str, Any]]:
        """A dict for each rollback: `step`, `first_batch`, `next_batch`, and what was `found`."""
        return json.loads(self.variable.numpy())

    @property
    def shift(self) -> int:
        """The number of the next batch, minus the number of steps taken."""
        done = self.done
        return done[-1]["next_batch"] - done[-1]["step"] if done else 0

    def go_back(self, checkpoints: Checkpoints, error: TooManySkipped, *, every_steps: int) -> None:
        """Restores the newest checkpoint from before the skipped steps.

        Args:
          checkpoints: `Checkpoints` with `variable`.
          error: `watch.TooManySkipped`.
          every_steps: steps between two checkpoints, see `Checkpoints.restore_before`.

        Raises:
          ValueError: if the run has rolled back `max_rollbacks` times; each is named.
        """
        done, next_batch = self.done, error.last_step + self.shift
        if len(done) >= self.max_rollbacks:
            raise ValueError(
                f"{error}; the run may go back max_rollbacks={self.max_rollbacks} times, and has: "
                f"{self.report() or 'never'}"
            ) from error
        step = checkpoints.restore_before(error.first_step, every_steps=every_steps)
        # The shift is now that of the checkpoint.
        first = step + self.shift
        new = {"step": step, "first_batch": first, "next_batch": next_batch, "found": error.found}
        self.variable.assign(json.dumps([*done, new]))

    def report(self) -> str:
        """Returns all rollbacks and their reasons in one line; "" if there are none."""
        return "; ".join(
            f"to step {one['step']}, leaving out batches {one['first_batch']} to "
            f"{one['next_batch'] - 1}, for {one['found']}"
            for one in self.done
        )
