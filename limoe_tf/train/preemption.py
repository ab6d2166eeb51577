"""Stops training when the machine is preempted, with a checkpoint of the last step.

One process drives all replicas, also those on the other hosts of a TPU slice, so hosts need not
agree on a step: a SIGTERM to that process, which a VM's processes get before it is preempted, is
enough. If another host is preempted, the running step raises an error; the steps since the last
checkpoint are then repeated. `PreemptionCheckpointHandler` and `PreemptionWatcher`
of `tf.distribute` are not used: both refuse TPUs on Google Cloud.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.steps import was_skipped

# As of a process that was ended by SIGTERM: job managers restart such a job.
EXIT_CODE = 143


class StopOnSignal(keras.callbacks.Callback):
    """On SIGTERM, saves a checkpoint at the end of the running step and ends the process.

    The exit code is `EXIT_CODE`. If that step was skipped, as not finite, it is not saved: the run
    then resumes from the checkpoint before. Outside of training, and in other threads than the main
    one, signals are handled as before. If `fit` raises an error, and is called again with the same
    StopOnSignal, a signal in between counts.

    Args:
      checkpoints: `limoe_tf.train.checkpoint.Checkpoints` of the model that is trained.
    """

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self._received = False
        self._previous = None

    def on_train_begin(self, logs=None):
        if self._previous is None and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)

    def on_train_batch_end(self, batch, logs=None):
        if self._received:
            path = self.checkpoints.latest if was_skipped(logs) else self.checkpoints.save()
            self._restore_handler()
            print(f"\nStopped by SIGTERM. The same command goes on from {path}.", flush=True)
            sys.exit(EXIT_CODE)

    def on_train_end(self, logs=None):
        self._restore_handler()

    def _receive(self, number, frame):
        self._received = True

    def _restore_handler(self):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous, self._received = None, False


@contextlib.contextmanager
def exit_when_cut_off(checkpoints: Checkpoints) -> Iterator[None]:
    """Around `fit`: ends the process with `EXIT_CODE` if a host can no longer be reached.

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
