"""Classifier-free guidance: what was asked for, weighed against what comes unasked (Ho, Salimans, arXiv:2207.12598)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lib.models.batch import Batch


def guided(net: nn.Module, guidance: float) -> Callable[..., Tensor]:
    """The network (x, t, batch) -> velocities or scores, or one that answers f_open + w (f_asked - f_open) in two
    evaluations.

    f_open is its output with neither space group nor energy given; orbits are kept. It must have been trained with
    open conditions. Velocities and scores are guided by this formula alike. With a guidance w of 1 the network is
    returned as it is, with 0 space group and energy count for nothing.
    """
    if guidance == 1:
        return net

    def weighed(x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        unasked = net(x, t, replace(batch, conditions=batch.conditions.opened()))
        return torch.lerp(unasked, net(x, t, batch), guidance)

    return weighed
