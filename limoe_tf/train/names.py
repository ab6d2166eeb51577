"""Names of a model's and its optimizer's variables, the same in every process and on every mesh."""

import collections
import re
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf.mesh import shards
from limoe_tf.train.optimizer import is_expert


def check_built(model: keras.Model) -> None:
    """Raises ValueError if a model has no variables yet."""
    if not model.built or not model.weights:
        raise ValueError(
            "`model` must be built: call it on a batch first. "
            f"Received: model={model.name!r} without variables"
        )


def of_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns name -> Keras variable of all weights, trainable and not."""
    names = _names_of(model)
    return _distinct((f"model/{names[id(v)]}", v) for v in model.weights)


def of_variables(model: keras.Model, variables: Sequence[keras.Variable]) -> list[str]:
    """Returns the names, as of `of_weights`, of some of the weights."""
    by_id = {id(variable): name for name, variable in of_weights(model).items()}
    return [by_id[id(variable)] for variable in variables]


def of_state(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns name -> Keras variable of the weights, the optimizer's state and the random seeds.

    Args:
      model: a compiled Keras model whose variables exist.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)
    names = _names_of(model)
    # Of frozen ones too: an optimizer may have trained them before.
    owners = {v.path.replace("/", "_"): names[id(v)] for v in model.weights}
    seeds = [v for v in model.variables if id(v) not in names]
    return {
        **of_weights(model),
        **_distinct((f"optimizer/{_slot_name(v.name, owners)}", v) for v in optimizer.variables),
        **{f"seeds/{i}": v for i, v in enumerate(seeds)},
    }


def _names_of(model):
    """Returns id -> name of each weight: its path, with Keras' layer numbers counted from 0."""
    siblings = {}
    return {
        id(v): _renumbered(v.path.removeprefix(f"{model.name}/"), siblings) for v in model.weights
    }


def _renumbered(path, siblings):
    """Returns `path` with `dense_7/...` as `dense/...` if dense_7 is the first dense of its parent.

    Layers numbered by hand, which begin at 0 or 00, keep their numbers. `siblings` collects the
    children seen so far.
    """
    parent = ""
    for part in path.split("/"):
        number = re.fullmatch(r"(.+)_[1-9]\d*", part)
        stem = number[1] if number else part
        by_hand = any((parent, f"{stem}_{zero}") in siblings for zero in ("0", "00", "000"))
        group = siblings.setdefault((parent, part if by_hand else stem), [])
        if part not in group:
            group.append(part)
        index = group.index(part)
        part = part if by_hand else f"{stem}_{index}" if index else stem
        parent = f"{parent}/{part}"
    return parent[1:]


def _slot_name(name, owners):
    """Returns the name of an optimizer's variable, below the name of the weight it belongs to."""
    owner = name
    while "_" in owner:
        owner = owner.rpartition("_")[0]
        if owner in owners:
            return f"{owners[owner]}/{name[len(owner) + 1 :]}"
    return name


def _distinct(pairs):
    """Returns the pairs as a dict; the second variable of a name is called name:2, and so on."""
    named, count = {}, collections.Counter()
    for name, variable in pairs:
        count[name] += 1
        named[name if count[name] == 1 else f"{name}:{count[name]}"] = variable
    return named


def whole(
    model: keras.Model, named: Mapping[str, keras.Variable]
) -> dict[str, tf.Variable | shards.Whole]:
    """Returns a model's variables by name, those of sharded experts as a whole."""
    mesh = getattr(model, "expert_mesh", None)
    return {
        name: shards.as_whole(variable.value, mesh) if is_expert(name) else variable.value
        for name, variable in named.items()
    }
