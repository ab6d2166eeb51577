"""What counts as a caption: a text in which something can be seen."""

import re

import tensorflow as tf

# White space, control characters and whatever else leaves no mark: what Unicode calls ignorable by
# default, signs that stand for missing text, and the sign that SentencePiece puts for a space.
_INVISIBLE = (
    *((0x0, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160)),
    *((0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F)),
    *((0x205F, 0x206F), (0x2581, 0x2581), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFD), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)


def _escaped(code):
    return f"\\x{code:02x}" if code < 256 else chr(code)


_CLASS = "".join(f"{_escaped(first)}-{_escaped(last)}" for first, last in _INVISIBLE)
# TensorFlow lowers no further than to a NUL, so a text ends there.
_BLANK = rf"(?s)[{_CLASS}]*(\x00.*)?"


def is_blank(text: str) -> bool:
    """Returns whether nothing can be seen in a text, so that it has no tokens."""
    return re.fullmatch(_BLANK, text) is not None


def are_blank(texts: tf.Tensor) -> tf.Tensor:
    """Returns <bool>[...], as `is_blank`, of texts <string>[...]; not UTF-8 is not blank."""
    return tf.strings.regex_full_match(texts, _BLANK)
