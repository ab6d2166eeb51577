"""Fits the codebook of patches, the targets of masked images, to the images of a source.

    python -m tpu_jobs.build_patch_codes --source=grid_scenes --num_codes=64 --patch_size=16 \\
        --image_size=64 --output=codebook.npz
    python -m tpu_jobs.build_patch_codes --source=grid_scenes --num_codes=64 --features=limoe \\
        --workdir=runs/quickstart --output=codebook.npz

With --features=limoe the codes are those of the patch features of a LIMoE that a run has trained.
Prints how many codes are used and the two floors that stand beside the loss of masked patches.
"""

import os

from absl import app, flags

from limoe_tf.model.limoe import Limoe
from tpu_jobs import command, errors, evaluation, usage
from tpu_jobs.build_vocabulary import define_source_flags, source_of_flags
from tpu_jobs.patch_codebook import build


def define_flags() -> None:
    """Defines the flags; not done at import, so that other jobs can be in the same process."""
    define_source_flags()
    flags.DEFINE_enum("features", "looks", ("looks", "limoe"), "what of a patch gets a code")
    flags.DEFINE_string("checkpoint", None, "of the LIMoE's run, other than the newest")
    flags.DEFINE_string("output", None, "file to write, which ends with .npz")
    flags.DEFINE_integer("num_codes", 512, "codes of the codebook")
    flags.DEFINE_integer("patch_size", None, "side of a patch, pixels; default: 16, or the LIMoE's")
    flags.DEFINE_integer("image_size", None, "side of the images; default: 224, or the LIMoE's")
    flags.DEFINE_integer("max_images", 4096, "images to fit to")
    flags.DEFINE_integer("seed", 0, "of the order of the images and of the first centres")
    flags.DEFINE_bool("overwrite", False, "whether an existing file may be replaced")
    flags.mark_flags_as_required(["source", "output"])


def _limoe_of_flags():
    """Returns the model of the run that the flags name, with its weights, or None."""
    values = flags.FLAGS
    if values.features == "looks":
        if values.workdir or values.checkpoint:
            raise ValueError(
                "--workdir and --checkpoint are for --features=limoe. "
                f"Received: workdir={values.workdir!r}, checkpoint={values.checkpoint!r}"
            )
        return None
    workdir = command.place()[1]
    model = evaluation.of_run(workdir, values.gin_param).model
    if not isinstance(model, Limoe):
        raise ValueError(f"The run must be of a LIMoE. Received: {type(model).__name__}")
    evaluation.restore(model, workdir, values.checkpoint)
    return model


@errors.in_one_line
def main():
    values, limoe = flags.FLAGS, _limoe_of_flags()
    sizes = {"patch_size": 16, "image_size": 224}
    if limoe is not None:
        sizes = {"patch_size": limoe.image_embed.patch_size, "image_size": limoe.image_size}
    build(
        source_of_flags(images_only=True),
        path=os.path.expanduser(values.output),
        num_codes=values.num_codes,
        patch_size=sizes["patch_size"] if values.patch_size is None else values.patch_size,
        image_size=sizes["image_size"] if values.image_size is None else values.image_size,
        limoe=limoe,
        max_images=values.max_images,
        seed=values.seed,
        overwrite=values.overwrite,
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=usage.parse_flags)
