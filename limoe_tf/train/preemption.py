"""Stops training when it is told to, with a checkpoint of the last step.

A VM's processes get SIGTERM before it is preempted, Slurm's get SIGUSR1 ahead of the end of a job
if asked for (`--signal=USR1@120`), and SIGINT is Ctrl-C. One process drives all replicas, also
those on the other hosts of a TPU slice, so hosts need not agree on a step: a signal to that process
is enough. If another host is preempted, the running step raises an error; the steps since the last
checkpoint are then repeated. `PreemptionCheckpointHandler` and `PreemptionWatcher` of
`tf.distribute` are not used: both refuse TPUs on Google Cloud.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.steps import was_skipped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def exit_code(number: int) -> int:
    """Returns the exit code of a process that was ended by a signal, as shells report it."""
    return 128 + number


# Job managers restart a job that ends like this.
EXIT_CODE = exit_code(signal.SIGTERM)


class StopOnSignal(keras.callbacks.Callback):
    """On one of `SIGNALS`, saves a checkpoint at the end of the running step and ends the process.

    The exit code is that of a process which the signal has ended: 143 for SIGTERM, 130 for SIGINT,
    138 for SIGUSR1. A second SIGINT ends the process at once, even within a step. If the running
    step was skipped, as not finite, it is not saved: the run then resumes from the checkpoint
    before. Outside of training, and in other threads than the main one, signals are handled as
    before. A signal that is ignored stays ignored, as SIGINT is in a shell's background jobs. If
    `fit` raises an error, and is called again with the same StopOnSignal, a signal in between
    counts.

    Args:
      checkpoints: `limoe_tf.train.checkpoint.Checkpoints` of the model that is trained.
    """

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self._received = None
        self._previous, self._interrupts = {}, None

    def on_train_begin(self, logs=None):
        if self._interrupts is None and threading.current_thread() is threading.main_thread():
            heeded = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._receive) for number in heeded}
            self._interrupts = _Interrupts()

    def on_train_batch_end(self, batch, logs=None):
        if self._received is not None:
            number = self._received
            path = self.checkpoints.latest if was_skipped(logs) else self.checkpoints.save()
            self._restore_handlers()
            name = signal.Signals(number).name
            print(f"\nStopped by {name}. The same command goes on from {path}.", flush=True)
            sys.exit(exit_code(number))

    def on_train_end(self, logs=None):
        self._restore_handlers()

    def _receive(self, number, frame):
        self._received = number

    def _restore_handlers(self):
        if self._interrupts is not None:
            self._interrupts.close()
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous, self._received, self._interrupts = {}, None, None


class _Interrupts:
    """Ends the process at the second SIGINT.

    Python's handlers are called only after the running step, and then once for several signals of a
    kind. So a thread reads the bytes that the interpreter writes at each signal.
    """

    NOTICE = b"\nCtrl-C: a checkpoint follows this step; once more ends at once.\n"

    def __init__(self):
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(self._write)
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def close(self):
        signal.set_wakeup_fd(self._previous)
        os.close(self._write)  # Which ends the thread.
        self._thread.join()

    def _count(self):
        told = False
        with open(self._read, "rb", buffering=0) as pipe:
            while found := pipe.read(1):
                if found[0] == signal.SIGINT and told:
                    os._exit(exit_code(signal.SIGINT))
                if found[0] == signal.SIGINT:
                    told = True
                    with contextlib.suppress(OSError):  # The terminal is gone.
                        os.write(2, self.NOTICE)


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
