"""Which patches and which words are masked, as functions of numbers that are drawn elsewhere.

Axis letters: B examples, U drawn numbers of an example, P patches of an image, N word pieces of a
text, M masked places.
"""

import math

import tensorflow as tf

from limoe_tf.tokens import num_masked

# Numbers that one try to mask a block takes: area, aspect, row, column.
_OF_TRY = 4
_TRIES = 40
# So many tries in a row that add nothing end the search for blocks.
_MAX_FAILED = 10
_ASPECTS = (0.3, 1 / 0.3)
_OF_WORD = 3
_SHOW_MASK, _SHOW_RANDOM = 0.8, 0.1


def num_patch_draws(num_patches: int) -> int:
    """Returns U of `masked_patches`."""
    return _OF_TRY * _TRIES + num_patches


def masked_patches(draws: tf.Tensor, *, num_patches: int, share: float) -> tf.Tensor:
    """Masks blocks of neighbouring patches, exactly as many as asked for.

    A try draws an area, between a twelfth of all patches (at least two) and what is left to mask,
    an aspect between 0.3 and 1 / 0.3, its logarithm uniform, and a place. The block is taken if it
    adds a patch and no more than what is left. After ten failures in a row, what is missing is
    drawn patch by patch. Patches in the middle are masked far more often than those in corners.

    Args:
      draws: <float32>[B, U] uniform in [0, 1).
      num_patches: P, of a square.
      share: of the patches, in 0..1.

    Returns:
      <int32>[B, M] places in ascending order, row by row of the image.

    Raises:
      ValueError: if P is no square, or `share` is out of range.

    Reference: https://arxiv.org/abs/2106.08254, algorithm 1.
    """
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"`num_patches` must be a square. Received: num_patches={num_patches}")
    quota = num_masked(share, num_patches)
    tries = tf.reshape(draws[:, : _OF_TRY * _TRIES], [-1, _TRIES, _OF_TRY])
    tries = tf.transpose(tries, [1, 2, 0])
    least = float(max(2, round(16 * num_patches / 196)))
    places = tf.range(side)

    def attempt(number, masked, failed):
        area, aspect, row, column = tf.unstack(tries[number])
        left = quota - tf.reduce_sum(tf.cast(masked, tf.int32), axis=1)
        area = least + area * (tf.cast(left, tf.float32) - least)
        area = tf.maximum(area, 1.0)
        low, high = map(math.log, _ASPECTS)
        aspect = tf.exp(low + aspect * (high - low))
        height = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
        width = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
        fits = (height >= 1) & (width >= 1) & (height < side) & (width < side)
        block = (
            _within(places, row, height, side)[:, :, tf.newaxis]
            & _within(places, column, width, side)[:, tf.newaxis, :]
        )
        block = tf.reshape(block, [-1, num_patches])
        added = tf.reduce_sum(tf.cast(block & ~masked, tf.int32), axis=1)
        taken = fits & (added > 0) & (added <= left) & (failed < _MAX_FAILED)
        masked |= block & taken[:, tf.newaxis]
        return number + 1, masked, tf.where(taken, 0, failed + 1)

    masked = tf.zeros([tf.shape(draws)[0], num_patches], tf.bool)
    failed = tf.zeros([tf.shape(draws)[0]], tf.int32)
    _, masked, _ = tf.while_loop(
        lambda number, *_: number < _TRIES, attempt, (0, masked, failed), parallel_iterations=1
    )
    # Masked ones first, then others in the order of what was drawn for each.
    order = tf.where(masked, 2.0, draws[:, _OF_TRY * _TRIES : num_patch_draws(num_patches)])
    return tf.sort(tf.math.top_k(order, quota).indices, axis=1)


def _within(places, draw, length, side):
    """Returns <bool>[B, side]: the places of a run of `length` <int32>[B] at a drawn start."""
    room = tf.cast(tf.maximum(side - length, 0) + 1, tf.float32)
    start = tf.cast(tf.floor(draw * room), tf.int32)[:, tf.newaxis]
    return (places >= start) & (places < start + length[:, tf.newaxis])


def num_word_draws(text_length: int) -> int:
    """Returns U of `masked_words`."""
    return _OF_WORD * text_length


def masked_words(
    draws: tf.Tensor,
    text: tf.Tensor,
    text_valid: tf.Tensor,
    *,
    words: list[int],
    vocabulary_size: int,
    share: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Masks a share of the words of each text, never padding or special tokens.

    Of the masked places 80 % show the mask, 10 % a random word and 10 % what was there.

    Args:
      draws: <float32>[B, U] uniform in [0, 1).
      text: <int32>[B, N] ids.
      text_valid: <bool>[B, N] False on padding.
      words: ids of what can be masked, see `words.Vocabulary.words`.
      vocabulary_size: number of ids; the id behind the last is the mask.
      share: of a text's words, in 0..1.

    Returns:
      shown: <int32>[B, N] what the model sees.
      places: <int32>[B, M] with M for a text of words alone but for its end.
      present: <bool>[B, M] whether a place is masked: of shorter texts the last are not.

    Reference: https://arxiv.org/abs/1810.04805, section 3.1.
    """
    length = text.shape[1]
    of_all = num_masked(share, length - 1)
    order, change, new = tf.unstack(tf.reshape(draws, [-1, _OF_WORD, length]), axis=1)
    is_word = tf.scatter_nd(
        tf.constant(words)[:, tf.newaxis], tf.ones(len(words)), [vocabulary_size]
    )
    maskable = (tf.gather(is_word, text) > 0) & text_valid
    count = tf.reduce_sum(tf.cast(maskable, tf.float32), axis=1)
    wanted = tf.minimum(tf.maximum(tf.round(share * count), 1.0), count)
    ranked = tf.where(maskable, order, -1.0)
    places = tf.math.top_k(ranked, of_all).indices
    present = tf.range(of_all) < tf.cast(wanted, tf.int32)[:, tf.newaxis]
    marks = tf.one_hot(places, length, on_value=True, off_value=False, dtype=tf.bool)
    chosen = tf.reduce_any(marks & present[..., tf.newaxis], axis=1)
    random = tf.gather(words, tf.cast(new * len(words), tf.int32))
    replaced = tf.where(change < _SHOW_MASK + _SHOW_RANDOM, random, text)
    replaced = tf.where(change < _SHOW_MASK, vocabulary_size, replaced)
    return tf.where(chosen, replaced, text), places, present
