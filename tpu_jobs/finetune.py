"""Fine-tunes a pretrained model for the task that a gin file describes, and evaluates it.

    python -m tpu_jobs.finetune --gin_file=gin/finetune/grid_classes.gin \\
        --pretrained=runs/vlmoe_quickstart --workdir=runs/grid_classes

It is `train`, beginning with the backbone of another run and with its vocabulary: logs, resuming,
signals and exit codes are the same.
"""

from absl import app, flags

from tpu_jobs import command, errors, usage
from tpu_jobs.train import train

_PRETRAINED = flags.DEFINE_string(
    "pretrained", None, "run, checkpoint or .keras file of pretraining; 'none' for new weights"
)


@errors.in_one_line
def main():
    if not _PRETRAINED.value:
        raise ValueError("--pretrained must be given: a run, or 'none' for new weights.")
    path = None if _PRETRAINED.value == "none" else _PRETRAINED.value
    train(*command.read(f"tpu_jobs.experiment.Experiment.init_backbone = {path!r}"))


if __name__ == "__main__":
    app.run(main, flags_parser=usage.parse_flags)
