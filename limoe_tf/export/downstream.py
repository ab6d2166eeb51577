"""The signatures of a fine-tuned model: functions of examples as files and strings.

Axis letters: B examples, A answers or classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from limoe_tf.data.words import canonical_tensor
from limoe_tf.export.files import required
from limoe_tf.export.signatures import Readers, in_blocks, strings, utf8


class Signature(NamedTuple):
    """What a SavedModel computes of examples.

    Attributes:
      images: names of its encoded images, its first inputs; a batch has them under these names.
      texts: dict by name in a batch of the names of the texts that are read as one, its others.
      logits: function of a batch to <float>[B, A], at inference.
      num_logits: A.
      answer: function of <float32>[B, A] logits to a dict of tensors, the outputs.
    """

    images: Sequence[str]
    texts: Mapping[str, Sequence[str]]
    logits: Callable[[dict[str, tf.Tensor]], tf.Tensor]
    num_logits: int
    answer: Callable[[tf.Tensor], dict[str, tf.Tensor]]


def traceable(
    signature: Signature, readers: Readers, *, jit_compile: bool = False
) -> tuple[Callable[..., dict[str, tf.Tensor]], list[tf.TensorSpec]]:
    """Returns the function of <string>[B] files and texts, and the specs of its inputs.

    Logits are computed one by one: they are bitwise the same whatever else is in the batch. Where
    XLA compiles the model they are computed in blocks, and agree to rounding.

    Args:
      signature: Signature.
      readers: Readers of the model.
      jit_compile: whether XLA compiles the model.

    Raises:
      tf.errors.InvalidArgumentError: from the function, if its inputs are not of one length, a file
        is no image, or a text is not UTF-8 or without words.
    """
    names = [*signature.images, *(name for parts in signature.texts.values() for name in parts)]

    def compute(*inputs):
        given = dict(zip(names, _of_one_length(inputs)))
        batch = {name: readers.decode(given[name]) for name in signature.images}
        for name, parts in signature.texts.items():
            texts = [_with_words(given[part]) for part in parts]
            batch[name], batch[f"{name}_valid"] = readers.tokenize(*texts)
        if jit_compile:
            width = signature.num_logits
            return signature.answer(in_blocks(of_block, batch, width=width, jit_compile=True))
        return signature.answer(tf.map_fn(of_one, batch, fn_output_signature=logits))

    def of_block(batch):
        return tf.cast(signature.logits(batch), tf.float32)

    def of_one(example):
        return of_block({name: value[tf.newaxis] for name, value in example.items()})[0]

    logits = tf.TensorSpec([signature.num_logits], tf.float32)
    return compute, [strings(name) for name in names]


def _of_one_length(inputs):
    sizes = tf.stack([tf.size(value) for value in inputs])
    rule = "Inputs must be of as many examples."
    return [required(value, sizes == sizes[0], rule, sizes) for value in inputs]


def _with_words(texts):
    texts = utf8(texts, "Texts")
    has_words = tf.strings.length(canonical_tensor(texts)) > 0
    return required(texts, has_words, "Texts must each hold words.")
