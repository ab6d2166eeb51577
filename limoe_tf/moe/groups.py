"""Groups of a batch that `group_size` does not divide: the last one is smaller.

Axis letters: B examples, N tokens of a stream, D width, G groups, S tokens in a group.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from limoe_tf import tokens


def filled(
    streams: Mapping[str, tf.Tensor],
    valid: Mapping[str, tf.Tensor | None],
    *,
    group_size: int | None,
) -> tuple[Mapping[str, tf.Tensor], Mapping[str, tf.Tensor | None]]:
    """Returns streams and flags with as many examples of padding as the last group lacks.

    Padding takes no slot and counts in no mean. Streams that are known to be whole groups are
    returned as they are.

    Args:
      streams: dict of <float>[B, N, D].
      valid: dict of <bool>[B, N], or None where every token is valid.
      group_size: examples in a group; None for one group of all.
    """
    examples = num_examples(streams)
    if _all_whole(examples, group_size):
        return streams, valid
    lacking = -examples % group_size
    flags = {
        name: tf.ones(tokens.sizes(stream)[:2], tf.bool) if valid[name] is None else valid[name]
        for name, stream in streams.items()
    }
    return _longer(streams, lacking), _longer(flags, lacking)


def num_examples(streams: Mapping[str, tf.Tensor]) -> int | tf.Tensor:
    """Returns B, an int where it is known."""
    return tokens.sizes(next(iter(streams.values())))[0]


def _all_whole(examples, group_size):
    """Returns whether it is known that all groups have the same size."""
    return group_size is None or (isinstance(examples, int) and examples % group_size == 0)


def _longer(values, lacking):
    return {
        name: tf.pad(value, [[0, lacking]] + [[0, 0]] * (value.shape.rank - 1))
        for name, value in values.items()
    }


def cut(streams: Mapping[str, tf.Tensor], examples: int | tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns streams without the padding of `filled`.

    Args:
      streams: dict of <float>[B or more, N, D].
      examples: B.
    """
    return {
        name: stream if stream.shape[0] == examples else stream[:examples]
        for name, stream in streams.items()
    }


def slots_taken(
    num_slots: Callable[[int | tf.Tensor], int | tf.Tensor],
    joined: tf.Tensor,
    *,
    examples: int | tf.Tensor,
    group_size: int | None,
) -> int | tf.Tensor:
    """Returns how many slots of an expert each group may take: fewer for the smaller last one.

    Args:
      num_slots: function of the tokens in a group.
      joined: <float>[G, S, D], of `filled` streams.
      examples: B, without padding.
      group_size: examples in a group, or None.

    Returns:
      int or <int32>[] for all groups, or <int32>[G, 1, 1].
    """
    groups, size, _ = tokens.sizes(joined)
    whole = num_slots(size)
    if _all_whole(examples, group_size):
        return whole
    of_last = num_slots(size // group_size * (examples % group_size))
    is_whole = tf.range(groups) < examples // group_size
    return tf.where(is_whole, whole, of_last)[:, tf.newaxis, tf.newaxis]
