"""The paper's four equations as NumPy loops in float64: shares no code with the library."""

import numpy as np


def _distance(x, y, name):
    if name == "cosine":
        lengths = np.sqrt(np.sum(x * x)), np.sqrt(np.sum(y * y))
        cosine = 0.0 if 0.0 in lengths else float(np.sum(x * y)) / (lengths[0] * lengths[1])
        return max((1.0 - cosine) / 2.0, 0.0)
    if name == "l2":
        return float(np.sum((x - y) ** 2))
    return float(np.sum(np.abs(x - y)))


def pairwise_similarity(x, y, *, distance="cosine", bandwidth=0.5, epsilon=1e-5, mean=None):
    """CX_ij, `(n, m)`."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if distance == "cosine":
        mean = sum(y) / len(y) if mean is None else np.asarray(mean, np.float64)
        x, y = x - mean, y - mean
    cx = np.empty((len(x), len(y)))
    for i in range(len(x)):
        d = [_distance(x[i], y_j, distance) for y_j in y]
        relative = [d_ij / (min(d) + epsilon) for d_ij in d]
        w = [np.exp((1.0 - d_ij) / bandwidth) for d_ij in relative]
        cx[i] = [w_ij / sum(w) for w_ij in w]
    return cx


def similarity(x, y, **options):
    """CX."""
    cx = pairwise_similarity(x, y, **options)
    return sum(max(column) for column in cx.T) / cx.shape[1]
