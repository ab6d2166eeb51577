"""Which stored value becomes which of a model of another shape, and how.

Names are those of checkpoints. What holds for a weight holds for its slots in the optimizer, whose
names are the weight's with one part more. Axis letters: E experts.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf.train import positions

# What has an axis of experts, or counts the router's draws: kind of state, path of the block, that
# of the layer, which variable, which slot.
_SPARSE = re.compile(
    r"(?P<kind>model|optimizer)/(?P<block>.*\bblock_(?P<number>\d+))/(?P<layer>.+)/(?:"
    r"experts/(?P<part>kernel|bias)_(?P<end>in|out)|router/(?P<router>kernel\w*|draws)"
    r")(?P<slot>/\w+)?"
)
_POSITIONS = re.compile(
    r"(?P<kind>model|optimizer)/(?:backbone/)?(?P<modality>image|text)_embed/positions\b.*"
)


class Part(NamedTuple):
    """How one value comes from the stored ones.

    Attributes:
      source: name of the stored one; None leaves the initial value.
      change: function of its array.
      note: what is done, in words; None where it is only copied.
    """

    source: str | None
    change: Callable[[np.ndarray], np.ndarray] = np.asarray
    note: str | None = None


def parts(
    wanted: Mapping[str, tf.TensorSpec],
    stored: Mapping[str, tf.TensorSpec],
    *,
    experts: Mapping[int, Sequence[int]] | None = None,
    noise: float = 0.0,
) -> tuple[dict[str, Part], list[str]]:
    """Finds a source for each value of a model.

    Args:
      wanted: dict by name of the model's `tf.TensorSpec`.
      stored: the same of what was saved.
      experts: see `init_from.init_from`.
      noise: see there.

    Returns:
      dict of `Part` by the names of `wanted`, and a list of what does not fit, in words.
    """
    experts, found, faults = dict(experts or {}), {}, []
    for name, spec in wanted.items():
        try:
            found[name] = _part(name, spec, stored, experts, noise)
        except ValueError as error:
            faults.append(str(error))
    used = {part.source for part in found.values()}
    # Slots that the model's optimizer lacks are of no use to it.
    left = [name for name in stored if name.startswith("model/") and name not in used]
    faults += [f"not in the model: {name}" for name in left if name not in wanted]
    matches = [_SPARSE.fullmatch(name) for name in wanted.keys() & stored]
    blocks = {int(match["number"]) for match in matches if match}
    faults += [f"experts: block {one} is not sparse in both" for one in {*experts} - blocks]
    return found, list(dict.fromkeys(faults))


def _part(name, spec, stored, experts, noise):
    sparse, table = _SPARSE.fullmatch(name), _POSITIONS.fullmatch(name)
    if name not in stored:
        for layer in _dense_layers(sparse) if sparse else ():
            if f"model/{layer}/mlp_in/kernel" in stored:
                return _of_dense(spec, stored, sparse, layer)
        raise ValueError(f"not in the checkpoint: {name}")
    own = stored[name]
    by_expert = sparse and sparse["router"] != "draws"
    if by_expert and (own.shape != spec.shape or int(sparse["number"]) in experts):
        return _of_experts(name, spec, own, sparse, experts, noise)
    if table and own.shape != spec.shape:
        return _resized(name, spec, own, table)
    _check_same(name, own, spec)
    return Part(name)


def _check_same(name, own, spec):
    if own.shape != spec.shape or own.dtype != spec.dtype:
        raise ValueError(f"{name}: {_shown(own)}, in the model {_shown(spec)}")


def _shown(spec):
    return f"{spec.dtype.name}{spec.shape.as_list()}"


def _dense_layers(sparse):
    """Returns where the dense MLP may be: that of the block, or of the modality alone."""
    return f"{sparse['block']}/mlp", f"{sparse['block']}/{sparse['layer']}"


def _of_dense(spec, stored, sparse, layer):
    """Every expert is a copy of the block's dense MLP; the router keeps its initial value."""
    if sparse["router"]:
        return Part(None)
    number, layer = spec.shape[0], f"{sparse['kind']}/{layer}"
    source = f"{layer}/mlp_{sparse['end']}/{sparse['part']}{sparse['slot'] or ''}"
    if source not in stored:
        raise ValueError(f"not in the checkpoint: {source}")
    own = stored[source]
    _check_same(f"experts of {source}", tf.TensorSpec([number, *own.shape], own.dtype), spec)
    note = f"{_layer(sparse)}: {number} experts, copies of the dense MLP; a new router"
    return Part(source, lambda value: np.broadcast_to(value, (number, *value.shape)), note)


def _of_experts(name, spec, own, sparse, experts, noise):
    """Some of the stored experts, each as often as it is named."""
    axis = 1 if sparse["router"] else 0
    old, new = own.shape[axis], spec.shape[axis]
    shape = own.shape.as_list()
    shape[axis] = new
    _check_same(f"experts of {name}", tf.TensorSpec(shape, own.dtype), spec)
    layer, chosen = _layer(sparse), experts.get(int(sparse["number"]))
    if chosen is None:
        if new < old:
            raise ValueError(
                f"{layer}: {old} experts, in the model {new}; `experts` says which stay"
            )
        chosen = [number % old for number in range(new)]
    chosen = list(chosen)
    if len(chosen) != new or not all(0 <= expert < old for expert in chosen):
        raise ValueError(f"{layer}: experts {chosen} of {old}, in the model {new}")
    if chosen == list(range(old)):
        return Part(name)
    if sparse["router"] and sparse["kind"] == "model" and noise:
        change = functools.partial(_with_noise, chosen=chosen, noise=noise, name=name)
    else:
        change = functools.partial(np.take, indices=chosen, axis=axis)
    return Part(name, change, f"{layer}: experts {chosen} of {old}")


def _with_noise(kernel, *, chosen, noise, name):
    """Returns the chosen columns <float>[D, E]; those that are there already get noise."""
    columns = np.take(kernel, chosen, axis=1)
    again = [expert in chosen[:place] for place, expert in enumerate(chosen)]
    # Of the name alone: the same in every process of a run.
    draws = np.random.default_rng(list(name.encode())).normal(size=columns.shape)
    return columns + (noise * kernel.std() * draws * again).astype(columns.dtype)


def _layer(sparse):
    return f"block_{sparse['number']}/{sparse['layer']}"


def _resized(name, spec, own, table):
    """Positions of another number of tokens; their slots begin anew."""
    old, new = own.shape[0], spec.shape[0]
    _check_same(name, tf.TensorSpec([new, *own.shape[1:]], own.dtype), spec)
    if table["kind"] == "optimizer":
        return Part(None)
    note = f"{table['modality']} positions: {old} to {new}"
    if table["modality"] == "text":
        change, how = positions.resized_line, "interpolated" if new > old else "the first ones"
    else:
        change, how = positions.resized_grid, "interpolated"
        positions.sides_of(old, new)
    return Part(name, functools.partial(change, num_tokens=new), f"{note}, {how}")
