"""Checks, without a TPU, whether the train step of a gin file fits a TPU slice, and how fast it is.

    .venv-tpu/bin/python -m tpu_jobs.compile_check --gin_file=FILE --topology=v5e:4x8 \\
        --global_batch=16384

Exits with 1 if the step does not fit, and then prints the largest buffers.
"""

import copy
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
from absl import app, flags

import gin
from tpu_jobs import command, errors, experiment, tpu_environment, usage

if TYPE_CHECKING:
    from limoe_tf.tpu import compile

_TOPOLOGY = flags.DEFINE_string("topology", None, "TPU slice, such as v5e:4x8 or v5p:4x4x2")
_GLOBAL_BATCH = flags.DEFINE_integer("global_batch", None, "examples of one step on all chips")
_MESH = flags.DEFINE_string(
    "mesh", None, "such as data:4;expert:8; None for as many shards of the experts as fit"
)
_COMPARE = flags.DEFINE_bool("compare_dense", True, "whether the dense model is compiled too")


def check(
    topology: str,
    global_batch: int,
    mesh: str | None = None,
    function: Callable | None = None,
    **changes: Any,
) -> tuple["compile.Compiled", keras.Model]:
    """Compiles the train step, or another function, of the model of the parsed gin files.

    Args:
      topology: such as "v5e:4x8".
      global_batch: examples of one step.
      mesh: shape of the mesh; None for the largest number of shards that fits.
      function: what is compiled, as for `lower.lower`; None for the train step.
      **changes: arguments of the model that differ from the gin files.

    Returns:
      `compile.Compiled`, and the model, whose variables have no values.

    Raises:
      ValueError: if the model, the mesh, the batch and the topology do not match;
        `compile.DoesNotFit` if the memory is not sufficient.
    """
    from limoe_tf.tpu import chips, compile, lower, stateless

    bound = gin.get_bindings(experiment.Experiment, resolve_references=False)
    make_model = bound["model"].scoped_configurable_fn
    _, num_chips = chips.read_topology(topology)
    make_model = functools.partial(make_model, **changes)
    mesh = experiment.replica_mesh(make_model, num_chips, mesh or bound.get("mesh"))

    def make():
        model = make_model(expert_mesh=mesh)
        if bound.get("freeze") is not None:
            model.freeze(bound["freeze"])
        return model

    model = stateless.compiled_without_memory(
        make,
        copy.deepcopy(bound["optimizer"]),
        **{name: copy.deepcopy(bound[name]) for name in experiment.STEP_OPTIONS if name in bound},
    )
    options = {} if function is None else {"function": function}
    program = lower.lower(model, global_batch=global_batch, mesh=mesh, **options)
    return compile.compile_step(program, topology), model


@errors.in_one_line
def main():
    tpu_environment.check_compiler()
    for flag in (_TOPOLOGY, _GLOBAL_BATCH):
        if flag.value is None:
            raise ValueError(f"--{flag.name} must be given.")
    from limoe_tf.tpu import compile, summary

    command.parse()
    arguments = (_TOPOLOGY.value, _GLOBAL_BATCH.value)
    try:
        compiled, model = check(*arguments, mesh=_MESH.value)
    except compile.DoesNotFit as error:
        print("The largest buffers:", *error.largest, sep="\n  ", file=sys.stderr)
        raise
    useful = summary.model_flops(model, _GLOBAL_BATCH.value)
    print(*summary.lines(compiled, useful_flops=useful), sep="\n", flush=True)
    # A model with a backbone hands no plan on.
    if _COMPARE.value and "sparse" in getattr(model, "plan", ()):
        dense, _ = check(*arguments, plan=("dense",) * len(model.plan))
        print(
            f"The dense model of the same width: {dense.seconds * 1e3:.1f} ms; "
            f"the sparse one takes {compiled.seconds / dense.seconds:.2f} times as long"
        )


if __name__ == "__main__":
    app.run(main, flags_parser=usage.parse_flags)
