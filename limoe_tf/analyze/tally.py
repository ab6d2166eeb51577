"""Counts over a dataset of the tokens that a sparse layer routes to each expert, in NumPy.

Axis letters: B examples, N tokens of a stream, K choices per token, E experts, V pieces.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from limoe_tf import checks
from limoe_tf.analyze.routes import Routes

# An expert belongs to a stream if at least this fraction of the sum of its shares of all streams'
# tokens is the stream's.
SPECIALIST = 0.9


class ModalityTally:
    """Routing counts of the tokens of one stream, such as all images, in one layer.

    A choice is a token and one of the K experts it is routed to. Kinds of tokens are word pieces,
    or positions of patches.

    Args:
      num_experts: E.
      num_kinds: number of kinds of tokens.

    Attributes:
      chosen: <int64>[E, kinds] choices of each expert, by kind of the token.
      dropped: <int64>[E, kinds] choices dropped because the expert was full.
      tokens: number of routed tokens.
      mean_rank: mean rank in priority order: 0 is first, 1 is last.
      entropy: mean over batches of the entropy of the mean gate probabilities.
    """

    def __init__(self, num_experts: int, num_kinds: int):
        self.num_experts = checks.positive_int("num_experts", num_experts)
        self.num_kinds = checks.positive_int("num_kinds", num_kinds)
        self.chosen = np.zeros([num_experts, num_kinds], np.int64)
        self.dropped = np.zeros([num_experts, num_kinds], np.int64)
        self.tokens = 0
        self._ranks, self._entropies = 0.0, []

    def add(self, routes: Routes, kinds: np.ndarray) -> None:
        """Adds a batch.

        Args:
          routes: `routes.Routes` of <..>[B, N, K].
          kinds: <int>[B, N] kind of each token.
        """
        kinds = np.broadcast_to(kinds[..., np.newaxis], routes.expert.shape)
        routed = routes.expert >= 0
        for counts, where in ((self.chosen, routed), (self.dropped, routed & ~routes.kept)):
            cells = routes.expert[where].astype(np.int64) * self.num_kinds + kinds[where]
            counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
        valid = routed[..., 0]
        self.tokens += int(valid.sum())
        self._ranks += float(routes.rank[valid].sum())
        self._entropies.append(float(routes.entropy))

    @property
    def mean_rank(self) -> float:
        return self._ranks / max(self.tokens, 1)

    @property
    def entropy(self) -> float:
        return float(np.mean(self._entropies))

    def shares(self) -> np.ndarray:
        """Returns <float64>[E]: each expert's share of the stream's choices."""
        return self.chosen.sum(axis=1) / max(self.chosen.sum(), 1)

    def dropped_share(self) -> float:
        """Returns the share of the choices that were dropped."""
        return float(self.dropped.sum() / max(self.chosen.sum(), 1))

    def typical(self, expert: int, count: int) -> list[tuple[int, int, float]]:
        """Returns the kinds of tokens that are typical of an expert, the most typical first.

        Typical kinds are routed to the expert more often than tokens overall: kinds are ordered by
        how far their choices exceed the expert's share of all choices.

        Args:
          expert: its number.
          count: maximum number of kinds.

        Returns:
          list of (kind, choices of this expert, share of the kind's choices).
        """
        choices = self.chosen[expert]
        share = choices / np.maximum(self.chosen.sum(axis=0), 1)
        usual = self.chosen.sum(axis=0) * self.shares()[expert]
        order = np.argsort(usual - choices, kind="stable")
        order = [kind for kind in order if choices[kind]][:count]
        return [(int(k), int(choices[k]), float(share[k])) for k in order]

    def most_dropped(self, count: int) -> list[tuple[int, int, float]]:
        """Returns list of (kind, dropped choices, share of its choices), the most dropped first."""
        dropped = self.dropped.sum(axis=0)
        share = dropped / np.maximum(self.chosen.sum(axis=0), 1)
        order = np.argsort(-dropped, kind="stable")[:count]
        return [(int(k), int(dropped[k]), float(share[k])) for k in order if dropped[k]]


def joined(tallies: Sequence[ModalityTally]) -> ModalityTally | None:
    """Returns the choices of some streams of one modality, without ranks; None if there is none."""
    if len(tallies) < 2:
        return tallies[0] if tallies else None
    found = ModalityTally(tallies[0].num_experts, tallies[0].num_kinds)
    found.chosen += sum(tally.chosen for tally in tallies)
    found.dropped += sum(tally.dropped for tally in tallies)
    return found


def kinds_of_experts(tallies: Mapping[str, ModalityTally]) -> list[str]:
    """Returns the kind of each expert of a layer: a stream, such as "text", "mixed" or "idle".

    The streams are compared by their shares, so that a long one does not outweigh a short one: an
    expert with 30 % of the text tokens and 2 % of the image tokens is a text expert.

    Args:
      tallies: dict of ModalityTally of one layer, by stream.

    Returns:
      list of E strings.
    """
    names = list(tallies)
    shares = np.stack([tally.shares() for tally in tallies.values()])
    words = []
    for of_expert in shares.T:
        total = of_expert.sum()
        if not total:
            words.append("idle")
        elif of_expert.max() >= SPECIALIST * total:
            words.append(names[int(of_expert.argmax())])
        else:
            words.append("mixed")
    return words
