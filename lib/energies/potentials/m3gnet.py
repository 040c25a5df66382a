"""M3GNet-MP-2021.2.8-PES, the potential of the paper's pre-optimisation (Chen and Ong, 10.1038/s43588-022-00349-3).

matgl from version 3 on sums the messages of M3GNet's graph convolution at the source atom of each edge; these weights
were trained when it summed them at the destination. Loaded as they are, they give wrong energies without any error:
rock salt -1.25 eV/atom instead of -3.37. Here the sum is as it was in training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from lib.core.files import ROOT
from lib.core.web import fetch
from lib.energies.potentials.interface import Card, Evaluation, Potential

FOLDER = ROOT / "data" / "potentials" / "M3GNet-MP-2021.2.8-PES"
URL = "https://github.com/materialyzeai/matgl/raw/e9cde22/pretrained_models/M3GNet-MP-2021.2.8-PES"
FILES = {
    "model.json": "05e7db8676ceb37eb07848aff49c556b188699e1035f3df0cbbf1a2c4959148f",
    "model.pt": "62678f76fbc5d8997ea1d7f3c4bf086df200102125c802b32b08ce14fbcde25b",
    "state.pt": "a9aa723705bd1a242ec8749332f137811c4a94e17995a564f8f94a9aca68061b",
}
GPA = 160.21766208  # of an eV/Å^3


class M3GNet(Potential):
    """The paper's M3GNet through matgl, with messages summed where they were in training."""

    card = Card(
        name="M3GNet MP-2021.2.8",
        package="matgl",
        weights=URL,
        weights_sha256=FILES["state.pt"],
        licence="BSD-3-Clause",
        trained_on="relaxations of the Materials Project, February 2021",
        energies="PBE and PBE+U as calculated, without corrections",
        source="10.1038/s43588-022-00349-3",
        knows=frozenset(range(1, 95)) - {84, 85, 86, 87, 88},  # none of Po, At, Rn, Fr, Ra
    )

    def __init__(self) -> None:
        super().__init__()
        from matgl.apps.pes import Potential as Network
        from matgl.ext.ase import Atoms2Graph

        for name, checksum in FILES.items():
            fetch(f"{URL}/{name}", checksum, FOLDER / name, f"put the files of {URL} into {FOLDER}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the weights are of an older version, which is known
            self.network = Network.load(FOLDER).requires_grad_(False).eval()
        self.graph_of = Atoms2Graph(self.network.model.element_types, self.network.model.cutoff)
        for block in self.network.model.graph_layers:
            block.conv.node_update_ = _at_the_destination.__get__(block.conv)

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
        import torch
        from torch_geometric.data import Batch

        graphs, lattices, _ = zip(*map(self.graph_of.get_graph, crystals), strict=True)
        energies, forces, stresses, _ = self.network(Batch.from_data_list(list(graphs)), torch.cat(lattices))
        starts = np.cumsum([len(atoms) for atoms in crystals])[:-1]
        forces = np.split(forces.detach().double().numpy(), starts)
        stresses = stresses.detach().double().numpy().reshape(-1, 3, 3) / GPA
        return [
            Evaluation(float(energy), force, stress)
            for energy, force, stress in zip(energies.detach().reshape(-1), forces, stresses, strict=True)
        ]


def _at_the_destination(conv, edge_index, edge_feat, node_feat, rbf, u_per_edge, num_nodes):
    """Eq. 5 of the paper of M3GNet, each message summed at the destination atom of its edge."""
    import torch

    source, destination = edge_index
    inputs = torch.hstack([node_feat[source], node_feat[destination], edge_feat])
    messages = conv.node_update_func(inputs) * conv.node_weight_func(rbf)
    return messages.new_zeros(num_nodes, messages.shape[1]).index_add(0, destination, messages)
