"""Two sets of structures by what describes them: distance of means, floor, energy distance, nearest neighbours.

A set is described by an array (n, D), a row a structure.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.distance import cdist

from lib.core.stats import Rate, mean

MOST_COMPARED = 1000  # rows of each side in distances between all of them


def distance_of_means(generated: np.ndarray, training: np.ndarray) -> Rate:
    """The benchmark's metric: the Euclidean distance between the mean rows of two sets (section 4.3).

    It is the mean of the generated rows along the direction in which the two means differ, and has the interval of that
    mean; as in the paper, the training set is taken as it is.
    """
    if not len(generated):
        return Rate(math.nan, math.nan, math.nan, 0)
    difference = generated.mean(0) - training.mean(0)
    length = float(np.linalg.norm(difference))
    if length < 1e-12:
        return Rate(length, 0.0, math.nan, len(generated))
    along = mean((generated - training.mean(0)) @ (difference / length))
    return Rate(length, max(0.0, along.ci_low), along.ci_high, len(generated))


def cosine_similarity(generated: np.ndarray, training: np.ndarray) -> float:
    """That of the mean rows of two sets (Table 4)."""
    if not len(generated):
        return math.nan
    one, other = generated.mean(0), training.mean(0)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def floor(training: np.ndarray, n: int) -> float:
    """The distance of means that n further structures of the training set's own distribution would have, root mean
    square: sqrt(trace of the covariance (1 / n + 1 / n_training)). No generator comes nearer but by chance."""
    if len(training) < 2 or not n:
        return math.nan
    return float(np.sqrt(training.var(0, ddof=1).sum() * (1 / n + 1 / len(training))))


def normalised(distance: float, least: float, random: float) -> float:
    """(d - floor) / (random - floor): 0 for the training set's own distribution, 1 for the trivial answer."""
    return (distance - least) / (random - least) if random > least else math.nan


def energy_distance(generated: np.ndarray, training: np.ndarray) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo, 10.1016/j.jspi.2013.03.018), without bias: near 0 for one
    distribution, also where only spread or shape differ, which the distance of means does not see."""
    x, y = generated[:MOST_COMPARED], training[:MOST_COMPARED]
    if min(len(x), len(y)) < 2:
        return math.nan
    within = [cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(2 * cdist(x, y).mean() - sum(within))


def nearest(generated: np.ndarray, training: np.ndarray) -> np.ndarray:
    """(n,) Euclidean distance of each generated row from the nearest training row: 0 for a copy."""
    if not len(generated):
        return np.zeros(0)
    rows = range(0, len(generated), MOST_COMPARED)
    return np.concatenate([cdist(generated[i : i + MOST_COMPARED], training).min(1) for i in rows])
