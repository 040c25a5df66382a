"""Guidance weighs the answer to a request against the answer to none."""

from dataclasses import replace

import torch

from lib.guidance import guided
from lib.tensors import Conditions

ASKED = Conditions(torch.tensor([[29, 0], [13, 28]]), torch.tensor([225, 2]), torch.tensor([-0.5, 0.25]))


def told(x, t, conditions, x_0):
    """What it was told of: the space group, and the energy where there is one."""
    energy = conditions.energy.nan_to_num(7.0)
    return x + (conditions.space_group + energy)[:, None, None]


def test_open_conditions_keep_atoms_and_orbits():
    orbits = object()
    opened = replace(ASKED, orbits=orbits).opened()
    assert (opened.space_group == 0).all() and opened.energy.isnan().all()
    assert opened.species is ASKED.species and opened.orbits is orbits
    assert opened.space_group.dtype == ASKED.space_group.dtype


def test_the_answer_is_carried_on_from_the_unasked_to_the_asked():
    x = torch.zeros(2, 4, 3)
    for w in (0.0, 0.5, 2.5):
        out = guided(told, w)(x, None, ASKED, None)[:, 0, 0]
        torch.testing.assert_close(out, 7 + w * (torch.tensor([224.5, 2.25]) - 7))


def test_no_guidance_is_the_network_itself():
    assert guided(told, 1.0) is told
