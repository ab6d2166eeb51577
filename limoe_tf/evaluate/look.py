"""A first look at the data of an evaluation, so that what is wrong is found before training."""

from typing import Any

from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import all_labels, evaluation_batches
from limoe_tf.data.mixture import Mixture
from limoe_tf.data.records import Source

_IMAGES = 16
# All of any usual test set, and of a larger one as much as is read in a minute.
_LABELS = 50_000


def first(source: Source, model: Any, *, resize: str = "resize") -> None:
    """Reads the first images of a source, with what else it has.

    Args:
      source: TfdsSource, TfrecordSource or LabelCaptions.
      model: has the `image_size`.
      resize: see `data.images.evaluation_image`.

    Raises:
      ValueError: if the source is empty, or none or too few of the records before them are sound.
    """
    bad_records = BadRecords()
    batches = evaluation_batches(
        source,
        batch_size=_IMAGES,
        image_size=model.image_size,
        resize=resize,
        bad_records=bad_records,
    )
    with bad_records.as_value_error():
        if not list(batches.take(1)):
            raise ValueError(f"A source must have sound records. Received: {source.name!r}")


def labels(source: Source, *, most: int | None = None) -> tuple[list[list[int]], bool]:
    """Reads the labels of a source, the first 50,000 if there are more.

    Args:
      source: a source with labels.
      most: read the first so many only; None sets no other limit.

    Returns:
      list of lists of labels, and whether they are all that were asked for.
    """
    wanted = _LABELS + 1 if most is None else min(most, _LABELS + 1)
    found = all_labels(source, most=wanted)
    return found[:_LABELS], len(found) <= _LABELS


def parts(source: Source | Mixture) -> list[Source]:
    """Returns the parts of a mixture, or the source alone."""
    return list(source.parts.values()) if isinstance(source, Mixture) else [source]


def with_captions(source: Any, *, may_be_mixture: bool = False) -> Source:
    """Returns the source as `checked_source` does; raises ValueError if it has no captions."""
    if not checked_source(source, may_be_mixture=may_be_mixture).has_captions:
        raise ValueError(f"`source` must have captions. Received: source={source.name!r}")
    return source


def with_labels(source: Any) -> Source:
    """Returns the source as `checked_source` does; raises ValueError if it has no labels."""
    if not checked_source(source).has_labels:
        raise ValueError(f"`source` must have labels. Received: source={source.name!r}")
    return source


def checked_source(source: Any, *, name: str = "source", may_be_mixture: bool = False) -> Source:
    """Returns the source.

    Args:
      source: what is said to be one.
      name: of the argument.
      may_be_mixture: whether a Mixture will do.

    Raises:
      TypeError: if it is none, or a Mixture where that will not do.
    """
    if not hasattr(source, "has_captions"):
        raise TypeError(
            f"`{name}` must be a source, such as a data.sources.TfrecordSource. "
            f"Received: {name}={source!r}"
        )
    if isinstance(source, Mixture) and not may_be_mixture:
        raise TypeError(f"`{name}` must be one source, not a Mixture. Received: {source.name}")
    return source
