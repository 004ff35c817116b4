"""Whether two samplers, asked the same prompts, have the same distribution."""

import numpy as np

PERMUTATIONS = 999


def p_value(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """p of a permutation test: (prompts, samples) of numbers or texts each; samples change sides within their prompt alone.

    The statistic is Kolmogorov and Smirnov's for numbers, all prompts pooled; for texts the sum over prompts and texts of
    (a - b)^2 / (a + b), a and b being how often each side has the text.
    """
    pooled = np.concatenate([first, second], axis=1)
    statistic = homogeneity if pooled.dtype.kind == "U" else kolmogorov_smirnov
    sides = np.zeros(pooled.shape, dtype=int)
    sides[:, : first.shape[1]] = 1
    measure, generator = statistic(pooled), np.random.default_rng(seed)
    observed = measure(sides)
    as_extreme = sum(measure(generator.permuted(sides, axis=1)) >= observed - 1e-9 for _ in range(PERMUTATIONS))
    return (1 + as_extreme) / (1 + PERMUTATIONS)


def kolmogorov_smirnov(values: np.ndarray):
    """The largest difference of the two ECDFs, as a function of the sides."""
    order = values.ravel().argsort(kind="stable")
    ends = np.append(np.diff(values.ravel()[order]) > 0, True)  # ties count together

    def measure(sides: np.ndarray) -> float:
        of_first = sides.ravel()[order].cumsum()[ends]
        of_second = (1 - sides).ravel()[order].cumsum()[ends]
        return float(np.abs(of_first / of_first[-1] - of_second / of_second[-1]).max())

    return measure


def homogeneity(texts: np.ndarray):
    """The sum of (a - b)^2 / (a + b) over prompts and their texts, as a function of the sides."""
    keyed = np.array([[f"{prompt}\0{text}" for text in row] for prompt, row in enumerate(texts)])
    codes = np.unique(keyed, return_inverse=True)[1].ravel()
    total = np.bincount(codes)

    def measure(sides: np.ndarray) -> float:
        of_first = np.bincount(codes, weights=sides.ravel(), minlength=len(total))
        return float((((2 * of_first - total) ** 2) / total).sum())

    return measure
