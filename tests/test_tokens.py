"""Streams become groups and groups become streams again."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import tokens

B, D = 6, 3
STREAMS = {
    "image": tf.reshape(tf.range(B * 5 * D, dtype=tf.float32), [B, 5, D]),
    "text": -tf.reshape(tf.range(B * 2 * D, dtype=tf.float32), [B, 2, D]),
}
VALID = {"image": None, "text": tf.constant([[True, False]] * B)}


def test_a_group_holds_its_images_then_its_texts():
    # Two examples of 2 + 1 tokens, one example a group.
    streams = {"image": tf.constant([[[1.0], [2.0]], [[3.0], [4.0]]]),
               "text": tf.constant([[[5.0]], [[6.0]]])}  # fmt: skip
    valid = {"image": tf.constant([[True, False], [True, True]]), "text": None}
    joined, flags, layout = tokens.join(streams, valid, group_size=1)
    assert joined[..., 0].numpy().tolist() == [[1, 2, 5], [3, 4, 6]]
    assert flags.numpy().tolist() == [[True, False, True], [True, True, True]]
    assert layout.lengths == {"image": 2, "text": 1}
    joined, _, _ = tokens.join(streams, valid)
    assert joined[..., 0].numpy().tolist() == [[1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("group_size", [None, 1, 2, 3, 6])
def test_split_undoes_join(group_size):
    joined, flags, layout = tokens.join(STREAMS, VALID, group_size=group_size)
    size = B if group_size is None else group_size
    assert joined.shape == [B // size, size * 7, D]
    assert flags.shape == joined.shape[:2]
    separated = tokens.split(joined, layout)
    assert list(separated) == ["image", "text"]
    for name, stream in STREAMS.items():
        np.testing.assert_array_equal(separated[name], stream)


def test_segments_cut_a_group_where_the_streams_meet():
    joined, flags, layout = tokens.join(STREAMS, VALID, group_size=2)
    segments = layout.segments(joined)
    np.testing.assert_array_equal(segments["image"], tf.reshape(STREAMS["image"], [3, 10, D]))
    np.testing.assert_array_equal(segments["text"], tf.reshape(STREAMS["text"], [3, 4, D]))
    flags = layout.segments(flags)
    assert flags["image"].numpy().all()
    assert flags["text"].numpy().tolist() == [[True, False] * 2] * 3


@pytest.mark.parametrize("group_size", [None, 2])
def test_the_number_of_examples_need_not_be_known(group_size):
    @tf.function(input_signature=[tf.TensorSpec([None, 5, D]), tf.TensorSpec([None, 2, D])])
    def there_and_back(image, text):
        streams, valid = {"image": image, "text": text}, {"image": None, "text": None}
        joined, flags, layout = tokens.join(streams, valid, group_size=group_size)
        assert joined.shape[2] == D
        assert tokens.sizes(joined)[2] == D
        return joined, flags, tokens.split(joined, layout)

    for examples in (2, 4):
        streams = {name: stream[:examples] for name, stream in STREAMS.items()}
        joined, flags, separated = there_and_back(**streams)
        expected, _, _ = tokens.join(streams, dict(VALID, text=None), group_size=group_size)
        np.testing.assert_array_equal(joined, expected)
        assert flags.numpy().all()
        for name, stream in streams.items():
            np.testing.assert_array_equal(separated[name], stream)


def test_a_group_size_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ValueError, match="`group_size` must divide .* group_size=4, examples=6"):
        tokens.join(STREAMS, VALID, group_size=4)


def test_a_stream_by_position_has_all_first_tokens_in_front():
    stream = tf.constant([[[1], [2], [3]], [[4], [5], [6]]])  # two examples of three tokens
    table = tokens.by_position(stream)
    assert table[:, 0].numpy().tolist() == [1, 4, 2, 5, 3, 6]
    np.testing.assert_array_equal(tokens.from_positions(table, (2, 3)), stream)


def test_a_layout_joins_streams_and_segments_of_groups():
    streams = {"image": tf.reshape(tf.range(24), [8, 3]), "text": -tf.ones([8, 1], tf.int32)}
    joined, _, layout = tokens.join(
        {name: stream[..., tf.newaxis] for name, stream in streams.items()},
        dict.fromkeys(streams), group_size=4,
    )  # fmt: skip
    np.testing.assert_array_equal(layout.join(streams), joined[..., 0])
    np.testing.assert_array_equal(layout.join(layout.segments(joined)), joined)


@pytest.mark.parametrize(
    "share, count, expected",
    [(0.4, 196, 78), (0.4, 16, 6), (0.15, 4, 1), (0.0, 9, 1), (0.01, 9, 1), (1.0, 9, 9)],
)
def test_the_share_of_masked_places_is_rounded_and_never_none(share, count, expected):
    assert tokens.num_masked(share, count) == expected


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match="`share` must be between 0 and 1. Received: share=1.1"):
        tokens.num_masked(1.1, 9)


def called(sets, streams=STREAMS, valid=VALID):
    """What `over_sets` gives, and the shapes and flags with which the function was called."""
    calls = []

    def reversed_tokens(stream, flags):
        calls.append((tuple(stream.shape), None if flags is None else flags.numpy().tolist()))
        return tf.reverse(stream, [1])

    return tokens.over_sets(reversed_tokens, streams, valid, sets), calls


def test_streams_of_a_set_are_one_stream_and_others_stand_alone():
    streams = {**STREAMS, "sound": tf.ones([B, 4, D])}
    found, calls = called([("text", "image")], streams, {**VALID, "sound": None})
    # Texts come first, as in the set, with their flags; images are all valid.
    assert calls == [((B, 7, D), [[True, False, *[True] * 5]] * B), ((B, 4, D), None)]
    assert list(found) == ["image", "text", "sound"]
    joined = tf.reverse(tf.concat([STREAMS["text"], STREAMS["image"]], axis=1), [1])
    np.testing.assert_array_equal(found["text"], joined[:, :2])
    np.testing.assert_array_equal(found["image"], joined[:, 2:])


@pytest.mark.parametrize("sets", [(), [("image",)], [("text", "absent"), ("absent", "other")]])
def test_a_stream_without_others_of_its_set_is_called_as_it_is(sets):
    found, calls = called(sets)
    flags = [[True, False]] * B
    assert sorted(calls, key=str) == [((B, 2, D), flags), ((B, 5, D), None)]
    for name, stream in STREAMS.items():
        np.testing.assert_array_equal(found[name], tf.reverse(stream, [1]))


def test_streams_that_are_all_valid_have_no_flags_together():
    _, calls = called([("image", "text")], valid=dict.fromkeys(STREAMS))
    assert calls == [((B, 7, D), None)]
