"""A classifier of the two domains, trained on their true pictures only."""

from collections.abc import Callable

import jax
import numpy as np
from scipy.optimize import minimize

from experiments.common.metrics import alexnet_features

_PENALTY = 1.0
_SIZE = 128  # pixels: AlexNet was trained on things of such a size
_FEATURES = {"layer": 3, "cells": 3}


def train_classifier(source: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on AlexNet's third maps in a grid of 3 x 3 cells, no method's features.

    Layer, grid and penalty are those that told the validation pictures of men and women apart best.

    Args:
      source: True pictures of the source, `(n, h, w, 3)`, in [0, 1].
      target: True pictures of the target, `(m, h, w, 3)`.

    Returns:
      `(pictures (b, h, w, 3)) -> (b,)`, the log odds of the target.
    """
    x = np.concatenate([_features(source), _features(target)]).astype(np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / scale
    signs = np.repeat([-1.0, 1.0], [len(source), len(target)])
    weights = np.repeat([0.5 / len(source), 0.5 / len(target)], [len(source), len(target)])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        margins = signs * (x @ w + b)
        value = weights @ np.logaddexp(0, -margins) + _PENALTY / 2 * w @ w
        slope = -weights * signs / (1 + np.exp(np.minimum(margins, 500)))
        return value, np.append(x.T @ slope + _PENALTY * w, slope.sum())

    best = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x

    def classify(pictures: np.ndarray) -> np.ndarray:
        return (_features(pictures) - mean) / scale @ best[:-1] + best[-1]

    return classify


def _features(pictures: np.ndarray) -> np.ndarray:
    size = (len(pictures), _SIZE, _SIZE, 3)
    scaled = np.asarray(jax.image.resize(np.asarray(pictures, np.float32), size, "cubic"))
    return alexnet_features(np.clip(scaled, 0, 1), **_FEATURES)
