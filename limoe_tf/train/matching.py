"""Whether a checkpoint holds the variables of a model, no more and no less."""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import tensorflow as tf

# The suffix of each name in TensorFlow's checkpoints.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_MAX_FAULTS = 20


def check(
    path: str | os.PathLike,
    reader: Any,
    variables: Mapping[str, tf.Variable],
    *,
    optional: Collection[str],
    frozen: Iterable[str],
    weights_only: bool,
) -> None:
    """Raises ValueError, which names the variables concerned, if a checkpoint does not fit.

    Args:
      path: of the checkpoint.
      reader: of TensorFlow, of the checkpoint.
      variables: dict by name of what is to be restored.
      optional: names of variables that a checkpoint may lack.
      frozen: names of weights that are frozen in the model or in the checkpoint: what an optimizer
        has of them may be lacking in the other.
      weights_only: whether optimizer and seeds in the checkpoint are of no concern.
    """
    kinds = ("model/",) if weights_only else ("model/", "optimizer/", "seeds/")
    slots = tuple(f"optimizer/{name}/" for name in frozen)
    dtypes = reader.get_variable_to_dtype_map()
    stored = {
        key.removesuffix(SUFFIX): f"{dtypes[key].name}{shape}"
        for key, shape in reader.get_variable_to_shape_map().items()
        if key.startswith(kinds) or key.removesuffix(SUFFIX) in variables
    }
    wanted = {
        name: f"{variable.dtype.name}{variable.shape.as_list()}"
        for name, variable in variables.items()
    }
    differing = [name for name in wanted.keys() & stored if wanted[name] != stored[name]]
    lacking = wanted.keys() - stored - set(optional)
    faults = [
        *(f"not in the checkpoint: {name}" for name in lacking if not name.startswith(slots)),
        *(f"not in the model: {n}" for n in stored.keys() - wanted if not n.startswith(slots)),
        *(f"{name}: {stored[name]}, in the model {wanted[name]}" for name in differing),
    ]
    if faults:
        shown = sorted(faults)[:_MAX_FAULTS]
        if len(faults) > len(shown):
            shown.append(f"and {len(faults) - len(shown)} more")
        raise ValueError(
            "The checkpoint must hold the variables of the model, no more and no less. "
            f"Received: path={os.fspath(path)!r}\n  " + "\n  ".join(shown)
        )
