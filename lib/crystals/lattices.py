"""Cells as numbers: the logarithm of the metric and back, and which cells are none."""

from collections.abc import Callable

import numpy as np
import torch
from pymatgen.core import Lattice, Structure
from torch import Tensor

from lib.symmetry.cells import MIN_VOLUME_PER_ATOM, cell_parameters, lattice_from_parameters

MIN_HEIGHT = 0.5  # Å; a generated cell flatter than this, or smaller than MIN_VOLUME_PER_ATOM, is no lattice
MAX_LENGTH = 200.0  # Å


_OFF_DIAGONAL = [1, 0, 0], [2, 2, 1]


def lattice_values(lattice: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """(n, 2, 3) diagonals and off-diagonals (yz, xz, xy) of S, half the logarithm of L L^T at unit volume.

    Lattices are (n, 3, 3) in Å, and volumes the (n,) Å^3 that count as unit volume.
    """
    squares, axes = np.linalg.eigh(lattice @ lattice.transpose(0, 2, 1))
    logarithm = np.einsum("nik,nk,njk->nij", axes, 0.5 * np.log(squares), axes)
    diagonal = np.einsum("nii->ni", logarithm) - np.log(volumes)[:, None] / 3
    return np.stack([diagonal, logarithm[:, *_OFF_DIAGONAL]], axis=1)


def lattice_of_values(values: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """Lattices (n, 3, 3) in Å with a along x and b in the xy plane; inverse of :func:`lattice_values`."""
    logarithm = np.zeros((len(values), 3, 3))
    logarithm[:, *_OFF_DIAGONAL] = values[:, 1]
    logarithm += logarithm.transpose(0, 2, 1)
    np.einsum("nii->ni", logarithm)[:] = values[:, 0]
    logs, axes = np.linalg.eigh(np.nan_to_num(logarithm, posinf=0, neginf=0))
    lattice = np.einsum("nik,nk,njk->nij", axes, np.exp(logs.clip(-20, 20)), axes) * np.cbrt(volumes)[:, None, None]
    return np.where(np.isfinite(values).all((1, 2))[:, None, None], upright(lattice), np.nan)


def upright(lattice: np.ndarray) -> np.ndarray:
    """The same cells (n, 3, 3), turned so that a lies along x and b in the xy plane."""
    return lattice_from_parameters(*cell_parameters(lattice))


def to_structure(lattice: np.ndarray, species: np.ndarray, frac_coords: np.ndarray) -> Structure | None:
    """A pymatgen structure, or None where the numbers make no crystal (not finite, flat or collapsed cell)."""
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()) or np.abs(lattice).max() > MAX_LENGTH:
        return None
    volume = abs(np.linalg.det(lattice))
    faces = np.linalg.norm(np.cross(lattice[[1, 2, 0]], lattice[[2, 0, 1]]), axis=-1)
    if volume < MIN_VOLUME_PER_ATOM * len(species) or (volume / faces.clip(1e-9)).min() < MIN_HEIGHT:
        return None
    return Structure(Lattice(lattice), species.tolist(), frac_coords, to_unit_cell=True)


def matrix_of_values(values: Tensor) -> Tensor:
    """Diagonals and off-diagonals (yz, xz, xy) (B, 2, 3) -> symmetric matrices (B, 3, 3)."""
    (xx, yy, zz), (yz, xz, xy) = values[:, 0].unbind(-1), values[:, 1].unbind(-1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).unflatten(-1, (3, 3))


def values_of_matrix(matrix: Tensor) -> Tensor:
    """Inverse of :func:`matrix_of_values`."""
    off = torch.stack([matrix[:, 1, 2], matrix[:, 0, 2], matrix[:, 0, 1]], -1)
    return torch.stack([matrix.diagonal(dim1=1, dim2=2), off], dim=1)


def symmetric_function(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of symmetric matrices (B, 3, 3), applied to their eigenvalues."""
    values, axes = torch.linalg.eigh(matrix)
    return torch.einsum("bik,bk,bjk->bij", axes, function(values), axes)
