"""Classifier-free guidance: what was asked for, weighed against what comes unasked (Ho, Salimans, arXiv:2207.12598)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib.tensors import Conditions


def guided(net: nn.Module, guidance: float) -> Callable[..., Tensor]:
    """The network, or one that answers f_open + w (f_asked - f_open) in two evaluations.

    f_open is its output with neither space group nor energy given; orbits are kept. It must have been trained with
    open conditions. Velocities and scores are guided by this formula alike.

    Args:
        net: (x, t, conditions, x_0) -> velocities or scores.
        guidance: w; with 1 the network is returned as it is, with 0 only the orbits and elements are heeded.
    """
    if guidance == 1:
        return net

    def weighed(x: Tensor, t: Tensor, conditions: Conditions, x_0: Tensor | None) -> Tensor:
        unasked = net(x, t, conditions.opened(), x_0)
        return torch.lerp(unasked, net(x, t, conditions, x_0), guidance)

    return weighed
