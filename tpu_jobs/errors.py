"""User errors, printed as one line."""

import functools
import re
import sys
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import flags, logging


def in_one_line(
    job: Callable[..., None], *, takes_arguments: bool = False
) -> Callable[[Sequence[str]], int]:
    """Wraps a function as the main function of a program, for `absl.app.run`.

    A ValueError, TypeError or OSError, which user errors raise here, and TensorFlow's errors about
    files become one line on stderr and exit code 1. With --verbosity=1 the traceback is also shown.
    Ctrl-C becomes one line and exit code 130.

    Args:
      job: function without arguments.
      takes_arguments: whether it is called with the list of positional arguments, which are an
        error otherwise.
    """

    @functools.wraps(job)
    def main(argv):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if takes_arguments:
                job(argv[1:])
                return 0
            if len(argv) > 1:
                raise ValueError(f"Flags are written --name=value. Received: {' '.join(argv[1:])}")
            job()
        except (OSError, TypeError, ValueError, tf.errors.OpError) as error:
            logging.debug("Traceback:", exc_info=True)
            print(f"error: {_one_line(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nerror: stopped by Ctrl-C", file=sys.stderr)
            return 130
        return 0

    return main


def _one_line(error):
    # gin appends the calls in which an error was raised, the innermost first; Keras prints it in
    # bold among arguments.
    message, *calls = str(error).split("\n  In call to configurable")
    if bold := re.search(r"\033\[1m(.+?)\033\[0m", message, re.DOTALL):
        message = bold[1]
    if calls and (called := re.search(r"<class '[\w.]*?(\w+\.\w+)'>", calls[0])):
        message += f" ({called[1]})"
    return "; ".join(line.strip() for line in message.splitlines() if line.strip())
