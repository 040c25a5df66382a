"""Order parameters of coordination motifs: how much the directions to an atom's neighbours are those of a motif.

They are those of Zimmermann and Jain (10.1039/C9RA07755C), in the variant and with the widths that pymatgen and
matminer use; angles theta are counted in units of pi. For most motifs one neighbour j is the pole, another one k the
meridian; terms in the polar angles of k and of every other neighbour m, and in the azimuth between them, are averaged,
and the best choice of j and k counts. Q_l are Steinhardt's (10.1103/PhysRevB.28.784), which by the addition theorem are
the roots of the mean of P_l(cos theta) over all pairs of neighbours.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SINGLE, BENT, ANGLES, PENTAGON, EQUATOR, POLES, BCC, CUBOCTAHEDRON, BOND_ORDER = range(9)
PARALLEL = 1e-12

# ANGLES: target angle, 1 / width, azimuthal factor. PENTAGON: 1 / width. EQUATOR: 1 / width, factor. POLES: 1 / widths
# at the pole and at the equator, factor, smallest angle of the south pole, largest azimuth (rad), distance from the
# equator. BOND_ORDER: l.
_TETRAHEDRAL = 0.6081734479693927
_SOUTH = 0.75
MOTIFS = {  # coordination number: name -> family and its parameters
    1: {"single bond": (SINGLE,)},
    2: {
        "L-shaped": (BENT, 0.5, 15.15),
        "water-like": (BENT, 0.5802777777777778, 13.95),
        "bent 120 degrees": (BENT, 0.666666666667, 13.25),
        "bent 150 degrees": (BENT, 0.833333333333333, 12.45),
        "linear": (BENT, 1.0, 8.667),
    },
    3: {
        "trigonal planar": (ANGLES, 0.66666666667, 17.5, 1.0),
        "trigonal non-coplanar": (ANGLES, _TETRAHEDRAL, 18.33, 1.5),
        "T-shaped": (EQUATOR, 15.5, 1.0),
    },
    4: {
        "square co-planar": (POLES, 13.5, 17.7, 1.0, _SOUTH, np.inf, 0.0),
        "tetrahedral": (ANGLES, _TETRAHEDRAL, 18.5, 1.5),
        "rectangular see-saw-like": (POLES, 11.5, 27.0, 2.0, _SOUTH, 0.75 * np.pi, 0.0),
        "see-saw-like": (POLES, 12.75, 15.75, 1.5, _SOUTH, np.inf, 0.0),
        "trigonal pyramidal": (EQUATOR, 15.5, 1.5),
    },
    5: {
        "pentagonal planar": (PENTAGON, 19.333),
        "square pyramidal": (EQUATOR, 14.9, 2.0),
        "trigonal bipyramidal": (POLES, 12.0, 16.6, 1.5, _SOUTH, np.inf, 0.0),
    },
    6: {
        "hexagonal planar": (POLES, 7.5, 25.0, 1.0, 5 / 6, np.inf, 0.16666667),
        "octahedral": (POLES, 15.0, 18.0, 2.0, _SOUTH, np.inf, 0.0),
        "pentagonal pyramidal": (EQUATOR, 13.8, 2.5),
    },
    7: {
        "hexagonal pyramidal": (EQUATOR, 12.5, 3.0),
        "pentagonal bipyramidal": (POLES, 12.5, 14.75, 2.5, _SOUTH, np.inf, 0.0),
    },
    8: {
        "body-centered cubic": (BCC,),
        "hexagonal bipyramidal": (POLES, 14.1, 13.6, 3.0, _SOUTH, np.inf, 0.0),
    },
    **{cn: {f"q{order}": (BOND_ORDER, order) for order in (2, 4, 6)} for cn in (9, 10, 11)},
    12: {"cuboctahedral": (CUBOCTAHEDRON,)} | {f"q{order}": (BOND_ORDER, order) for order in (2, 4, 6)},
}
N_PARAMETERS = 7
TABLE = np.array(
    [
        [cn, *values, *[0.0] * (N_PARAMETERS - len(values))]
        for cn, motifs in MOTIFS.items()
        for values in motifs.values()
    ]
)
"""(motifs, 8): coordination number, family, parameters."""


@njit(cache=True)
def _bell(x):
    return np.exp(-0.5 * x * x)


@njit(cache=True)
def _legendre(order, x):
    """P_l(x) of even l up to 6."""
    s = x * x
    if order == 2:
        return (3 * s - 1) / 2
    if order == 4:
        return (35 * s * s - 30 * s + 3) / 8
    return (231 * s**3 - 315 * s * s + 105 * s - 5) / 16


@njit(cache=True)
def _polar_term(motif, theta):
    """The term in the polar angle of a neighbour that is neither pole."""
    family = int(motif[1])
    if family == ANGLES:
        return _bell(motif[3] * (theta - motif[2]))
    if family == PENTAGON:
        return _bell(motif[2] * (theta - (0.4 if theta <= 0.6 else 0.8)))
    if family == EQUATOR:
        return _bell(motif[2] * (theta - 0.5))
    return _bell(motif[3] * (abs(theta - 0.5) - motif[7]))  # POLES


@njit(cache=True)
def _azimuth_factor(motif):
    family = int(motif[1])
    return motif[4] if family in (ANGLES, POLES) else motif[3] if family == EQUATOR else 1.0


@njit(cache=True)
def _cuboctahedral_term(theta_k, theta_m, phi):
    """Weight and value of a neighbour m of a cuboctahedron with k on the equator (105 and 75 degrees bound it)."""
    high, low, south = 105 / 180, 75 / 180, 160 / 180
    if not (theta_m < south and low < theta_k < high):
        return 0.0, 0.0
    if low < theta_m < high:
        return 1.0, np.cos(phi) ** 2 * _bell(25.5 * (theta_m - 0.5))
    side = _bell(0.0556 * (np.cos(phi - 0.5 * np.pi) - 0.81649658))
    if theta_m < low:
        return 1.0, side * _bell(31.25 * (theta_m - 1 / 3))
    return 1.0, side * _bell(31.25 * (theta_m - 2 / 3))


@njit(cache=True)
def order_parameter(motif, directions):
    """The order parameter of one row of TABLE for unit vectors (n, 3); 1 for the motif itself.

    The one for body-centred cubes depends a little on the order of the vectors, as published.
    """
    n, family = len(directions), int(motif[1])
    if family == SINGLE:
        return 1.0
    cosine, theta, total = np.empty((n, n)), np.empty((n, n)), 0.0
    for j in range(n):
        for k in range(n):
            u, v = directions[j], directions[k]
            cosine[j, k] = min(1.0, max(-1.0, u[0] * v[0] + u[1] * v[1] + u[2] * v[2]))
            theta[j, k] = np.arccos(cosine[j, k]) / np.pi
            if family == BOND_ORDER:
                total += _legendre(int(motif[2]), cosine[j, k])
    if family == BOND_ORDER:
        return np.sqrt(max(0.0, total)) / n
    if family == BENT:
        return _bell(motif[3] * (theta[0, 1] - motif[2]))
    best, flat, length = 0.0, np.empty((n, 3)), np.empty(n)
    for j in range(n):
        for k in range(n):  # what is left of each direction without the pole
            for x in range(3):
                flat[k, x] = directions[k, x] - cosine[k, j] * directions[j, x]
            length[k] = np.sqrt(flat[k, 0] ** 2 + flat[k, 1] ** 2 + flat[k, 2] ** 2)
        for k in range(n):
            if j == k or (family == BCC and j > k):
                continue
            value, weight = _of_meridian(motif, theta[j], flat, length, j, k)
            total += value
            if weight > PARALLEL:
                best = max(best, value / weight)
    if family == BCC:
        return total / (0.5 * n * (6 + (n - 2) * (n - 3)))
    return best


@njit(cache=True)
def _of_meridian(motif, theta, flat, length, j, k):
    """Sum of the terms and of their weights with neighbour j at the pole and k on the meridian."""
    family, value, weight = int(motif[1]), 0.0, 0.0
    south = motif[5]
    if family == CUBOCTAHEDRON:
        south = 160 / 180
        if theta[k] >= south:
            value, weight = 1.8 * _bell(28.75 * (theta[k] - 1)), 1.8
    elif family == BCC:
        south = 2.5261129449194057 / np.pi
        if theta[k] >= south:
            value, weight = 6 * _bell(15 * (theta[k] - 1)), 6.0
    elif family != POLES or theta[k] < south:
        value, weight = _polar_term(motif, theta[k]), 1.0
    if length[k] < PARALLEL:
        return value, weight
    for m in range(len(theta)):
        if m in (j, k):
            continue
        if family == POLES and theta[m] >= south:
            value += _bell(motif[2] * (theta[m] - 1))
            weight += 1
        if length[m] < PARALLEL:
            continue
        along = flat[k, 0] * flat[m, 0] + flat[k, 1] * flat[m, 1] + flat[k, 2] * flat[m, 2]
        phi = np.arccos(min(1.0, max(-1.0, along / (length[k] * length[m]))))
        if family == CUBOCTAHEDRON:
            one, term = _cuboctahedral_term(theta[k], theta[m], phi)
            value, weight = value + term, weight + one
        elif family == BCC:
            if theta[k] < south:
                x = (theta[m] - 0.5) * np.pi / np.arcsin(1 / 3)
                value += (1 if theta[k] > 0.5 else -1) * np.cos(3 * phi) * np.exp(0.5) * x * _bell(x)
        elif family != POLES or (theta[m] < south and theta[k] < south and phi < motif[6]):
            value += np.cos(_azimuth_factor(motif) * phi) ** 2 * _polar_term(motif, theta[m])
            weight += 1
    return value, weight
