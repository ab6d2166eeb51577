"""Reads words on scenes of `grid_scenes`, apart from the code that writes them."""

import re
from collections import Counter, defaultdict

from limoe_tf.data import grid_scenes

WORDS = {
    "size": grid_scenes.SIZES,
    "colour": grid_scenes.COLOURS,
    "shape": grid_scenes.SHAPES,
}
PLACE = f"(?P<place>{'|'.join(grid_scenes.PLACES)})"
SINGULAR = {
    f"{word}{'es' if word == 'cross' else 's'}": word for word in (*WORDS["shape"], "thing")
}


def words_of(thing):
    """Returns all words that are true of a thing, "thing" among them."""
    return {"thing", *(names[getattr(thing, part)] for part, names in WORDS.items())}


def fitting(name, things):
    """Returns the things that a name such as "red squares" fits."""
    asked = {SINGULAR.get(word, word) for word in name.split()}
    return [thing for thing in things if asked <= words_of(thing)]


def at(place, things):
    """Returns the thing at a named place."""
    (there,) = [thing for thing in things if grid_scenes.PLACES[thing.place] == place]
    return there


def answer(question, things):
    """Returns the answer to a question of `grid_questions` for a scene of these things."""
    if found := re.fullmatch(f"what (colour|shape) is {PLACE}", question):
        return WORDS[found[1]][getattr(at(found["place"], things), found[1])]
    found = re.fullmatch("(how many|is there a|where is the) (.*)", question)
    those = fitting(found[2], things)
    if found[1] == "how many":
        return str(len(those))
    if found[1] == "is there a":
        return "yes" if those else "no"
    (only,) = those
    return grid_scenes.PLACES[only.place]


def is_true(statement, left, right):
    """Returns whether a statement of `grid_statements` is true of two lists of things."""
    if found := re.fullmatch(f"both images show the same (colour|shape) {PLACE}", statement):
        one, other = (getattr(at(found["place"], things), found[1]) for things in (left, right))
        return one == other
    frames = {
        "both images show a (.*)": lambda one, other: one > 0 and other > 0,
        "only one image shows a (.*)": lambda one, other: (one > 0) + (other > 0) == 1,
        "both images show as many (.*)": lambda one, other: one == other,
        "more (.*) are in the left image": lambda one, other: one > other,
    }
    ((frame, name),) = [
        (frame, found[1]) for frame in frames if (found := re.fullmatch(frame, statement))
    ]
    return frames[frame](len(fitting(name, left)), len(fitting(name, right)))


def follows(premise, hypothesis):
    """Returns the label of `grid_sentences` for two texts."""
    *claimed, row, column = hypothesis.split()[1:]
    for part in premise.split(" and "):
        *told, told_row, told_column = part.split()[1:]
        if (row, column) == (told_row, told_column):
            pairs = [(_told(names, told), _told(names, claimed)) for names in WORDS.values()]
            if any(known and said and known != said for known, said in pairs):
                return "contradiction"
            return "neutral" if set(claimed) - set(told) else "entailment"
    return "neutral"


def _told(names, words):
    return next((word for word in words if word in names), None)


def share_right(train, test):
    """Returns how often the most frequent target of an input is right.

    Both are lists of pairs of an input, which is all that is known, and its target: the former to
    count, the latter to score. An input that was not seen counts as wrong.
    """
    counts = defaultdict(Counter)
    for known, target in train:
        counts[known][target] += 1
    best = {known: found.most_common(1)[0][0] for known, found in counts.items()}
    return sum(best.get(known) == target for known, target in test) / len(test)
