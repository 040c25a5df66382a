"""SevenNet-0 and SevenNet-l3i5 (Park et al., 10.1021/acs.jctc.4c00190), whose weights the package sevenn carries.

l3i5 is the more accurate and the slower one. Both are smooth, so that relaxations take fewer steps than CHGNet's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ase import Atoms

from lib.energies.potentials.interface import Card, Evaluation, Potential


class SevenNet0(Potential):
    """SevenNet-0 of 11 July 2024."""

    folder: ClassVar[str] = "SevenNet_0__11Jul2024"
    card = Card(
        name="SevenNet-0 11Jul2024",
        package="sevenn",
        weights="inside the package, pretrained_potentials/SevenNet_0__11Jul2024",
        weights_sha256="7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
        licence="MIT",
        trained_on="MPtrj: relaxations of the Materials Project, 2022",
        energies="PBE and PBE+U as calculated, without corrections",
        source="10.1021/acs.jctc.4c00190",
        knows=frozenset(range(1, 95)) - {84, 85, 86, 87, 88},  # none of Po, At, Rn, Fr, Ra
    )

    def __init__(self) -> None:
        super().__init__()
        import sevenn
        from sevenn.checkpoint import SevenNetCheckpoint
        from torch_geometric.loader.dataloader import Collater

        (path,) = (Path(sevenn.__file__).parent / "pretrained_potentials" / self.folder).glob("*.pth")
        checkpoint = SevenNetCheckpoint(self.card.check(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it would be faster with the packages of a GPU
            self.model = checkpoint.build_model().requires_grad_(False).eval()
        self.model.set_is_batch_data(True)
        self.cutoff = checkpoint.config["cutoff"]
        self.collate = Collater([], exclude_keys=["data_info"])

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph

        graphs = [AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, self.cutoff)) for atoms in crystals]
        found = self.model(self.collate(graphs))
        energies = found["inferred_total_energy"].detach().double().numpy().reshape(-1)
        forces = found["inferred_force"].detach().double().numpy()
        stresses = -found["inferred_stress"].detach().double().numpy().reshape(-1, 6)  # its sign is VASP's
        results, start = [], 0
        for atoms, energy, stress in zip(crystals, energies, stresses, strict=True):
            own = forces[start : start + len(atoms)]
            start += len(atoms)
            results.append(Evaluation(float(energy), own, stress[[[0, 3, 5], [3, 1, 4], [5, 4, 2]]]))
        return results


class SevenNetL3I5(SevenNet0):
    """SevenNet-l3i5: tensors up to l = 3, five layers."""

    folder: ClassVar[str] = "SevenNet_l3i5"
    card = replace(
        SevenNet0.card,
        name="SevenNet-l3i5",
        weights="inside the package, pretrained_potentials/SevenNet_l3i5",
        weights_sha256="a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
    )
