"""A source of texts alone: plain text files with one text a line."""

import tensorflow as tf

from limoe_tf.data import many_files, record_heads
from limoe_tf.data.captions import are_blank
from limoe_tf.data.records import RecordFile

_NO_TEXT = "nothing to be seen in the line"
_BYTE_ORDER_MARK = "\ufeff"


class TextSource:
    """The lines of UTF-8 text files, one text a line, for texts alone.

    Blank lines are passed over and are no records: numbers of records do not count them. A line
    that is not UTF-8, too long, or in which nothing can be seen is a bad record.

    Args:
      pattern: path or glob of the files. What is compressed or no text is left out, and named.

    Raises:
      ValueError: if no file matches, none is a text, or one cannot be read.
    """

    has_images = False
    has_captions = True
    has_labels = False
    label_names = None

    def __init__(self, pattern: str):
        self.name = pattern
        files = [RecordFile(path, 0, -1, of_lines=True) for path in many_files.matching(pattern)]
        self.files = record_heads.look_at_texts(files, name=pattern)

    def parse(self, line: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns dict of `captions` <string>[1] of a line <string>[]; see `TfrecordSource.parse`.

        It is <string>[0] if nothing can be seen in the line.
        """
        del seed
        text = tf.strings.regex_replace(line, f"^{_BYTE_ORDER_MARK}", "")[None]
        return {"captions": tf.boolean_mask(text, ~are_blank(text))}

    def why_no_caption(self, record: dict[str, tf.Tensor]) -> str:
        """See `TfrecordSource.why_no_caption`."""
        del record
        return _NO_TEXT
