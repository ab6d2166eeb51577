"""Captions made from class labels, so that labelled images can be used as image-text pairs."""

import os
from collections.abc import Sequence

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.captions import are_blank, is_blank
from limoe_tf.data.records import Source

_ORDERS = ("record", "shuffled")


class LabelCaptions:
    """A labelled source whose records have a caption: the names of their classes, comma-separated.

    A record with the labels of a dog and a ball gets the caption "dog, ball". A repeated class
    appears once, and underscores become spaces. With several templates a record has one caption
    for each; training draws one, as it does from the captions of any record.

    A record without a label, or with a label that has no name, is a bad record: it is skipped and
    counted. Negative labels are ignored. If more of the source is unlabelled than `BadRecords`
    allows, raise its `max_share`.

    Args:
      source: TfdsSource or TfrecordSource.
      class_names: a name for each label, as a list or as the path of a text file with one name a
        line; None for those of the source.
      templates: prompts with "{}" where the names go.
      order: "record" lists the classes in the order of the record; "shuffled" lets training shuffle
        them each time, as a function of the seed and the position. Everything except training
        uses the order of the record.
      text_labels: True if the source's captions are class names themselves, such as keywords.

    Raises:
      ValueError: if the source has no labels, there are fewer names than its classes, a name is
        empty, a template does not have one "{}", or there is no such file.
    """

    has_captions = True

    def __init__(
        self,
        source: Source,
        *,
        class_names: Sequence[str] | str | os.PathLike | None = None,
        templates: Sequence[str] = ("{}",),
        order: str = "record",
        text_labels: bool = False,
    ):
        self._source = source
        self.name = f"{source.name} (class names)"
        self.files = source.files
        self.has_images, self.has_labels = source.has_images, source.has_labels
        self.order = checks.one_of("order", order, _ORDERS)
        self.text_labels = text_labels
        self.label_names = _names(source, class_names, text_labels)
        self.templates = tuple(checked_templates(templates, once=True))

    def parse(self, serialized: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Parses one record; see `TfrecordSource.parse`.

        Args:
          serialized: <string>[] a record of the source.
          seed: <int64>[2] decides the order of shuffled names; None keeps that of the record.

        Returns:
          dict as the source's, with captions <string>[T] for T templates, or <string>[0] if the
          record has no label or one without a name.
        """
        record = self._source.parse(serialized)
        names = record["captions"] if self.text_labels else self._names_of(record["labels"])
        names = tf.boolean_mask(names, ~are_blank(tf.strings.regex_replace(names, "_", " ")))
        names = tf.unique(tf.strings.strip(names)).y
        if seed is not None and self.order == "shuffled":
            # The seed itself draws one of the captions.
            names = tf.random.experimental.stateless_shuffle(names, tf.random.fold_in(seed, 1))
        caption = tf.strings.regex_replace(tf.strings.reduce_join(names, separator=", "), "_", " ")
        before, after = zip(*(template.split("{}") for template in self.templates))
        captions = tf.strings.join([tf.constant(before), caption, tf.constant(after)])
        some = tf.repeat(tf.size(names) > 0, len(self.templates))
        return {**record, "captions": tf.boolean_mask(captions, some)}

    def why_no_caption(self, record: dict[str, tf.Tensor]) -> str:
        """Returns the reason why a record that `parse` returned has no caption."""
        if not self.text_labels:
            unnamed = record["labels"][record["labels"] >= len(self.label_names)]
            if tf.size(unnamed):
                return f"label {unnamed[0]} without a name, there are {len(self.label_names)}"
        return "no label"

    def _names_of(self, labels):
        all_named = tf.reduce_all(labels < len(self.label_names))
        return tf.gather(self.label_names, tf.boolean_mask(labels, (labels >= 0) & all_named))


def _names(source, class_names, text_labels):
    if text_labels:
        if class_names is not None or not source.has_captions:
            raise ValueError(
                "`text_labels` needs a source with captions and no `class_names`. "
                f"Received: source={source.name!r}, class_names={class_names!r}"
            )
        return source.label_names
    if not source.has_labels:
        raise ValueError(f"`source` must have labels. Received: source={source.name!r}")
    if isinstance(class_names, (str, os.PathLike)):
        class_names = read_names(class_names)
    names = class_names or source.label_names
    if not names:
        raise ValueError(f"`class_names` must be given: {source.name!r} names none.")
    if len(names) < len(source.label_names or ()):
        raise ValueError(
            f"`class_names` must name all {len(source.label_names)} classes of {source.name!r}. "
            f"Received: {len(names)} names"
        )
    if empty := [label for label, name in enumerate(names) if is_blank(name.replace("_", " "))]:
        raise ValueError(f"`class_names` must not be empty. Received: no name for label {empty[0]}")
    return list(names)


def read_names(path: str | os.PathLike, *, argument: str = "class_names") -> list[str]:
    """Reads class names from a text file with one name a line.

    Args:
      path: the file.
      argument: its name in errors.

    Raises:
      ValueError: if there is no such file.
    """
    with tf.io.gfile.GFile(checks.existing_file(argument, path)) as file:
        return [line.strip() for line in file.read().rstrip().splitlines()]


def checked_templates(templates: Sequence[str], *, once: bool = False) -> Sequence[str]:
    """Returns the prompts if they are a list and each contains "{}", or contains it `once`.

    Raises:
      TypeError: if they are not a list.
      ValueError: if there are none, or one does not contain "{}".
    """
    if isinstance(templates, str):
        raise TypeError(f"`templates` must be a list. Received: templates={templates!r}")
    if not templates:
        raise ValueError("`templates` must hold at least one template. Received: none")
    for template in templates:
        if template.count("{}") != 1 and (once or "{}" not in template):
            times = " once" if once else ""
            raise ValueError(f'`templates` must each hold "{{}}"{times}. Received: {template!r}')
    return templates
