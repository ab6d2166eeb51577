"""Small runs of the jobs, called in this process."""

import contextlib
import json
import pathlib

import pytest
from absl import flags
from absl.testing import flagsaver

import gin
from limoe_tf.data import grid_questions, grid_scenes, shapes

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = [
    "BATCH_SIZE = 8",
    "STEPS = 6",
    "schedule.Cosine.warmup_steps = 2",
    "limoe.Limoe.from_size.width = 16",
    "limoe.Limoe.from_size.hidden_width = 32",
    "limoe.Limoe.from_size.depth = 2",
    'limoe.Limoe.from_size.plan = ("dense", "sparse")',
    "limoe.Limoe.from_size.patch_size = 16",
    "limoe.Limoe.from_size.num_experts = 8",
    "limoe.Limoe.from_size.vocabulary_size = 80",
    "experiment.Experiment.log_every_steps = 1",
    "experiment.Experiment.checkpoint_every_steps = 2",
    # So that drawn numbers take part in what an interruption must not change.
    "batches.training_batches.crop = 'random_resized_crop'",
    "batches.training_batches.flip = True",
]

SMALL_VLMOE = [
    "BATCH_SIZE = 4",
    "STEPS = 4",
    "schedule.Cosine.warmup_steps = 2",
    "vlmoe.VlMoe.from_size.width = 16",
    "vlmoe.VlMoe.from_size.hidden_width = 16",
    "vlmoe.VlMoe.from_size.depth = 2",
    'vlmoe.VlMoe.from_size.plan = ("sparse", "dense")',
    "vlmoe.VlMoe.from_size.num_codes = 6",
    "vlmoe.VlMoe.from_size.drop_path = 0.2",
    "experiment.Experiment.log_every_steps = 1",
    "experiment.Experiment.checkpoint_every_steps = 2",
    "masked_modelling.MaskedLosses.batch_size = 10",
    "masked_modelling.MaskedLosses.num_batches = 1",
    "masked_modelling.Fusion.batch_size = 10",
    "masked_modelling.Fusion.num_batches = 1",
]


# What a model that is fine-tuned has no use for.
_OF_PRETRAINING = (
    "vlmoe.VlMoe.from_size.num_codes", "masked_modelling.", "sources.TfdsSource.data_dir",
)  # fmt: skip


@contextlib.contextmanager
def few_shapes(folder):
    """Gives the bindings of a small run on a few shapes, which are built in a folder meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SPLITS", {"train": 60, "validation": 5, "test": 30})
        yield [*SMALL, f"sources.TfdsSource.data_dir = {json.dumps(str(folder))}"]


@contextlib.contextmanager
def few_scenes(folder):
    """Gives the bindings of a small run of VL-MoE on a few scenes, which are built meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_scenes, "SPLITS", {"train": 80, "validation": 1, "test": 30})
        patch.setattr(grid_scenes, "TRAIN_SCENES", {"40k": 80, "1m": 80})
        yield [*SMALL_VLMOE, f"sources.TfdsSource.data_dir = {json.dumps(str(folder))}"]


@contextlib.contextmanager
def few_questions(folder, lines):
    """Gives the lines of a small run that asks the model of another one, with data of its own.

    Args:
      folder: of the data.
      lines: of gin, as of `few_scenes`.
    """
    kept = [one for one in lines if not one.startswith(_OF_PRETRAINING)]
    # Of so few scenes not all questions have answers.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_questions, "SPLITS", {"train": 40, "validation": 1, "test": 12})
        yield [
            *kept,
            "rates.rate_factors.depth = 2",
            f"sources.TfdsSource.data_dir = {json.dumps(str(folder))}",
        ]


def call(job, path, workdir, bindings, **others):
    """Calls a job's main function with flags in place of the command line's; returns its code."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["job"])
    values = {"gin_file": [str(path)], "gin_param": bindings, "workdir": str(workdir), **others}
    with flagsaver.flagsaver(**values):
        code = job.main(["job"])
    gin.clear_config()
    return code


def the_error(capsys):
    """Returns the line of error, less lines of TensorFlow's own."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def flat(tree):
    """Returns nested dicts as one, of numbers by path."""
    leaves = {}
    for key, value in tree.items():
        below = flat(value) if isinstance(value, dict) else {"": value}
        leaves.update({f"{key}/{path}": number for path, number in below.items()})
    return leaves
