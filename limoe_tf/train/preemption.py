"""Stops training when the machine is to be taken away, with a checkpoint of the last step.

One process drives all replicas, those on the other hosts of a TPU slice too, so hosts need not
agree on a step: what that process is told (SIGTERM, which a VM's processes get before it is taken)
goes for all. Of another host that is taken it learns by an error of the running step; the steps
since the last checkpoint are then done again. `PreemptionCheckpointHandler` and `PreemptionWatcher`
of `tf.distribute` are not used: both refuse TPUs on Google Cloud.
"""

import contextlib
import signal
import sys
import threading

import keras
import tensorflow as tf

from limoe_tf.train.steps import was_skipped

# As of a process that SIGTERM has ended: job managers start such a job again.
EXIT_CODE = 143


class StopOnSignal(keras.callbacks.Callback):
    """On SIGTERM, saves a checkpoint at the end of the running step and ends the process.

    The exit code is `EXIT_CODE`. If that step was skipped, as not finite, it is not saved: the run
    then goes on from the checkpoint before. Outside of training, and in other threads than the main
    one, signals do what they did. Where `fit` is left by an error, and called again with the same
    StopOnSignal, a signal in between counts.

    Args:
      checkpoints: `limoe_tf.train.checkpoint.Checkpoints` of the model that is trained.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self._asked = False
        self._before = None

    def on_train_begin(self, logs=None):
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, batch, logs=None):
        if self._asked:
            path = self.checkpoints.latest if was_skipped(logs) else self.checkpoints.save()
            self._give_back()
            print(f"\nStopped by SIGTERM. The same command goes on from {path}.", flush=True)
            sys.exit(EXIT_CODE)

    def on_train_end(self, logs=None):
        self._give_back()

    def _note(self, number, frame):
        self._asked = True

    def _give_back(self):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before, self._asked = None, False


@contextlib.contextmanager
def exit_when_cut_off(checkpoints):
    """Around `fit`: ends the process with `EXIT_CODE` if a host cannot be reached any more.

    Args:
      checkpoints: `limoe_tf.train.checkpoint.Checkpoints`, of which the newest is named.
    """
    try:
        yield
    except (tf.errors.AbortedError, tf.errors.UnavailableError) as error:
        print(
            f"\nStopped: a host, or the data, cannot be reached ({error.message}). "
            f"The same command goes on from {checkpoints.latest}.",
            flush=True,
        )
        sys.exit(EXIT_CODE)
