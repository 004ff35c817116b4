"""How far a policy has moved from its reference, as the figures of metrics/evaluation.json."""

from __future__ import annotations

from anchora.evaluation.statistics import bootstrap_mean, sign_flip_p
from anchora.kl.reverse import ReverseKL


def drift_figures(kl: ReverseKL | None, seed: int) -> dict[str, float]:
    """Return the reverse KL as figures; none without one.

    ``kl_sequence``: nats a sequence, the mean over prompts, with a bootstrap interval by ``seed`` and a p-value; ``kl_per_token``: nats
    a token by the k3 estimate; ``mean_tokens``: of a sample.
    """
    if kl is None:
        return {}
    low, high = bootstrap_mean(kl.sequence, seed)
    return {
        "kl_sequence": round(float(kl.sequence.mean()), 6),
        "kl_sequence_low": round(low, 6),
        "kl_sequence_high": round(high, 6),
        "kl_sequence_p_value": round(sign_flip_p(kl.sequence, seed), 6),
        "kl_per_token": round(kl.k3 / kl.tokens, 6),
        "mean_tokens": round(kl.tokens / len(kl.sequence), 3),
    }
