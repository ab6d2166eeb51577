"""The form in which answers to questions on images are compared."""

import functools

import tensorflow as tf

_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# The apostrophe and the colon stay: "girl's" is no "girls", and 2:50 is a time.
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
# Stands for a period before a digit while the others are removed.
_KEPT_PERIOD = "\x01"
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
"""


def normalize(answers: tf.Tensor) -> tf.Tensor:
    """Returns answers in the form in which they are compared; also in a graph.

    They are in lower case, without articles and without marks but the apostrophe, the colon and
    the period before a digit; number words up to ten, and "none", are digits; a contraction that
    lacks one apostrophe has it. A mark is dropped if it stands beside a space anywhere in the
    answer, or if there is a comma between digits: "1,000" is "1000". Else it becomes a space.

    Args:
      answers: <string>[...].

    Returns:
      <string>[...].

    Reference: https://visualqa.org/evaluation.html. Answers are normalized even where all
    annotators agree, which its program leaves out.
    """
    answers = tf.convert_to_tensor(answers, tf.string)
    text = tf.strings.regex_replace(tf.reshape(answers, [-1]), r"[[:cntrl:]\s]", " ")
    text = tf.strings.strip(tf.strings.lower(text, encoding="utf-8"))
    words = tf.strings.split(_without_periods(_without_marks(text)))
    changed = _table().lookup(words.flat_values)
    words = words.with_flat_values(tf.where(changed == "", words.flat_values, changed))
    is_article = tf.reduce_any(words.flat_values[:, tf.newaxis] == tf.constant(_ARTICLES), axis=-1)
    words = tf.ragged.boolean_mask(words, words.with_flat_values(~is_article))
    return tf.reshape(tf.strings.reduce_join(words, axis=-1, separator=" "), tf.shape(answers))


def _without_marks(text):
    has_number = tf.strings.regex_full_match(text, r".*\d,\d.*")
    found = text
    for mark in _MARKS:
        mark = f"[\\{mark}]"
        is_beside_space = tf.strings.regex_full_match(text, f".*( {mark}|{mark} ).*")
        found = tf.where(
            is_beside_space | has_number,
            tf.strings.regex_replace(found, mark, ""),
            tf.strings.regex_replace(found, mark, " "),
        )
    return found


def _without_periods(text):
    text = tf.strings.regex_replace(text, r"\.(\d)", rf"{_KEPT_PERIOD}\1")
    text = tf.strings.regex_replace(text, r"\.", "")
    return tf.strings.regex_replace(text, _KEPT_PERIOD, ".")


@functools.cache
def _table():
    words = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
    for whole in _CONTRACTIONS.split():
        places = [place for place, letter in enumerate(whole) if letter == "'"]
        words.update({whole[:place] + whole[place + 1 :]: whole for place in places})
    with tf.init_scope():
        return tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(list(words), list(words.values())), ""
        )
