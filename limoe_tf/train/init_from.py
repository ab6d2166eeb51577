"""The weights that training begins with, taken from another model, of another shape if need be."""

import os
import re
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.train import names, stored, transfer
from limoe_tf.train.checkpoint_files import LEARNING_RATE

_MAX_FAULTS = 20


def init_from(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    optimizer: bool = False,
    experts: Mapping[int, Sequence[int]] | None = None,
    noise: float = 0.0,
    leave: str | None = None,
) -> list[str]:
    """Gives a model the weights of a saved one, by name, on any mesh.

    Shapes may differ in these ways; whatever else does not match is an error that names it:

    * image size: the positions are interpolated, see `positions.resized_grid`;
    * text length: the first positions are taken, or interpolated, see `positions.resized_line`;
    * a block is sparse that was dense: each expert is a copy of the dense MLP, and the router keeps
      its initial value (sparse upcycling);
    * number of experts: more are copies of the old ones, taken in turn, with their columns of the
      router; `experts` says which ones, and must where there are to be fewer.

    A copied expert shares the gate of the one that it copies, and a new router's gates are far
    below 1: until training has changed them, weights of K choices that sum to 1
    (`normalize_gates`) keep a block's output what it was.

    Args:
      model: built Keras model, such as `Limoe`. Nothing is changed if an error is raised before
        values are read.
      path: folder of a run or of checkpoints, of which the newest is taken; a checkpoint; or a
        `.keras` file.
      optimizer: whether the state of the optimizer is taken, too, with its step: each slot as its
        weight, those of interpolated positions and new routers begin anew. If False the optimizer
        stays as it is.
      experts: dict by number of a block, from 0, of the numbers of the saved experts that become
        the model's, in this order.
      noise: deviation of noise on the router's columns of experts that are copied a second time, in
        proportion to the deviation of all its entries. Without router noise in training, a copy
        that is equal to another expert never gets a token.
      leave: pattern of the beginnings of the names of saved weights that the model has no use for;
        None if it must have all.

    Returns:
      List of what was not merely copied, in words.

    Raises:
      ValueError: if something does not match, there is nothing saved at the path, or the model
        belongs with another vocabulary.
      OSError: if the checkpoint cannot be read.

    Reference: https://arxiv.org/abs/2212.05055 (sparse upcycling);
      https://arxiv.org/abs/2604.19835 (experts copied, with their columns of the router).
    """
    checks.number_in("noise", noise, 0)
    variables = _variables(model, optimizer)
    saved = stored.opened(path)
    specs = saved.specs
    if leave is not None:
        specs = {n: s for n, s in specs.items() if not re.match(f"model/({leave})", n)}
    wanted = {name: tf.TensorSpec(v.shape, v.dtype) for name, v in variables.items()}
    found, faults = transfer.parts(wanted, specs, experts=experts, noise=noise)
    if faults:
        raise ValueError(_refusal(saved.place, sorted(faults)))
    companions.join_stored(model, saved.companions, place=repr(saved.place))
    for name, part in found.items():
        if part.source is not None:
            variables[name].assign(part.change(saved.read(part.source)))
    return list(dict.fromkeys(part.note for part in found.values() if part.note))


def _variables(model, optimizer):
    """Returns dict by name of what is to get a value."""
    names.check_built(model)
    if optimizer and getattr(model, "optimizer", None) is None:
        raise ValueError("`optimizer` needs a compiled model. Received: optimizer=True without one")
    named = names.of_state(model) if optimizer else names.of_weights(model)
    kinds = ("model/", "optimizer/")
    wanted = {n: v for n, v in named.items() if n.startswith(kinds) and n != LEARNING_RATE}
    return names.whole(model, wanted)


def _refusal(place, faults):
    shown = faults[:_MAX_FAULTS]
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    return (
        "What a model begins with must match it, but for positions and experts. "
        f"Received: {place!r}\n  " + "\n  ".join(shown)
    )
