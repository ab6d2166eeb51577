"""Streams joined into groups of tokens, and groups split into streams again.

Axis letters: B examples, N tokens of a stream, D width, G groups, S tokens in a group.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

# The name of a stream that is handed over as a plain tensor, where no modality names it.
PLAIN = "tokens"


# No tuple: Keras refuses call arguments that nest integers with tensors, and that is what sizes are
# where the batch size is not known.
@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each stream's tokens are in a group: one segment after another.

    Attributes:
      shapes: dict of `(B, N)` by stream name, in the order of the segments; ints where known.
      lengths: dict of the tokens of that stream in one group.
    """

    shapes: dict[str, tuple]
    lengths: dict[str, int]

    def segments(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Cuts `values` [G, S, ...] into a dict of [G, length, ...] by stream."""
        parts = tf.split(values, list(self.lengths.values()), axis=1)
        return dict(zip(self.lengths, parts))

    def join(self, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Joins a dict of [B, N, ...] or [G, length, ...] by stream to [G, S, ...]."""
        return _in_groups(values, -1, self.lengths)


def modality_of(stream: str) -> str:
    """Returns the modality of a stream by its name: "text" of "text" and of "pair_text"."""
    return stream.rpartition("_")[2]


def is_plain(streams: Any) -> bool:
    """Returns whether this is one tensor [B, N, D], or its shape, and not a dict by stream."""
    return not isinstance(streams, Mapping)


def width_of(streams_shape: Any) -> int:
    """Returns D, of the shape of a plain tensor or a dict of shapes.

    Raises:
      ValueError: if it is not known.
    """
    shape = streams_shape if is_plain(streams_shape) else next(iter(streams_shape.values()))
    if not shape or shape[-1] is None:
        raise ValueError(f"`streams` must have a known width. Received: shape={shape}")
    return shape[-1]


def as_streams(
    streams: tf.Tensor | Mapping[str, tf.Tensor],
    valid: tf.Tensor | Mapping[str, tf.Tensor | None] | None = None,
    *,
    mask: Any = None,
    name: str = PLAIN,
    width: int | None = None,
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor | None]]:
    """Returns streams and their valid flags as dicts, whether or not they are a plain tensor.

    Args:
      streams: dict of <float>[B, N, D], or one <float>[B, N, D].
      valid: the same of <bool>[B, N], False on padding, with None for a stream of valid tokens
        alone. None as a whole: what `mask` says.
      mask: Keras' mask of `streams`, of the same form as `valid`.
      name: of the stream that a plain tensor is.
      width: D that is expected; None for any.

    Raises:
      ValueError: if shapes do not fit each other or `width`, or flags are missing.
      TypeError: if flags are not <bool>.
    """
    valid = mask if valid is None else valid
    if is_plain(streams):
        streams, valid = {name: streams}, {name: valid}
    elif valid is None:
        valid = dict.fromkeys(streams)
    _check_shapes(streams, width)
    for key, stream in streams.items():
        if key not in valid:
            raise ValueError(f"`valid` must name every stream. Received: {sorted(valid)}")
        _check_flags(key, valid[key], stream)
    return dict(streams), dict(valid)


class StreamsLayer(keras.layers.Layer):
    """A layer from streams to streams of the same shapes and a Report, or from a tensor to one.

    A mask of Keras is handed on with a plain tensor alone: streams have their valid flags.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    compute_output_spec = keras.Operation.compute_output_spec  # By tracing, with the Report.

    def compute_output_shape(self, streams_shape, valid_shape=None):
        return streams_shape

    @property
    def output_shape(self):
        """The shape of the only stream; layers of several, or of a plain tensor, have none.

        `summary()` reads it. A dict of one shape is a KeyError there in Keras 3.12, the newest for
        Python 3.10.
        """
        shapes = (self._build_shapes_dict or {}).get("streams_shape")
        if is_plain(shapes) or len(shapes) != 1:
            raise AttributeError(f"{self.name} has no single `output_shape`")
        return next(iter(shapes.values()))

    def compute_mask(self, streams, previous_mask):
        return previous_mask if is_plain(streams) else None


def as_stream(
    stream: tf.Tensor, valid: tf.Tensor | None = None, *, mask: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns one stream and its valid flags, checked; see `as_streams`."""
    streams, flags = as_streams(stream, valid, mask=mask)
    return streams[PLAIN], flags[PLAIN]


def _check_shapes(streams, width):
    shapes = {name: tuple(stream.shape) for name, stream in streams.items()}
    of_rank_3 = shapes and all(len(shape) == 3 for shape in shapes.values())
    batches = {shape[0] for shape in shapes.values() if shape} - {None}
    widths = {shape[-1] for shape in shapes.values() if shape}
    if not of_rank_3 or len(batches) > 1 or len(widths) > 1:
        raise ValueError(
            "`streams` must have the shape (batch, tokens, width), with one batch and one width "
            f"for all. Received: shapes={shapes}"
        )
    if width is not None and widths != {width}:
        raise ValueError(
            f"`streams` must have the width={width} that the layer was built for. "
            f"Received: shapes={shapes}"
        )


def _check_flags(name, flags, stream):
    if flags is None:
        return
    if flags.dtype != tf.bool:
        raise TypeError(f"`valid` must be bool. Received: {name} of dtype={flags.dtype.name}")
    if not flags.shape.is_compatible_with(stream.shape[:2]):
        raise ValueError(
            "`valid` must have the shape (batch, tokens) of its stream. "
            f"Received: {name} of shape={tuple(flags.shape)} for {tuple(stream.shape)}"
        )


def sizes(tensor: tf.Tensor) -> list:
    """Returns the shape as a list: ints where they are known, scalar tensors elsewhere."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]


def join(
    streams: Mapping[str, tf.Tensor],
    valid: Mapping[str, tf.Tensor | None],
    *,
    group_size: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor, Layout]:
    """Joins streams into groups, each laid out as [tokens of the first stream; of the second ...].

    Args:
      streams: dict of <float>[B, N, D]; all streams have the same B and D.
      valid: dict of <bool>[B, N], False on padding, or None where every token is valid.
      group_size: examples in a group; must divide B. One group of the whole batch if None.

    Returns:
      <float>[G, S, D] tokens, <bool>[G, S] valid, and the Layout that `split` needs.

    Raises:
      ValueError: if `group_size` does not divide the batch.
    """
    shapes = {name: tuple(sizes(stream)[:2]) for name, stream in streams.items()}
    batch = next(iter(shapes.values()))[0]
    if group_size is None:
        groups, group_size = 1, batch
    else:
        if isinstance(batch, int) and batch % group_size:
            raise ValueError(
                "`group_size` must divide the number of examples of a replica's batch. "
                f"Received: group_size={group_size}, examples={batch}"
            )
        groups = batch // group_size
    lengths = {name: group_size * length for name, (_, length) in shapes.items()}
    flags = {
        name: tf.ones(shape, tf.bool) if valid[name] is None else valid[name]
        for name, shape in shapes.items()
    }
    tokens, flags = (_in_groups(values, groups, lengths) for values in (streams, flags))
    return tokens, flags, Layout(shapes, lengths)


def _in_groups(values, groups, lengths):
    """Joins a dict by stream; `lengths` are each stream's tokens in one of the groups."""
    parts = [
        tf.reshape(values[name], [groups, length, *values[name].shape[2:]])
        for name, length in lengths.items()
    ]
    return tf.concat(parts, axis=1)


def split(tokens: tf.Tensor, layout: Layout) -> dict[str, tf.Tensor]:
    """Splits groups back into streams; the inverse of `join`.

    Args:
      tokens: <float>[G, S, D].
      layout: the Layout returned by `join`.

    Returns:
      dict of <float>[B, N, D].
    """
    width = tokens.shape[-1]
    return {
        name: tf.reshape(part, [*layout.shapes[name], width])
        for name, part in layout.segments(tokens).items()
    }


def num_masked(share: float, count: int) -> int:
    """Returns how many of `count` places are masked: the nearest number to `share`, at least one.

    Args:
      share: in 0..1.
      count: 1 or more.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` must be between 0 and 1. Received: share={share}")
    return max(1, round(share * count))


def over_sets(
    function: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
    streams: Mapping[str, tf.Tensor],
    valid: Mapping[str, tf.Tensor | None],
    sets: Sequence[Sequence[str]] = (),
) -> dict[str, tf.Tensor]:
    """Applies a function of one stream to streams that are laid one behind the other.

    Args:
      function: of a stream <float>[B, N, D] and its valid flags <bool>[B, N], or None, to a stream
        of the same shape.
      streams: dict of <float>[B, N, D].
      valid: dict of <bool>[B, N], False on padding, or None where every token is valid.
      sets: names of streams that are one for the function. Those that are absent are left out; a
        stream of no set stands alone.

    Returns:
      dict of <float>[B, N, D], in the order of `streams`.
    """
    outputs = {}
    present = [[name for name in names if name in streams] for names in sets]
    alone = [[name] for name in streams if not any(name in names for names in present)]
    for names in filter(None, [*present, *alone]):
        parts, flags = [streams[name] for name in names], [valid[name] for name in names]
        if len(names) == 1:
            outputs[names[0]] = function(parts[0], flags[0])
            continue
        if any(flag is not None for flag in flags):
            flags = [
                tf.ones(sizes(part)[:2], tf.bool) if flag is None else flag
                for part, flag in zip(parts, flags)
            ]
        joined_flags = None if flags[0] is None else tf.concat(flags, axis=1)
        output = function(tf.concat(parts, axis=1), joined_flags)
        lengths = [part.shape[1] for part in parts]
        outputs.update(zip(names, tf.split(output, lengths, axis=1)))
    return {name: outputs[name] for name in streams}


def by_position(stream: tf.Tensor) -> tf.Tensor:
    """Returns [B, N, ...] as a table [N * B, ...]: all first tokens, then all second ones.

    TPUs lay streams out like this where N does not fill their tiles, so nothing is copied.
    """
    order = [1, 0, *range(2, stream.shape.rank)]
    return tf.reshape(tf.transpose(stream, order), [-1, *stream.shape[2:]])


def from_positions(table: tf.Tensor, shape: Sequence) -> tf.Tensor:
    """Returns a table [N * B, ...] as [B, N, ...], for `shape` (B, N); undoes `by_position`."""
    batch, length = shape
    stream = tf.reshape(table, [length, batch, *table.shape[1:]])
    return tf.transpose(stream, [1, 0, *range(2, stream.shape.rank)])
