"""Stops training when it is told to, with a checkpoint of the last step.

SIGTERM is what a VM's processes get before it is taken, SIGUSR1 what Slurm sends ahead of the end
of a job where it is asked to (`--signal=USR1@120`), SIGINT is Ctrl-C. One process drives all
replicas, those on the other hosts of a TPU slice too, so hosts need not agree on a step: what that
process is told goes for all. Of another host that is taken it learns by an error of the running
step; the steps since the last checkpoint are then done again. `PreemptionCheckpointHandler` and
`PreemptionWatcher` of `tf.distribute` are not used: both refuse TPUs on Google Cloud.
"""

import contextlib
import os
import signal
import sys
import threading

import keras
import tensorflow as tf

from limoe_tf.train.steps import was_skipped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def exit_code(number):
    """Returns the exit code of a process that a signal has ended, as shells give it."""
    return 128 + number


# Job managers start a job again that ends like this.
EXIT_CODE = exit_code(signal.SIGTERM)


class StopOnSignal(keras.callbacks.Callback):
    """On one of `SIGNALS`, saves a checkpoint at the end of the running step and ends the process.

    The exit code is that of a process which the signal has ended: 143 for SIGTERM, 130 for SIGINT,
    138 for SIGUSR1. A second SIGINT ends the process at once, even within a step. If the running
    step was skipped, as not finite, it is not saved: the run then goes on from the checkpoint
    before. Outside of training, and in other threads than the main one, signals do what they did;
    one that is ignored, as shells tell jobs in the background to ignore SIGINT, stays ignored.
    Where `fit` is left by an error, and called again with the same StopOnSignal, a signal in
    between counts.

    Args:
      checkpoints: `limoe_tf.train.checkpoint.Checkpoints` of the model that is trained.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self._asked = None
        self._before, self._interrupts = {}, None

    def on_train_begin(self, logs=None):
        if self._interrupts is None and threading.current_thread() is threading.main_thread():
            heeded = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
            self._interrupts = _Interrupts()

    def on_train_batch_end(self, batch, logs=None):
        if self._asked is not None:
            number = self._asked
            path = self.checkpoints.latest if was_skipped(logs) else self.checkpoints.save()
            self._give_back()
            name = signal.Signals(number).name
            print(f"\nStopped by {name}. The same command goes on from {path}.", flush=True)
            sys.exit(exit_code(number))

    def on_train_end(self, logs=None):
        self._give_back()

    def _note(self, number, frame):
        self._asked = number

    def _give_back(self):
        if self._interrupts is not None:
            self._interrupts.close()
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before, self._asked, self._interrupts = {}, None, None


class _Interrupts:
    """Ends the process at the second SIGINT.

    Python's handlers wait for the running step, and then see two signals as one. So a thread reads
    what the interpreter writes at each signal, whatever the main thread does.
    """

    NOTICE = b"\nCtrl-C: a checkpoint follows this step; once more ends at once.\n"

    def __init__(self):
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write)
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def close(self):
        signal.set_wakeup_fd(self._before)
        os.close(self._write)  # At which the thread ends.
        self._thread.join()

    def _count(self):
        told = False
        with open(self._read, "rb", buffering=0) as pipe:
            while found := pipe.read(1):
                if found[0] == signal.SIGINT and told:
                    os._exit(exit_code(signal.SIGINT))
                if found[0] == signal.SIGINT:
                    told = True
                    with contextlib.suppress(OSError):  # A terminal that is gone.
                        os.write(2, self.NOTICE)


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
