"""The auxiliary losses, as pure functions of gates or of their sums over the global batch.

Axis letters: G groups, S tokens in a group, E experts, K choices per token. Logarithms are natural,
entropies in nats.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

from limoe_tf.moe.top_k import top_k


def squared_coefficient_of_variation(mass: tf.Tensor) -> tf.Tensor:
    """Returns (std / mean)^2 over experts, averaged over groups: the importance or load loss.

    Args:
      mass: <float32>[..., E] importance or load, of groups or of a whole batch.

    Returns:
      <float32>[] in 0..E-1.

    Reference: https://arxiv.org/abs/2106.05974, appendix A.2; the standard deviation is the
      population's.
    """
    mean = tf.reduce_mean(mass, axis=-1)
    variance = tf.reduce_mean(tf.square(mass - mean[..., tf.newaxis]), axis=-1)
    return tf.reduce_mean(tf.math.divide_no_nan(variance, tf.square(mean)))


def importance(probabilities: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Returns the importance of each expert: the sum of its gates over a group.

    Args:
      probabilities: <float32>[G, S, E] gates without noise.
      valid: <bool>[G, S] False on padding.

    Returns:
      <float32>[G, E].

    Reference: https://arxiv.org/abs/2106.05974, appendix A.2.
    """
    return tf.reduce_sum(probabilities * tf.cast(valid, tf.float32)[..., tf.newaxis], axis=1)


def load(
    logits: tf.Tensor,
    noisy_logits: tf.Tensor,
    valid: tf.Tensor,
    *,
    num_choices: int,
    noise_std: float,
) -> tf.Tensor:
    """Returns the load of each expert: how many tokens would choose it with the noise drawn again.

    That is the sum over tokens of the probability that the expert's logit with fresh noise passes
    the token's K-th largest noisy logit.

    Args:
      logits: <float32>[G, S, E] without noise.
      noisy_logits: <float32>[G, S, E]; equal to `logits` where noise is off.
      valid: <bool>[G, S] False on padding.
      num_choices: K.
      noise_std: standard deviation of the noise, above 0.

    Returns:
      <float32>[G, E].

    Reference: https://arxiv.org/abs/2106.05974, appendix A.2.
    """
    threshold = top_k(noisy_logits, num_choices)[0][..., -1:]
    # 1 - Phi(a) = erfc(a / sqrt 2) / 2, without the cancellation.
    chosen = 0.5 * tf.math.erfc((threshold - logits) / (noise_std * math.sqrt(2)))
    return tf.reduce_sum(chosen * tf.cast(valid, tf.float32)[..., tf.newaxis], axis=1)


def squared_log_partition(logits: tf.Tensor) -> tf.Tensor:
    """Returns (log sum_e exp(logit_e))^2 of each token: <float32>[G, S]. Its mean is the z-loss.

    Args:
      logits: <float32>[G, S, E].

    Reference: https://arxiv.org/abs/2202.08906, equation 5.
    """
    return tf.square(tf.reduce_logsumexp(logits, axis=-1))


def entropy(distribution: tf.Tensor) -> tf.Tensor:
    """Returns -sum p log p along the last axis; 0 log 0 = 0, and the gradient there is finite.

    Args:
      distribution: <float32>[..., E].
    """
    # The smallest normal float32 leaves every larger probability as it is.
    return -tf.reduce_sum(distribution * tf.math.log(tf.maximum(distribution, 1.2e-38)), axis=-1)


def merged_entropy(probabilities: tf.Tensor, *, num_choices: int) -> tf.Tensor:
    """Returns each token's entropy with its K largest gates merged into one outcome.

    For K = 1 this is the entropy. It is zero once all mass lies in any K experts.

    Args:
      probabilities: <float32>[..., E].
      num_choices: K.

    Returns:
      <float32>[...].

    Reference: https://arxiv.org/abs/2206.02770, equation 2 (K = 1); the paper prints no formula for
      K > 1, this one is a choice.
    """
    if num_choices == 1:
        return entropy(probabilities)
    ordered = tf.math.top_k(probabilities, probabilities.shape[-1]).values
    merged = tf.reduce_sum(ordered[..., :num_choices], axis=-1, keepdims=True)
    return entropy(tf.concat([merged, ordered[..., num_choices:]], axis=-1))


def thresholded_global_entropy(marginal: tf.Tensor, *, min_experts: float) -> tf.Tensor:
    """Returns max(0, log S - H(marginal)): zero once the tokens use S experts or more.

    Args:
      marginal: <float32>[E] mean gates of one modality over the global batch.
      min_experts: S, a soft minimum of the experts in use; tau = log S.

    Returns:
      <float32>[].

    Reference: https://arxiv.org/abs/2206.02770, section 2.2.2.
    """
    return tf.nn.relu(math.log(min_experts) - entropy(marginal))


def negative_mutual_information(marginals: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns -MI(experts; modality) with equally likely modalities.

    Args:
      marginals: list of M <float32>[E], one a modality.

    Returns:
      <float32>[] in -log M..0: 0 if all are equal, -log M if no two share an expert.

    Reference: https://arxiv.org/abs/2206.02770, section 2.2.3; the equal weights are a choice.
    """
    stacked = tf.stack(marginals)
    return tf.reduce_mean(entropy(stacked)) - entropy(tf.reduce_mean(stacked, axis=0))


def default_min_experts(
    num_experts: int, modalities: Sequence[str] = ("image", "text")
) -> dict[str, float]:
    """Returns the soft minimum of experts in use, by modality.

    The paper names neither threshold; 0.62 E for images and 0.28 E (at least 2) for texts are a
    choice that gives 20 and 9 of 32. Any other stream gets that of images.
    """
    of_text = min(float(num_experts), max(2.0, 0.28 * num_experts))
    of_others = max(1.0, 0.62 * num_experts)
    return {name: of_text if name == "text" else of_others for name in modalities}
