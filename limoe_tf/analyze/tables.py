"""The tables of a report as CSV, and the labels of tokens in it."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from limoe_tf.analyze.findings import Findings
from limoe_tf.analyze.tally import ModalityTally
from limoe_tf.tokens import modality_of


def names_of(pieces: Iterable[str], own: Sequence[str] = ()) -> list[str]:
    """Returns a label for each kind of text token, by id.

    Args:
      pieces: of the vocabulary.
      own: labels of the model's own tokens, as of `kinds.own_names`. Padding comes behind them.
    """
    return [*(_name(piece) for piece in pieces), *own, "(padding)"]


def _name(piece):
    if piece == "</s>":
        return "(end)"
    if piece == "▁":
        return "(space)"
    if piece.startswith("▁"):
        return piece[1:]
    return piece if piece.startswith("<") else f"…{piece}"


def place_label(tally: ModalityTally, kind: int) -> str:
    """Returns the label of a patch position, by its number; the class token is the last one."""
    side = math.isqrt(tally.num_kinds)
    if kind == side**2:
        return "(class)"
    return f"row {kind // side}, column {kind % side}"


def tables(found: Mapping[str, Findings], *, names: Sequence[str]) -> dict[str, str]:
    """Returns the tables of a report.

    Args:
      found: dict of `findings.Findings` by layer.
      names: list of the labels of the text tokens.

    Returns:
      dict by file name of strings in CSV: `layers.csv`, `experts.csv` and `tokens.csv`.
    """
    layers = [
        ("layer", "modality", "tokens", "choices", "dropped", "mean_rank", "entropy", "threshold")
    ]
    experts = [("layer", "expert", "kind", "modality", "choices", "share", "dropped")]
    tokens = [("layer", "expert", "modality", "token", "choices", "dropped")]
    for layer, one in found.items():
        words = one.experts
        for name, tally in one.tallies.items():
            chosen, dropped, shares = tally.chosen, tally.dropped, tally.shares()
            numbers = (tally.tokens, chosen.sum(), dropped.sum(), tally.mean_rank, tally.entropy)
            layers.append((layer, name, *numbers, one.thresholds.get(name)))
            for expert, word in enumerate(words):
                numbers = chosen[expert].sum(), shares[expert], dropped[expert].sum()
                experts.append((layer, expert, word, name, *numbers))
            for expert, token in zip(*chosen.nonzero()):
                is_text = modality_of(name) == "text"
                label = names[token] if is_text else place_label(tally, token)
                numbers = chosen[expert, token], dropped[expert, token]
                tokens.append((layer, expert, name, label, *numbers))
    return {
        "layers.csv": _csv(layers),
        "experts.csv": _csv(experts),
        "tokens.csv": _csv(tokens),
    }


def _csv(rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
