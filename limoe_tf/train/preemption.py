"""Stops training when the machine is to be taken away, with a checkpoint of the last step."""

import signal
import sys
import threading

import keras

# As of a process that SIGTERM has ended: job managers start such a job again.
EXIT_CODE = 143


class StopOnSignal(keras.callbacks.Callback):
    """On SIGTERM, saves a checkpoint at the end of the running step and ends the process.

    The exit code is `EXIT_CODE`. Outside of training, and in other threads than the main one,
    signals do what they did.

    Args:
      checkpoints: `limoe_tf.train.checkpoint.Checkpoints` of the model that is trained.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self._asked = False
        self._before = None

    def on_train_begin(self, logs=None):
        self._asked = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, batch, logs=None):
        if self._asked:
            path = self.checkpoints.save()
            self._give_back()
            print(f"\nStopped by SIGTERM; {path} is the last step. The same command goes on from "
                  "there.", flush=True)  # fmt: skip
            sys.exit(EXIT_CODE)

    def on_train_end(self, logs=None):
        self._give_back()

    def _note(self, number, frame):
        self._asked = True

    def _give_back(self):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
