"""Tokenizes captions to ids of a fixed length, and trains the vocabulary for it."""

import hashlib
import io
import os
import re
import string
from collections.abc import Iterable

import sentencepiece
import tensorflow as tf
import tensorflow_text

from limoe_tf import checks, whole_file
from limoe_tf.data.captions import is_blank

# Ids as in the vocabularies of T5, among them the 32,000 pieces of English C4.
_SPECIAL_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ANY_PUNCTUATION = f"[{re.escape(string.punctuation)}]"
# The characters that Python's `str.split` treats as spaces; RE2's own class has fewer.
_ANY_SPACES = (
    r"[\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}"
    r"\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)


def canonical(text: str) -> str:
    """Returns a class name or prompt in the form in which prompts are compared and embedded.

    Underscores become spaces, punctuation is removed, letters are lower-cased, spaces collapse.

    Args:
      text: a Python string.
    """
    text = text.replace("_", " ").translate(_PUNCTUATION).lower()
    return " ".join(text.split())


def canonical_tensor(texts: tf.Tensor) -> tf.Tensor:
    """Does the same as `canonical`, in a graph.

    Letters of Unicode 14 and later, which are not in TensorFlow's tables, keep their case; a text
    ends at a NUL.

    Args:
      texts: <string>[...], UTF-8.

    Returns:
      <string>[...].
    """
    texts = tf.strings.regex_replace(texts, "_", " ")
    texts = tf.strings.regex_replace(texts, _ANY_PUNCTUATION, "")
    texts = tf.strings.lower(texts, encoding="utf-8")
    return tf.strings.strip(tf.strings.regex_replace(texts, _ANY_SPACES, " "))


class Vocabulary:
    """A SentencePiece model that turns captions into token ids of one length.

    Captions are lower-cased. The end of sentence is always kept: a longer caption is truncated to
    its first `text_length - 1` tokens and the end; a shorter one is padded with the end's id. Call
    it on a batch: one caption at a time is ten times slower.

    Args:
      path: file of the SentencePiece model.
      text_length: N, tokens of every text.

    Raises:
      ValueError: if the file is missing, is not a SentencePiece model or has no end of sentence.
    """

    def __init__(self, path: str | os.PathLike, *, text_length: int):
        self.path = checks.existing_file("path", path)
        self.text_length = checks.integer_in("text_length", text_length, 2)
        with tf.io.gfile.GFile(self.path, "rb") as file:
            model = file.read()
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.size = pieces.get_piece_size()
        except RuntimeError as error:
            raise ValueError(
                f"`path` must be a SentencePiece model. Received: path={self.path!r}"
            ) from error
        self.end_id = pieces.eos_id()
        if not self.size or self.end_id < 0:
            raise ValueError(
                "`path` must be a SentencePiece model with pieces and an end-of-sentence id. "
                f"Received: path={self.path!r}"
            )
        self._model = model

    @property
    def sha256(self) -> str:
        """The SHA-256 hash of the file, in hexadecimal digits, which identifies the vocabulary."""
        return hashlib.sha256(self._model).hexdigest()

    def read(self) -> bytes:
        """Returns the bytes of the file, as they were when it was opened."""
        return self._model

    def pieces(self) -> list[str]:
        """Returns a list of all pieces, by id; in them "▁" is a space."""
        pieces = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        return pieces.id_to_piece(list(range(self.size)))

    def words(self) -> list[int]:
        """Returns the ids of all pieces that stand for text: no padding, end or unknown piece."""
        pieces = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        special = (pieces.is_control, pieces.is_unknown, pieces.is_unused)
        return [piece for piece in range(self.size) if not any(one(piece) for one in special)]

    def __call__(self, captions: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tokenizes a batch of captions, or of several texts that are read as one.

        Args:
          captions: <string>[B], UTF-8.
          *others: more of the same shape: each follows behind an end of sentence. What is too long
            is truncated to equal parts, of which a shorter text leaves the rest to the others.

        Returns:
          text: <int32>[B, N] token ids.
          text_valid: <bool>[B, N] True on tokens and on the first end of sentence.
        """
        texts = [tf.convert_to_tensor(text, tf.string) for text in (captions, *others)]
        # Created in the graph that uses it: TensorFlow drops an eager one when a seed is set.
        tokenizer = tensorflow_text.SentencepieceTokenizer(self._model, out_type=tf.int32)
        parts = [tokenizer.tokenize(tf.strings.lower(text, encoding="utf-8")) for text in texts]
        tokens = self._joined(parts)
        text = tokens.to_tensor(self.end_id, shape=[None, self.text_length])
        text = tf.ensure_shape(text, [texts[0].shape[0], self.text_length])
        places = tf.range(self.text_length, dtype=tokens.row_splits.dtype)
        return text, places <= tokens.row_lengths()[:, tf.newaxis]

    def _joined(self, parts):
        """Returns the parts <int32>[B, None] one after another, an end between two."""
        room = self.text_length - len(parts)
        if len(parts) == 1:
            return parts[0][:, :room]
        checks.integer_in("text_length", self.text_length, 2 * len(parts))
        parts = tensorflow_text.RoundRobinTrimmer(room).trim(parts)
        end = tf.fill([parts[0].nrows(), 1], self.end_id)
        joined = [piece for part in parts for piece in (end, part)]
        return tf.concat(joined[1:], axis=1)


class UnsuitableSize(ValueError):
    """The size of a vocabulary is too large or too small for the captions."""


def train_vocabulary(
    captions: Iterable[str],
    *,
    path: str,
    size: int,
    exact_size: bool = True,
    algorithm: str = "unigram",
    character_coverage: float = 1.0,
) -> int:
    """Trains a SentencePiece model on captions and writes it.

    The same captions in the same order give the same file. Padding has id 0, the end of a
    sentence 1, unknown pieces 2, as in the vocabularies of T5.

    Args:
      captions: iterable of Python strings.
      path: file to write.
      size: number of pieces.
      exact_size: if False, a corpus too small for `size` pieces gives fewer instead of an error.
      algorithm: "unigram" or "bpe".
      character_coverage: share of the corpus' characters that get their own piece; below 1 for
        corpora with many rare characters.

    Returns:
      The number of pieces.

    Raises:
      ValueError: if there is no caption; `UnsuitableSize` if `size` is too large or too small for
        the corpus.
    """
    checks.integer_in("size", size, 4)
    checks.one_of("algorithm", algorithm, ("unigram", "bpe"))
    checks.number_in("character_coverage", character_coverage, 0.9, 1.0)
    lowered = (caption.lower() for caption in captions if not is_blank(caption))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lowered,
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=exact_size,
            model_type=algorithm,
            character_coverage=character_coverage,
            # Several threads would sum in another order.
            num_threads=1,
            minloglevel=2,
            **_SPECIAL_IDS,
        )
    except RuntimeError as error:
        raise _failure_of_training(str(error), size) from error
    write_vocabulary(model.getvalue(), path)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()


def write_vocabulary(model: bytes, path: str) -> None:
    """Writes the bytes of a SentencePiece model; never a part of them stands at the path."""
    whole_file.write(path, model)


def _failure_of_training(message, size):
    """Returns the error that says what SentencePiece's message means."""
    if largest := re.search(r"too high.*<= (\d+)", message):
        return UnsuitableSize(
            f"`size` must be at most {largest[1]} for these captions. Received: size={size}"
        )
    if smallest := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return UnsuitableSize(
            f"`size` must be at least {smallest[1]} for these captions. Received: size={size}"
        )
    if "sentences_.empty()" in message:
        rule = "`captions` must hold at least one caption that is not empty. Received: none"
        return ValueError(rule)
    return ValueError(
        f"`captions` must make a vocabulary of size={size}; SentencePiece reports: {message}"
    )
