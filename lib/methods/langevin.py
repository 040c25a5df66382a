"""Score matching with annealed Langevin dynamics of atoms and cell (Sultanov et al., 10.1021/acs.jcim.3c00969).

Sites take normal noise in Å along the directions in which they may move, wrapped round the lattice; the cell takes
normal noise of its free coordinates (:mod:`lib.models.cell_state`). The widths of both belong to one level t, from 0 to
LEVELS - 1, between which they are in equal ratios; the paper's ten are the whole numbers, and training draws any
between. The network predicts the noise in units of its width, eps, so that the score is -eps / sigma; the mean square
of what is left of it is the paper's objective (equation 6) with its weights sigma^2.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib.core.errors import BadInput
from lib.core.streams import Streams, normal
from lib.models.batch import Batch
from lib.models.cell_state import LEVELS, POSITION_WIDTHS, CellStates, in_equal_ratios, own_metrics
from lib.models.interfaces import Draw, Method, checked_sampler
from lib.symmetry.orbits import along
from lib.symmetry.spacegroups import into_cell

# The published steps are gamma sigma^2 / sigma_F^2 with gamma 1e-3 for positions and 1e-2 for lengths, whose squared
# least widths are 1e-3 and 1e-1: in units of sigma^2 they are
POSITION_STEP, CELL_STEP = 1.0, 0.1
CORRECTION = 0.4  # share of the noise that the corrector renews, as in lib.methods.wrapped
IMAGES = 3  # on either side, of sums over the lattice and over its reciprocal
# sigma^2 over the square of the largest distance of lattice planes, from which on the series leaves nothing out; the
# sum over images, which is taken below, cannot fail: of axes far shorter than sigma it leaves up to half an axis
NARROW = 0.05
REDUCTIONS = 6  # rounds in which a basis is reduced


@functools.cache
def _neighbours(dtype: torch.dtype, device: torch.device, most: int = IMAGES) -> Tensor:
    whole = list(itertools.product(range(-most, most + 1), repeat=3))
    return torch.tensor(whole, dtype=dtype, device=device)


def _reduced(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Metrics (..., 3, 3) of shorter bases of the same lattices, and these bases, whole numbers in columns: of a skewed
    basis the nearest images may lie many cells away."""
    unit = torch.eye(3, dtype=metric.dtype, device=metric.device)
    basis = unit.expand_as(metric)
    for i in list(range(3)) * REDUCTIONS:
        for j in {0, 1, 2} - {i}:
            change = unit.repeat(*metric.shape[:-2], 1, 1)
            change[..., j, i] = -(metric[..., i, j] / metric[..., j, j]).round()
            metric, basis = change.mT @ metric @ change, basis @ change
        sums = _neighbours(metric.dtype, metric.device, 1)
        sums = sums[sums[:, i] == 1]  # of the vector and of each other one, if any, as it is or turned round
        lengths = ((sums @ metric) * sums).sum(-1)
        change = unit.repeat(*metric.shape[:-2], 1, 1)
        change[..., i] = sums[lengths.argmin(-1)]
        metric, basis = change.mT @ metric @ change, basis @ change
    return metric, basis


def wrapped_noise(move: Tensor, free: Tensor, metric: Tensor, sigma: Tensor) -> Tensor:
    """What a displacement on the torus is on average, given where it has led: -sigma^2 times the score.

    Where noise is narrower than the lattice it is the mean over the images that a site may have come from; where it is
    wider, the same from the Fourier series of its density, which is then short.

    Args:
        move: (..., 3) displacements in parameters of period 1.
        free: (..., 3) which of them may move; the others are 0.
        metric: (..., 3, 3) of the parameters, in Å^2.
        sigma: (...) width of the noise in Å.

    Returns:
        (..., 3), in the parameters.
    """
    metric, basis = _reduced(metric)
    near, inverse = _neighbours(move.dtype, move.device), torch.linalg.inv(metric)
    move = along(torch.linalg.inv(basis).round(), move)
    move, variance = move - move.round(), sigma[..., None] ** 2
    images = move[..., None, :] + near
    lengths = ((images @ metric) * images).sum(-1)
    direct = ((-lengths / (2 * variance)).softmax(-1)[..., None] * images).sum(-2)
    phase = 2 * torch.pi * (move @ near.T)
    amplitude = (-2 * torch.pi**2 * variance * ((near @ inverse) * near).sum(-1)).exp()
    density = (amplitude * phase.cos()).sum(-1, keepdim=True).clamp(min=1e-6)
    gradient = -2 * torch.pi * (amplitude * phase.sin()) @ near / density
    series = -variance * along(inverse, gradient)
    planes = inverse.diagonal(dim1=-2, dim2=-1).rsqrt()
    largest = planes.masked_fill(~free, 0.0).amax(-1, keepdim=True)
    return along(basis, torch.where(variance < NARROW * largest**2, direct, series)) * free


@dataclass(frozen=True)
class AnnealedLangevin(Method):
    """Denoising score matching of positions and cell.

    Attributes:
        representation: orbits, and a chart of the cell.
        passes: 1 to learn both scores from one noised crystal; 2, as published, to learn that of positions from another
            one whose cell is left as it is.
        cell_noise: what the noise of the cell is multiplied by in Langevin dynamics (0.15 in the paper, 0.3 in its
            code).
        moves_cell: whether the cell is sampled; else it stays that of the batch's x_1, which where crystals are made is
            the mean of the training set, and only atoms move.
    """

    samplers: ClassVar[tuple[str, ...]] = ("langevin", "predictor_corrector")
    few_steps: ClassVar[str | None] = "predictor_corrector"

    representation: CellStates
    passes: int = 1
    cell_noise: float = 0.15
    moves_cell: bool = True

    def widths(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Widths of the noise at levels t (B,): of positions in Å, and of the cell's coordinates."""
        return in_equal_ratios(POSITION_WIDTHS, t), in_equal_ratios(self.representation.cell_widths, t)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Levels (B, 2) and normal noise (B, R, 6), one of each a pass."""
        x_1 = batch.x_1
        t = torch.rand(len(x_1), 2, generator=generator, device=x_1.device) * (LEVELS - 1)
        return Draw(t, torch.randn(*x_1.shape[:2], 6, generator=generator, device=x_1.device))

    def losses(self, net: nn.Module, batch: Batch, draw: Draw) -> Tensor:
        """Half the mean square error of the noise of each free parameter of the sites, and half that of the cell's."""
        positions, cell = self._errors(net, batch, draw.t[:, 0], draw.noise[..., :3], noises_cell=True)
        if self.passes == 2:
            positions, _ = self._errors(net, batch, draw.t[:, 1], draw.noise[..., 3:], noises_cell=False)
        return (positions + cell) / 2

    def noised(
        self, batch: Batch, t: Tensor, noise: Tensor, noises_cell: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The batch's crystals with noise (B, R, 3) of levels t (B,), as Figure 1 has it.

        Returns:
            States (B, R, 3); the noise that explains where they are, in units of its width: of the parameters
            (B, R - 2, 3), and of the cell (B, 6); and the metric of the parameters (B, R - 2, 3, 3) in Å^2.
        """
        rep, orbits, x_1 = self.representation, batch.orbits, batch.x_1
        width, cell_width = self.widths(t)
        free = rep.free(batch)
        strain = noise[:, -2:].flatten(1) * free * noises_cell
        rows = rep.rows_of(rep.values(x_1) + cell_width[:, None] * strain, free)
        metric = own_metrics(orbits, rep.cell(torch.cat([x_1[:, :-2], rows], dim=1), batch)[0])
        width = width[:, None].expand(orbits.species.shape)
        move = width[..., None] * in_parameters(noise[:, :-2], metric) * orbits.free
        target = wrapped_noise(move, orbits.free, metric, width) / width[..., None]
        return torch.cat([into_cell(x_1[:, :-2] + move), rows], dim=1), target, strain, metric

    def _errors(
        self, net: nn.Module, batch: Batch, t: Tensor, noise: Tensor, noises_cell: bool
    ) -> tuple[Tensor, Tensor]:
        """Mean square errors (B,) of the predicted noise of positions and of the cell, at levels t (B,)."""
        orbits, free = batch.orbits, self.representation.free(batch)
        x_t, target, strain, metric = self.noised(batch, t, noise, noises_cell)
        output = net(x_t, t, batch)
        error = orbits.without_drift(output[:, :-2] - target)
        square = (error * along(metric, error)).sum((1, 2)) / orbits.n_free.sum(1).clamp(min=1)
        of_cell = ((output[:, -2:].flatten(1) - strain) ** 2 * free).sum(1) / free.sum(1)
        return square, of_cell

    @torch.no_grad()
    def sample(self, net: nn.Module, batch: Batch, streams: Streams, steps: int, sampler: str | None = None) -> Tensor:
        """From uniform positions and a cell as the training set's vary to a crystal.

        Args:
            steps: calls of the network. "langevin" is Algorithm 1, with T = steps / 10 of them at each level (60 to 80
                published); "predictor_corrector" goes from the widest noise to none in half as many levels, and follows
                each but the last by a step of Langevin dynamics (Song et al., arXiv:2011.13456).

        Raises:
            BadInput: the sampler is not known, or no step is asked for.
        """
        rep, sampler = self.representation, checked_sampler(self, sampler)
        if steps < 1:
            raise BadInput(f"{steps} steps were asked for; sampling needs one at least")
        start = rep.noise("normal", batch.x_1, streams)
        rows = start[:, -2:]
        if sampler == "predictor_corrector":  # whose first level is data and the widest noise together
            rows = rows * (1 + (rep.cell_widths[1] / rows.new_tensor(rep.lattice_std)) ** 2).sqrt()
        rows = rows if self.moves_cell else batch.x_1[:, -2:]
        x = rep.constrain(torch.cat([start[:, :-2] * batch.orbits.free, rows], dim=1), batch)

        def walk(x: Tensor, t: float, drift: float, renewed: float, cell_drift: float, cell_renewed: float) -> Tensor:
            """x without some of its noise at level t, and with new noise, all in units of its width."""
            level = x.new_full((len(x),), t)
            width, cell_width = (widths[:, None, None] for widths in self.widths(level))
            output, noise = net(x, level, batch), normal(x, streams)
            metric = own_metrics(batch.orbits, rep.cell(x, batch)[0])
            fresh = in_parameters(noise[:, :-2], metric)
            u = x[:, :-2] + width * (renewed * fresh - drift * output[:, :-2]) * batch.orbits.free
            change = cell_width * (cell_renewed * noise[:, -2:] - cell_drift * output[:, -2:])
            scale = x.new_tensor(rep.lattice_std)
            rows = x[:, -2:] + change / scale * self.moves_cell
            return rep.constrain(torch.cat([into_cell(u), rows], dim=1), batch)

        if sampler == "langevin":
            for i in range(steps):
                t = float((steps - 1 - i) * LEVELS // steps)
                own, cell = POSITION_STEP, CELL_STEP
                x = walk(x, t, own / 2, own**0.5, cell / 2, self.cell_noise * cell**0.5)
            return x
        n = (steps + 1) // 2
        levels = [(LEVELS - 1) * (1 - i / n) for i in range(n)]
        for t, t_next in zip(levels, [*levels[1:], None], strict=True):
            how = (kept_and_renewed(widths, t, t_next) for widths in (POSITION_WIDTHS, rep.cell_widths))
            x = walk(x, t, *(value for pair in how for value in pair))
            if t_next is not None:
                renewed = math.sqrt(CORRECTION * (2 - CORRECTION))
                x = walk(x, t_next, CORRECTION, renewed, CORRECTION, renewed)
        return x


def in_parameters(noise: Tensor, metric: Tensor) -> Tensor:
    """Standard normal noise (B, T, 3) in Å as changes of parameters whose metric is (B, T, 3, 3)."""
    return torch.linalg.solve_triangular(torch.linalg.cholesky(metric).mT, noise[..., None], upper=True)[..., 0]


def kept_and_renewed(widths: tuple[float, float], t: float, t_next: float | None) -> tuple[float, float]:
    """Of noise at level t, in units of its width, what an ancestral step to t_next (None: no noise) takes away, and
    what it adds (arXiv:2309.04475, Algorithm 2)."""
    ratio = 0.0 if t_next is None else (widths[1] / widths[0]) ** ((t_next - t) / (LEVELS - 1))
    return 1 - ratio**2, ratio * math.sqrt(1 - ratio**2)
