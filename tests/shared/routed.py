"""Routes of tokens through a sparse layer, made up."""

import numpy as np

from limoe_tf.analyze.routes import Routes


def routes(expert, *, kept=True, gate=0.5, rank=0.0, entropy=1.0):
    """Routes of <..>[B, N] experts, one choice a token."""
    expert = np.array(expert)[..., np.newaxis]
    kept = np.broadcast_to(np.array(kept), expert.shape[:2])[..., np.newaxis] & (expert >= 0)
    gate = np.broadcast_to(np.array(gate), expert.shape[:2])[..., np.newaxis]
    rank = np.broadcast_to(np.array(rank), expert.shape[:2])
    return Routes(expert, kept, gate, rank, np.float32(entropy))
