"""Averages the weights of a run's last checkpoints into one that can be evaluated.

python -m tpu_jobs.average_checkpoints --run=runs/mine --last=3
python -m tpu_jobs.evaluate --gin_file=FILE --workdir=runs/mine --checkpoint=PATH
"""

import os
from collections.abc import Sequence

from absl import app, flags

from limoe_tf.train import average
from tpu_jobs import errors, usage


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    flags.DEFINE_string("run", None, "folder of the run whose newest checkpoints are averaged")
    flags.DEFINE_integer("last", 3, "number of checkpoints to average")
    flags.DEFINE_multi_string("path", [], "a checkpoint to average, instead of the newest")
    flags.DEFINE_string("output", None, "path to write; default: in averaged/ of the run's folder")


def run(
    folder: str | None, *, last: int = 3, paths: Sequence[str] = (), output: str | None = None
) -> str:
    """Averages named checkpoints, or the last of a run, and prints what was written.

    Args:
      folder: of the run; may be None where paths and an output are named.
      last: how many of the newest checkpoints.
      paths: checkpoints to average instead of the newest, in the order of their steps.
      output: path to write; None for `averaged/` in the run's folder.

    Returns:
      The path written.

    Raises:
      ValueError: if an argument or a checkpoint is missing, or the checkpoints do not match.
    """
    if folder is None and not (paths and output):
        raise ValueError("--run must be given, or --path and --output.")
    paths = list(paths) or average.newest(os.path.join(folder, "checkpoints"), last=last)
    if output is None:
        name = f"{os.path.basename(paths[-1])}-mean-of-{len(paths)}"
        output = os.path.join(folder, "averaged", name)
    written = average.average(paths, output)
    print(f"the mean of {', '.join(map(os.path.basename, paths))}: {written}", flush=True)
    return written


@errors.in_one_line
def main():
    values = flags.FLAGS
    folder, output = (p and os.path.expanduser(p) for p in (values.run, values.output))
    run(folder, last=values.last, paths=values.path, output=output)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
