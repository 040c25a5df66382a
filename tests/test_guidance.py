"""Guidance weighs the answer to a request against the answer to none."""

import torch

from lib.methods.guidance import guided
from lib.models.batch import Batch, Conditions

ASKED = Conditions(torch.tensor([[29, 0], [13, 28]]), torch.tensor([225, 2]), torch.tensor([-0.5, 0.25]))


def told(x, t, batch):
    """What it was told of: the space group, and the energy where there is one."""
    energy = batch.conditions.energy.nan_to_num(7.0)
    return x + (batch.conditions.space_group + energy)[:, None, None]


def test_open_conditions_keep_atoms():
    opened = ASKED.opened()
    assert (opened.space_group == 0).all() and opened.energy.isnan().all()
    assert opened.species is ASKED.species
    assert opened.space_group.dtype == ASKED.space_group.dtype


def test_the_answer_is_carried_on_from_the_unasked_to_the_asked():
    x = torch.zeros(2, 4, 3)
    for w in (0.0, 0.5, 2.5):
        out = guided(told, w)(x, None, Batch(x, ASKED))[:, 0, 0]
        torch.testing.assert_close(out, 7 + w * (torch.tensor([224.5, 2.25]) - 7))


def test_no_guidance_is_the_network_itself():
    assert guided(told, 1.0) is told
