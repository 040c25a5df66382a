"""CHGNet 0.3.0 (Deng et al., 10.1038/s42256-023-00716-3): the fast potential, for bulk."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from lib.energies.potentials.interface import Card, Evaluation, Potential


class CHGNet(Potential):
    """CHGNet with one backward pass for forces and stress.

    chgnet's own calculator differentiates twice, keeping the graph for training, and adds magnetic moments; the
    energies are identical, forces agree to 2e-5 eV/Å, and a step takes 0.6 of the time.
    """

    card = Card(
        name="CHGNet 0.3.0",
        package="chgnet",
        weights="inside the package, pretrained/0.3.0",
        weights_sha256="d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
        licence="modified BSD",
        trained_on="MPtrj: relaxations of the Materials Project, 2022",
        energies="PBE and PBE+U with the Materials Project's corrections of 2020",
        source="10.1038/s42256-023-00716-3",
        knows=frozenset(range(1, 95)),  # rows of its table of elements, up to Pu
    )

    def __init__(self) -> None:
        super().__init__()
        import chgnet
        from chgnet.model.model import CHGNet as Model

        self.card.check(next((Path(chgnet.__file__).parent / "pretrained" / "0.3.0").glob("*.tar")))
        with contextlib.redirect_stdout(io.StringIO()):  # it announces itself, verbose or not
            self.model = Model.load(use_device="cpu", verbose=False).requires_grad_(False)
        self.model.graph_converter.set_isolated_atom_response("ignore")

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
        import torch
        from chgnet.model.model import BatchedGraph

        graphs = [self.model.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in crystals]
        batch = BatchedGraph.from_graphs(
            graphs,
            bond_basis_expansion=self.model.bond_basis_expansion,
            angle_basis_expansion=self.model.angle_basis_expansion,
            compute_stress=True,
        )
        counts = torch.tensor([len(atoms) for atoms in crystals])
        per_atom = self.model._compute(batch)["e"]
        gradients = torch.autograd.grad((per_atom * counts).sum(), [*batch.atom_positions, *batch.strains])
        energies = (per_atom.detach() + self.model.composition_model(graphs)).double().numpy() * counts.numpy()
        forces, strains = gradients[: len(graphs)], gradients[len(graphs) :]
        return [
            Evaluation(float(energy), -force.double().numpy(), strain.double().numpy() / atoms.get_volume())
            for energy, force, strain, atoms in zip(energies, forces, strains, crystals, strict=True)
        ]

    def features(self, structures: Sequence[Structure]) -> np.ndarray:
        """(n, 64) features of crystals: the mean of those of their atoms, from which the energy per atom is made."""
        import torch

        graphs = [self.model.graph_converter(structure) for structure in structures]
        with torch.no_grad():
            sums = self.model(graphs, task="e", return_crystal_feas=True)["crystal_fea"].double().numpy()
        return sums / np.array([len(structure) for structure in structures])[:, None]
