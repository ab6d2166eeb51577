"""The signatures of a SavedModel: functions of raw images and strings, each in one graph.

Axis letters: B images, T texts, C classes, Z embedding size.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf.data.words import Vocabulary, canonical_tensor
from limoe_tf.export.files import evaluation_images, evaluation_pixels, required

_ROWS_AT_A_TIME = 256


class Readers:
    """Makes of files and texts what a model reads.

    Both functions are traced once for all signatures, so that the decoders and the vocabulary are
    stored once.

    Args:
      vocabulary: `data.words.Vocabulary`.
      size: side of the model's images, in pixels.
      resize: see `data.images.evaluation_image`.

    Attributes:
      decode: function of files <string>[B] to <uint8>[B, size, size, 3], see `evaluation_images`.
      tokenize: the vocabulary as a function.
    """

    def __init__(self, vocabulary: Vocabulary, *, size: int, resize: str):
        self._options = {"size": size, "resize": resize}
        self.decode = _traced(
            lambda files: evaluation_images(files, **self._options), strings("files")
        )
        self.tokenize = tf.function(lambda *texts: vocabulary(*texts), autograph=False)

    def resize(self, pixels: tf.Tensor) -> tf.Tensor:
        """Returns <uint8>[B, size, size, 3] of decoded images, see `evaluation_pixels`."""
        return evaluation_pixels(pixels, **self._options)


class Signatures:
    """The functions of a model that embeds, for any number of images and texts.

    Images are embedded one by one, so that an embedding is bitwise the same for any other images of
    the batch: the rounding of matrix products depends on their number of rows. This costs a dense
    model nothing; a sparse one reads all experts for each image. Texts are embedded in blocks, and
    agree to 1e-6. Where XLA compiles the model, images are embedded as texts are.

    Args:
      model: `Limoe`, `TwoTower` or `RetrievalModel` whose experts drop nothing.
      readers: Readers of the model.
      templates: prompts with "{}" in place of the class name.
      jit_compile: whether XLA compiles the model, once for each of a few sizes of blocks.
    """

    def __init__(
        self,
        model: keras.Model,
        readers: Readers,
        *,
        templates: Sequence[str],
        jit_compile: bool = False,
    ):
        self._model, self._readers, self._templates = model, readers, templates
        self._jit_compile = jit_compile
        # As the readers, traced once.
        self._encode_texts = _traced(self._encode_texts, strings("values"))
        size = model.image_size
        self._encode_pixels = _traced(
            self._encode_pixels, tf.TensorSpec([None, size, size, 3], tf.uint8)
        )

    def all(self) -> dict[str, tuple[Callable[..., dict[str, tf.Tensor]], list[tf.TensorSpec]]]:
        """Returns name -> (function of tensors to a dict of them, list of `tf.TensorSpec`)."""
        files, texts, classes = map(strings, ("images", "texts", "classes"))
        pixels = tf.TensorSpec(None, tf.uint8, name="images")
        found = {}
        for name, answer, others in (
            ("encode_image", self._encode_image, []),
            ("classify", self._classify, [classes]),
            ("similarity", self._similarity, [texts]),
        ):
            found[name] = (_after(self._readers.resize, answer), [pixels, *others])
            found[f"{name}_bytes"] = (_after(self._readers.decode, answer), [files, *others])
        found["encode_text"] = (self._encode_text, [texts])
        found["encode_classes"] = (self._encode_classes, [classes])
        return found

    def _encode_image(self, pixels):
        return {"embeddings": self._encode_pixels(pixels)}

    def _encode_text(self, texts):
        return {"embeddings": self._encode_texts(utf8(texts, "Texts"))}

    def _encode_classes(self, classes):
        return {"embeddings": self._embed_classes(classes)}

    def _classify(self, pixels, classes):
        embeddings = self._embed_classes(classes)
        cosines = tf.matmul(self._encode_pixels(pixels), embeddings, transpose_b=True)
        logits = cosines * self._model.logit_scale()
        if self._model.logit_bias is not None:
            logits += self._model.logit_bias
        return {"similarity": cosines, "logits": logits, "probabilities": tf.nn.softmax(logits)}

    def _similarity(self, pixels, texts):
        embeddings = self._encode_texts(utf8(texts, "Texts"))
        return {"similarity": tf.matmul(self._encode_pixels(pixels), embeddings, transpose_b=True)}

    def _embed_classes(self, classes):
        """Returns <float32>[C, Z], see `evaluate.zero_shot.class_embeddings`."""
        classes = utf8(classes, "Class names")
        count = tf.size(classes)
        classes = required(classes, count > 0, "Class names must be given.", count)
        not_blank = tf.strings.length(canonical_tensor(classes)) > 0
        classes = required(classes, not_blank, "Class names must each hold words.")
        prompts = [_filled(template, classes) for template in self._templates]
        prompts = tf.reshape(canonical_tensor(tf.stack(prompts, axis=1)), [-1])
        embeddings = self._encode_texts(prompts)
        embeddings = tf.reshape(embeddings, [-1, len(self._templates), self._model.embedding_size])
        means = tf.reduce_mean(embeddings, axis=1)
        return means / tf.maximum(tf.norm(means, axis=1, keepdims=True), 1e-8)

    def _encode_pixels(self, pixels):
        if self._jit_compile:
            return self._embed({"image": pixels}, "image")

        def encode(image):
            return self._model({"image": image[tf.newaxis]}, training=False)[0]["image"][0]

        embedding = tf.TensorSpec([self._model.embedding_size], tf.float32)
        return tf.map_fn(encode, pixels, fn_output_signature=embedding)

    def _encode_texts(self, texts):
        text, valid = self._readers.tokenize(texts)
        return self._embed({"text": text, "text_valid": valid}, "text")

    def _embed(self, batch, modality):
        """Returns the embeddings of a batch of one modality, block by block."""

        def encode(block):
            return self._model(block, training=False)[0][modality]

        width = self._model.embedding_size
        return in_blocks(encode, batch, width=width, jit_compile=self._jit_compile)


def _after(bring_to_size, answer):
    """Returns `answer`, a function of images of the model's size, for images of any size."""
    return lambda images, *others: answer(bring_to_size(images), *others)


def strings(name: str) -> tf.TensorSpec:
    """Returns the spec of <string>[n]."""
    return tf.TensorSpec([None], tf.string, name=name)


def _traced(function, spec):
    return tf.function(function, input_signature=[spec], autograph=False)


def utf8(texts: tf.Tensor, what: str) -> tf.Tensor:
    """Returns <string>[n]; a text that is not UTF-8 is an error about `what`."""
    read = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
    return required(texts, read == texts, f"{what} must be UTF-8.")


def _filled(template, classes):
    before, *after = template.split("{}")
    parts = [before]
    for part in after:
        parts += [classes, part]
    return tf.strings.join(parts)


def in_blocks(
    function: Callable, batch: Mapping[str, tf.Tensor], *, width: int, jit_compile: bool
) -> tf.Tensor:
    """Returns `function` of a batch, computed in blocks of at most `_ROWS_AT_A_TIME` rows.

    Args:
      function: of a dict of a block's rows to <float32>[rows, width].
      batch: dict of <...>[B, ...].
      width: of the results.
      jit_compile: whether XLA compiles the function. It does so for each size of blocks: they are
        powers of two then, so that there are few.

    Returns:
      <float32>[B, width].
    """
    count = tf.shape(next(iter(batch.values())))[0]
    num_blocks = tf.maximum(-(-count // _ROWS_AT_A_TIME), 1)
    size = -(-count // num_blocks)
    if jit_compile:
        powers = [2**n for n in range(_ROWS_AT_A_TIME.bit_length())]
        size = tf.reduce_min([tf.where(size <= power, power, _ROWS_AT_A_TIME) for power in powers])
        function = tf.function(function, jit_compile=True, autograph=False)
    blocks = {name: _split(rows, num_blocks, size) for name, rows in batch.items()}
    results = tf.map_fn(
        function,
        blocks,
        fn_output_signature=tf.TensorSpec([None, width], tf.float32),
        parallel_iterations=1,
    )
    return tf.reshape(results, [-1, width])[:count]


def _split(rows, num_blocks, size):
    """Returns <...>[n, ...] as [num_blocks, size, ...], padded with zeros."""
    missing = num_blocks * size - tf.shape(rows)[0]
    rows = tf.pad(rows, [[0, missing]] + [[0, 0]] * (rows.shape.rank - 1))
    return tf.reshape(rows, [num_blocks, size, *rows.shape[1:]])
