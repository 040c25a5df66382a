"""The benchmark's commands.

    python -m lib.dismai score structures.extxyz --dataset alloy_300K_wide --data outputs/dismai/data

prints the scores of a file of structures beside those of answers that need no learning, and with `--out NAME` writes
NAME.json and NAME.html. The data sets are those that notebook 30 leaves in the run's `data` folder.

    python -m lib.dismai silicon --cells 300

makes the amorphous silicon that ships (:mod:`lib.dismai.ship`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from pymatgen.core import Structure

from lib.core.commands import Help, command, whole
from lib.core.errors import BadInput
from lib.core.files import replacing, write_json
from lib.crystals.exchange import read_structures
from lib.crystals.structure_io import told
from lib.dismai.score import GENERATED, Reference, baselines, score
from lib.dismai.ship import ship_silicon
from lib.dismai.silicon import SHIPPED
from lib.dismai.systems import rejected

BESIDE = ["entrant", "state", "metric", "value", "low", "high", "normalised", "energy_distance", "nearest", "failed"]


def main() -> None:
    """Score structures of any program against a data set of the benchmark, or make the silicon that ships."""
    parser = argparse.ArgumentParser(prog="python -m lib.dismai", description=__doc__, formatter_class=Help)
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("score", help="score a file of structures", formatter_class=Help)
    scoring.add_argument("file", type=Path, help="extended XYZ, CIF, zip file or folder")
    scoring.add_argument("--dataset", required=True, help="such as alloy_300K_wide")
    scoring.add_argument("--data", type=Path, default=Path("outputs/dismai/data"), help="where notebook 30 left it")
    scoring.add_argument("--asked", type=whole(1), help="structures that were asked for; those missing have failed")
    scoring.add_argument("--baselines", type=whole(0), default=300, help="structures of each baseline; 0 for none")
    scoring.add_argument("--out", type=Path, help="write OUT.json and OUT.html")
    cells = commands.add_parser("silicon", help="quench the amorphous silicon that ships", formatter_class=Help)
    cells.add_argument("--cells", type=whole(1), default=300)
    cells.add_argument("--out", type=Path, default=SHIPPED, help="a parquet file; the card stands beside it")
    cells.add_argument("--keep", type=Path, default=Path("outputs/silicon"), help="where each cell is kept meanwhile")
    cells.add_argument("--workers", type=whole(1), default=1)
    with command():
        arguments = parser.parse_args()
        if arguments.command == "silicon":
            arguments.keep.mkdir(parents=True, exist_ok=True)
            made = ship_silicon(arguments.cells, arguments.out, arguments.keep, arguments.workers)
            print(f"{len(made)} cells in {arguments.out}")
        else:
            _score_file(arguments)


def _score_file(arguments: argparse.Namespace) -> None:
    reference = Reference.read(arguments.dataset, arguments.data, n=arguments.baselines or GENERATED)
    left_out: dict[str, str] = {}
    found = read_structures([arguments.file], left_out)
    for name, structure in found.items():
        rejected(structure, reference.training.lattice[0], reference.training.species_of(0), name)
    if left_out:
        print(told(left_out, len(found) + len(left_out)))
    structures: list[Structure | None] = [*found.values(), *[None] * len(left_out)]
    if arguments.asked is not None and arguments.asked < len(structures):
        raise BadInput(
            f"{arguments.file} holds {len(structures)} structures, more than the {arguments.asked} asked for"
        )
    structures += [None] * ((arguments.asked or len(structures)) - len(structures))
    own = score(arguments.file.stem, structures, reference)
    print(own.drop(columns=["entrant", "dataset"]).T.to_string(header=False))
    table = pd.concat([own, baselines(reference)], ignore_index=True) if arguments.baselines else own
    print(table[BESIDE].to_string(index=False))
    if arguments.out:
        write_json(arguments.out.with_suffix(".json"), table.to_dict("records"))
        with replacing(arguments.out.with_suffix(".html")) as temporary:
            temporary.write_text(table.to_html(index=False))
