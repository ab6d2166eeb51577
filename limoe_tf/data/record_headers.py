"""The 12 bytes in front of each record: whether they are sound, and where the next ones stand."""

import numpy as np
import tensorflow as tf

# Before each record stand its length and a checksum of it, behind it stands one of its bytes.
HEADER = np.dtype([("length", "<u8"), ("checksum", "<u4")])
HEADER_BYTES = HEADER.itemsize
FRAME_BYTES = HEADER_BYTES + 4

_CHUNK_BYTES = 1 << 20
# Of the eight bytes of a length these are zero: no record has a tebibyte.
_ZERO_BYTES = (5, 6, 7)


def _checksums(lengths):
    """Returns the checksums <uint32>[n] that stand behind lengths <uint64>[n], not yet masked.

    Reference: CRC-32C, RFC 3720 appendix B.4.
    """
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0x82F63B78, table >> 1).astype(np.uint32)
    crc = np.full(len(lengths), 0xFFFFFFFF, np.uint32)
    for octet in lengths.astype("<u8").view(np.uint8).reshape(-1, 8).T:
        crc = table[(crc ^ octet) & 0xFF] ^ (crc >> 8)
    return ~crc


# A checksum is that of zero, changed by each byte of the length as these say: <int64>[8, 256].
_OF_ZERO = int(_checksums(np.zeros(1, np.uint64))[0])
_CHANGES = np.array(
    [_checksums(np.arange(256, dtype=np.uint64) << np.uint64(8 * i)) ^ _OF_ZERO for i in range(8)],
    np.int64,
)


def are_sound(headers: np.ndarray) -> np.ndarray:
    """Returns <bool>[n]: whether the checksum in headers, a HEADER array [n], fits their length.

    Reference: the checksums are rotated and shifted as TensorFlow's record files are.
    """
    crc = _checksums(headers["length"])
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8) == headers["checksum"]


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string)] + 3 * [tf.TensorSpec([], tf.int64)],
    autograph=False,
)
def read_bytes(path: tf.Tensor, begin: tf.Tensor, count: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Reads some bytes of a file in a graph.

    Args:
      path: <string>[].
      begin: <int64>[] number of the first byte.
      count: <int64>[] how many, at least 1.
      size: <int64>[] bytes of the file.

    Returns:
      <string>[] of `count` bytes.

    Raises:
      tf.errors.OpError: that names the file, if they cannot be read or it has another size now.
    """
    # What stands before and behind is said to be a header and a footer.
    blocks = tf.raw_ops.FixedLengthRecordDatasetV2(
        filenames=path[None],
        header_bytes=begin,
        record_bytes=count,
        footer_bytes=size - begin - count,
        buffer_size=tf.minimum(count, tf.constant(_CHUNK_BYTES, tf.int64)),
        compression_type="",
    )
    blocks = tf.data.experimental.from_variant(blocks, tf.TensorSpec([], tf.string))
    # No `ignore_errors`: this reader fails again and again where the file has another size.
    read = blocks.reduce(tf.constant(""), lambda before, block: before + block)
    rule = "A file of records must stay readable and as it is while it is used. Received:"
    same = tf.debugging.Assert(tf.cast(tf.strings.length(read), tf.int64) == count, [rule, path])
    with tf.control_dependencies([same]):
        return tf.identity(read)


def find(
    path: tf.Tensor, first: tf.Tensor, size: tf.Tensor, *, within: int | None = None
) -> tf.Tensor:
    """Finds the next place in a file where a record may begin: a sound header and enough bytes.

    Args:
      path: <string>[].
      first: <int64>[] the first place that comes into question.
      size: <int64>[] bytes of the file.
      within: how many places are looked at; None means all.

    Returns:
      <int64>[] the place, or `size` if there is none.
    """
    first, size = tf.cast(first, tf.int64), tf.cast(size, tf.int64)
    last = size - FRAME_BYTES
    if within is not None:
        last = tf.minimum(last, first + within - 1)

    def go_on(place, found):
        return (place <= last) & (found == size)

    def look(place, found):
        del found
        count = tf.minimum(tf.constant(_CHUNK_BYTES, tf.int64), last + 1 - place)
        places = place + _sound_places(
            _octets(read_bytes(path, place, count + HEADER_BYTES - 1, size)), size - place
        )
        return place + count, tf.reduce_min(tf.concat([places, size[None]], 0))

    return tf.while_loop(go_on, look, (first, size))[1]


def _octets(text):
    return tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int64)


def _sound_places(octets, rest):
    """Returns the places <int64>[m] in <int64>[n] at which a sound header stands.

    Args:
      octets: what is looked through.
      rest: <int64>[] bytes from the first of them to the end of the file.
    """
    count = tf.size(octets) - (HEADER_BYTES - 1)
    likely = tf.ones([count], tf.bool)
    for number in _ZERO_BYTES:
        likely &= octets[number : number + count] == 0
    places = tf.where(likely)[:, 0]
    headers = tf.gather(octets, places[:, None] + tf.range(HEADER_BYTES, dtype=tf.int64))
    fits = places + FRAME_BYTES + _lengths(headers) <= rest
    return tf.boolean_mask(places, fits & _checksums_fit(headers))


def _lengths(headers):
    """Returns the lengths <int64>[m] of headers <int64>[m, 12]; too long ones become negative."""
    return _number(headers[:, :8])


def _number(octets):
    # Tensors have no operator that shifts.
    return tf.reduce_sum(octets * [256**i for i in range(octets.shape[1])], axis=1)


def _checksums_fit(headers):
    """Returns <bool>[m], as `are_sound`, of headers <int64>[m, 12] in a graph."""
    changes = tf.gather(_CHANGES.reshape(-1), headers[:, :8] + [256 * i for i in range(8)])
    for half in (4, 2, 1):
        changes = changes[:, :half] ^ changes[:, half:]
    crc = changes[:, 0] ^ _OF_ZERO
    crc = (crc // 2**15 | crc * 2**17) + 0xA282EAD8 & 0xFFFFFFFF
    return crc == _number(headers[:, 8:])
