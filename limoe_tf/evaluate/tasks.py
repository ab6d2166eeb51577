"""The evaluations of a run: each is called with a model and a vocabulary and returns numbers."""

from limoe_tf import checks
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import evaluation_batches, training_batches
from limoe_tf.evaluate import retrieval, routing, zero_shot
from limoe_tf.evaluate.embed import embed_dataset, text_encoder


class ZeroShot:
    """Zero-shot classification of a labelled source.

    Args:
      source: a source with labels.
      class_names: a name for each label; None for those of the source.
      templates: prompts with "{}" where the name goes.
      groups: dict of lists of labels: accuracies are given apart for the images all of whose labels
        are in a group. None for one group of all images, "all".
      batch_size: images embedded at a time.
      resize: see `data.images.evaluation_image`.
    """

    def __init__(
        self, source, *, class_names=None, templates=("{}",), groups=None, batch_size=250,
        resize="resize",
    ):  # fmt: skip
        if not source.has_labels:
            raise ValueError(f"`source` must have labels. Received: source={source.name!r}")
        self.class_names = class_names or source.label_names
        if not self.class_names:
            raise ValueError(f"`class_names` must be given: {source.name!r} names none.")
        self.source, self.templates, self.groups = source, templates, groups
        self.batch_size, self.resize = batch_size, resize

    def __call__(self, model, vocabulary):
        """Returns a dict of top-1 accuracy by group, and `GROUP_top_5`."""
        embedded = _embed(self, model, vocabulary, "labels")
        classes = zero_shot.class_embeddings(
            text_encoder(model, vocabulary), self.class_names, self.templates
        )
        labels = embedded.features["labels"]
        results = {}
        for name, members in (self.groups or {"all": range(len(self.class_names))}).items():
            rows = [i for i, of_image in enumerate(labels) if set(of_image) <= set(members)]
            if not rows:
                raise ValueError(f"`groups` must each have images. Received: none for {name!r}")
            accuracy = zero_shot.accuracy(embedded.image[rows], classes, [labels[i] for i in rows])
            results[name], results[f"{name}_top_5"] = accuracy["top_1"], accuracy["top_5"]
        return results


class Retrieval:
    """Image-text retrieval over a whole source, all captions of every image.

    Args:
      source: a source with captions.
      batch_size: images embedded at a time.
      resize: see `data.images.evaluation_image`.
    """

    def __init__(self, source, *, batch_size=250, resize="resize"):
        self.source = _with_captions(source)
        self.batch_size, self.resize = batch_size, resize

    def __call__(self, model, vocabulary):
        """Returns recalls and, by `chance`, what recall at 10 from text to image is by luck."""
        embedded = _embed(self, model, vocabulary, "captions")
        results = retrieval.recalls(embedded.image, embedded.text, embedded.image_of_text)
        results["text_to_image"]["chance_at_10"] = min(1.0, 10 / len(embedded.image))
        return results


class SuccessRates:
    """The share of tokens that find room at their experts, see `routing.success_rates`.

    Args:
      source: a source with captions.
      batch_size: pairs routed together: that of training.
      num_batches: how many batches to route.
    """

    def __init__(self, source, *, batch_size, num_batches=4):
        self.source = _with_captions(source)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.num_batches = checks.positive_int("num_batches", num_batches)

    def __call__(self, model, vocabulary):
        """Returns the mean success rate by modality, and by block and modality."""
        bad_records = BadRecords()
        batches = training_batches(
            self.source,
            vocabulary=vocabulary,
            batch_size=self.batch_size,
            image_size=model.image_size,
            seed=0,
            shuffle_window=self.batch_size * self.num_batches,
            bad_records=bad_records,
        )
        with bad_records.as_value_error():
            return routing.success_rates(model, batches.take(self.num_batches))


def _with_captions(source):
    if not source.has_captions:
        raise ValueError(f"`source` must have captions. Received: source={source.name!r}")
    return source


def _embed(task, model, vocabulary, feature):
    """Embeds the images of a task's source and, where `feature` is "captions", all captions."""
    bad_records = BadRecords()
    batches = evaluation_batches(
        task.source,
        batch_size=task.batch_size,
        image_size=model.image_size,
        resize=task.resize,
        bad_records=bad_records,
    )
    batches = batches.map(lambda batch: {"image": batch["image"], feature: batch[feature]})
    with bad_records.as_value_error():
        return embed_dataset(model, batches, vocabulary, verbose=0)
