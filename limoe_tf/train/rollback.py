"""Going back to a checkpoint, and leaving out the batches from there to where it went wrong."""

import json

import tensorflow as tf

from limoe_tf import checks


class Rollbacks:
    """How often a run has gone back, and which batches it leaves out for that.

    The batch of a step is the one whose number is the step's plus `shift`. Going back to a
    checkpoint raises `shift`, so that training goes on with the batch after the last one that was
    read: what led to the trouble is not read again.

    `variable` belongs in the run's checkpoints: `Checkpoints(..., others={"run/left_out":
    rollbacks.variable})`. So a run that is killed reads on where it would have.

    Args:
      max_rollbacks: how often the run may go back in all.
    """

    def __init__(self, max_rollbacks=3):
        self.max_rollbacks = checks.integer_in("max_rollbacks", max_rollbacks, 0)
        self.variable = tf.Variable("[]", name="left_out")

    @property
    def done(self):
        """A dict for each time: `step`, `first_batch`, `next_batch`, and what was `found`."""
        return json.loads(self.variable.numpy())

    @property
    def shift(self):
        """The number of the next batch, less that of the steps taken."""
        done = self.done
        return done[-1]["next_batch"] - done[-1]["step"] if done else 0

    def go_back(self, checkpoints, error, *, every_steps):
        """Restores the newest checkpoint from before the trouble.

        Args:
          checkpoints: `Checkpoints` with `variable`.
          error: `watch.TooManySkipped`.
          every_steps: steps between two checkpoints, see `Checkpoints.restore_before`.

        Raises:
          ValueError: if the run has gone back `max_rollbacks` times; each is named.
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

    def report(self):
        """Returns in one line when the run went back and why; "" if it never has."""
        return "; ".join(
            f"to step {one['step']}, leaving out batches {one['first_batch']} to "
            f"{one['next_batch'] - 1}, for {one['found']}"
            for one in self.done
        )
