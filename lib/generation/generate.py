"""A user's request answered with ranked crystal structures, by weights that ship with the project.

    python -m lib.generate NaCl --out salt/
    python -m lib.generate TaW2B5 --space-group any --energy lowest --z 1..2 --n 16 --relax chgnet --out cifs/
    python -m lib.generate SrTiO3 BaTiO3 --space-group Pm-3m,P4mm --out perovskites/
    python -m lib.generate --requests requests.csv --out answers/
    python -m lib.generate --system Ta-W-B --max-atoms 8 --n 4 --out system/
    python -m lib.generate TaW2B5 --templates outputs/mp20_cpu --hull outputs/mp20_cpu/data/crystals.parquet --out cifs/
    python -m lib.generate --improve mine.cif --n 8 --out better/

Requests are formulas, a csv file with the column formula and any of space_group, energy, z, n (an empty cell is the
option given here), or a chemical system: all formulas of exactly its elements in lowest terms, up to a number of atoms.

Each request gets n structures from the model, on sites that crystals of the same counts took in training, those of
alike elements first; the asked group, if any, is kept exactly. Beside them stand crystals of the formula that the
hull's data hold and AFLOW's prototypes with its elements, which the table marks as known. All are relaxed within their
symmetry and ranked by energy; of equal ones one is kept. A formula takes about a minute of one core.

With --templates sites, coordinates and cell come from training crystals of a run, ranked as its notebook 04 has learnt
to. Energy "lowest" asks for an energy so far below that expected of the composition as a tenth of the training crystals
lie. --improve asks for other polymorphs of given crystals, which are ranked among their improvements; --energy is then
the difference from the crystal's own. Distances from a hull are given where its data hold the elements, with what the
potential resolves.

In --out: a CIF file each, structures.extxyz with all of them, summary.csv, and about.json; all say where they come
from. The same command continues an interrupted one; another needs a folder of its own. From Python:

    from lib.generation.generate import generate
    answers = generate("NaCl", n=8)
    answers.table, answers.structures
"""

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter

from lib.core.commands import Help, command, whole
from lib.core.errors import BadInput
from lib.core.files import only_one_in, read_json, replacing, write_json
from lib.core.machine import code_version, torch_device
from lib.crystals.exchange import read_structures, write_extxyz
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.datasets.sources.files import read_csv
from lib.energies.potentials import DEFAULT_POTENTIAL, POTENTIALS, potential_provenance
from lib.generation.answers import Answers, answer
from lib.generation.proposals import structure_of
from lib.generation.requests import Request, formulas_of_system, read_requests
from lib.generation.sampling import TrainedModel, load_model
from lib.generation.ship import Shipped, default_weights
from lib.retrieval.template_ranking import LearntRanking
from lib.symmetry.cells import SYMPREC
from lib.symmetry.wyckoff import AsymmetricUnit

DEFAULT_WEIGHTS = {"generation": "generation_mp20", "modification": "modification_mp20"}
MAX_GUIDANCE = 20  # far beyond what makes crystals
MAX_SYSTEM_ATOMS = 8
SHOWN = 20  # rows of the table on the screen


def generate(
    formulas: str | Sequence[str] = (),
    *,
    requests: Sequence[Request] | None = None,
    space_group: str | int = "any",
    energy: str | float = "any",
    z: str | int = "any",
    n: int = 16,
    relax: str = DEFAULT_POTENTIAL,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    templates: str | Path | None = None,
    hull: str | Path | CrystalTable = EMBEDDED,
    known: bool = True,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 42,
    device: str = "auto",
    n_workers: int = 2,
    command: str = "",
) -> Answers:
    """Ranked crystal structures of formulas, from weights that ship with the project.

    Args:
        formulas: one, or several.
        requests: in place of formulas and of the words that follow them, which then do not count.
        space_group: number or symbol, several with commas, or "any".
        energy: formation energy in eV/atom, "lowest" or "any".
        z: formula units in the primitive cell: 2, "1..4", or "any".
        n: structures that the model makes for each formula.
        relax, hull, known: as of :func:`lib.generation.answers.answer`.
        out: folder for the files; what an interrupted call has done is found there again.
        weights: exported weights; else those that ship.
        templates: folder of a run whose training crystals serve as templates.
        steps, guidance: of sampling; else what the weights name.
        command: what made the files, in words for them; a folder takes the files of one command.

    Raises:
        BadInput: a request cannot be understood or answered, or the folder holds the answer to another command.
    """
    if requests is None:
        words = {"space_group": space_group, "energy": energy, "z": z, "n": n}
        several = [formulas] if isinstance(formulas, str) else formulas
        requests = [Request.parse(formula, **{name: str(word) for name, word in words.items()}) for formula in several]
    if not requests:
        raise BadInput("nothing is asked for; give a formula such as TaW2B5")
    if steps is not None and steps < 1:
        raise BadInput(f"{steps} is no positive number of steps")
    if guidance is not None and not 0 <= guidance <= MAX_GUIDANCE:
        raise BadInput(f"guidance {guidance:g} is not between 0 and {MAX_GUIDANCE}; 1 is as trained")
    task = "modification" if requests[0].polymorph else "generation"
    weights = Path(weights or default_weights(DEFAULT_WEIGHTS[task]))
    if not weights.is_file():
        raise BadInput(f"the weights {weights} do not exist; name a file that lib.ship wrote")
    model = load_model(weights, torch_device(device))
    how = {name: value for name, value in {"steps": steps, "guidance": guidance}.items() if value is not None}
    if not command:
        command = f"lib.generation.generate.generate: {'; '.join(map(str, requests))}; {how}"
    about = provenance(model, weights, command=command, relax=relax, seed=seed)
    with only_one_in(Path(out), "choose another folder for --out") if out else nullcontext():
        resume = claimed(Path(out), about, {request.label for request in requests}) if out else None
        asked = {request.space_groups is not None for request in requests}
        ranking = LearntRanking.of_run(Path(templates), n_workers=n_workers, asked=asked) if templates else None
        table = hull if isinstance(hull, CrystalTable) else CrystalTable.from_parquet(hull)
        how |= {"known": known, "relax": relax, "seed": seed, "n_workers": n_workers, "resume": resume}
        answers = answer(requests, model, ranking=ranking, hull=table, **how)
        if out:
            write(answers, requests, about, Path(out))
            shutil.rmtree(resume)
        return answers


def provenance(model: TrainedModel, weights: Path, *, command: str, relax: str, seed: int) -> dict[str, object]:
    """Where structures come from, for every file that holds them."""
    shipped = Shipped.within(model.about, weights)
    facts = {
        "command": command,
        "weights": weights.name,
        "weights_sha256": model.checksum,
        "trained_on": f"{shipped.data} ({shipped.crystals} crystals)",
        "licence": shipped.licence,
        "version": str(code_version()["commit"]),
        "seed": seed,
    }
    return facts if relax == "none" else facts | potential_provenance(relax)


def claimed(folder: Path, about: Mapping[str, object], labels: Iterable[str] = ()) -> Path:
    """The folder inside `folder` that keeps what an interrupted command has done, once it belongs to this command.

    Labels are how the names of the CIF files to be written begin. Raises BadInput if `folder` holds structures of
    another command, finished or interrupted, or of something else. One that ended before it had done anything, as those
    do that cannot be answered, leaves the folder free.
    """
    resume = folder / ".resume"
    if {path.name for path in resume.glob("*")} == {"about.json"}:
        (resume / "about.json").unlink()
    ours = {resume / "about.json": "what an interrupted command has done", folder / "about.json": "the answer"}
    for path, state in ours.items():
        other = read_json(path)["command"] if path.is_file() else about["command"]
        if other != about["command"]:
            raise BadInput(f"{folder} holds {state} ({other}), which stays as it is; choose another folder for --out")
    names = ["structures.extxyz", "summary.csv"]
    taken = [folder / name for name in names if (folder / name).exists()]
    taken += [path for label in labels for path in sorted(folder.glob(f"{label}_[0-9]*.cif"))]
    if taken and not any(path.is_file() for path in ours):
        raise BadInput(f"{folder} holds a {taken[0].name} of something else; choose another folder for --out")
    write_json(resume / "about.json", about)
    return resume


def write(answers: Answers, requests: Sequence[Request], about: Mapping[str, object], folder: Path) -> None:
    """CIF files, structures.extxyz, summary.csv and about.json; CIF files of an earlier answer in the folder go."""
    summary = folder / "summary.csv"
    earlier = read_csv(summary, ["name"])["name"].tolist() if summary.exists() else []
    rows, facts = answers.table.to_dict("records"), []
    for row in rows:  # without what is not known, with `id` for the name, as lib.evaluate reads it
        known = {key: value for key, value in row.items() if value == value and value != "" and key != "name"}
        facts.append({"id": row["name"]} | known | {"asked": str(requests[row["request"] - 1]), **about})
    cells = [(s.lattice.matrix, s.frac_coords, np.array(s.atomic_numbers)) for s in answers.structures]
    # with the symmetry that spglib finds, exactly, in a primitive cell: else that of a CIF would move atoms
    structures = [structure_of(AsymmetricUnit.of(*cell, SYMPREC)) for cell in cells]
    for row, fact, structure in zip(rows, facts, structures, strict=True):
        with replacing(folder / f"{row['name']}.cif") as temporary:
            temporary.write_text(cif_of(structure, row["name"], fact))
    write_extxyz(structures, facts, folder / "structures.extxyz")
    with replacing(summary) as temporary:
        answers.table.to_csv(temporary, index=False)
    write_json(folder / "about.json", {**about, "requests": list(map(str, requests)), "warnings": answers.warnings})
    for name in set(earlier) - {row["name"] for row in rows}:
        (folder / f"{name}.cif").unlink(missing_ok=True)


def cif_of(structure: Structure, name: str, facts: Mapping[str, object]) -> str:
    """A CIF with its symmetry (spglib, 0.01 Å), the facts as comments above."""
    lines = [f"# {key}: {' '.join(str(value).split())}" for key, value in facts.items()]
    cif = str(CifWriter(structure, symprec=SYMPREC)).split("\n", 1)[1]  # its first line is a comment of its own
    return "\n".join(lines) + "\n" + re.sub(r"^data_.*$", f"data_{name}", cif, count=1, flags=re.M)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.generate", description=__doc__, formatter_class=Help)
    parser.add_argument("formulas", nargs="*", metavar="FORMULA", help="such as TaW2B5; each a word of its own")
    parser.add_argument("--requests", type=Path, help="csv file of requests")
    parser.add_argument("--system", help="chemical system, such as Ta-W-B")
    parser.add_argument("--max-atoms", type=whole(1), default=MAX_SYSTEM_ATOMS, help="of a formula of --system")
    parser.add_argument("--improve", nargs="+", type=Path, metavar="FILE", help="crystals to find better polymorphs of")
    parser.add_argument("--space-group", default="any", help="any, or numbers and symbols such as 225 or Pm-3m,P4mm")
    parser.add_argument("--energy", default="any", help="any, lowest, or eV/atom (of --improve the difference)")
    parser.add_argument("--z", default="any", help="formula units in the primitive cell: any, 2, or 1..4")
    parser.add_argument("--n", default="16", help="structures that the model makes for each request")
    potentials = f"{', '.join(POTENTIALS)}, module:Class of an ASE calculator, or none"
    parser.add_argument("--relax", default=DEFAULT_POTENTIAL, metavar="POTENTIAL", help=f"what relaxes: {potentials}")
    parser.add_argument("--no-known", dest="known", action="store_false", help="leave out known crystals, prototypes")
    parser.add_argument("--hull", type=Path, default=EMBEDDED, help="crystals that are known and make the hull")
    parser.add_argument("--out", type=Path, required=True, help="folder for the answers")
    parser.add_argument("--weights", type=Path, help=f"exported weights, else {' or '.join(DEFAULT_WEIGHTS.values())}")
    parser.add_argument("--templates", type=Path, metavar="RUN", help="run whose training crystals are templates")
    parser.add_argument("--steps", type=whole(1), help="sampling steps, else what the weights name")
    parser.add_argument("--guidance", type=float, help="how strongly conditions pull: 1 as trained, 2 twice as far")
    parser.add_argument("--seed", type=whole(0), default=42, help="of all that is drawn")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="that samples")
    parser.add_argument("--workers", dest="n_workers", type=whole(1), default=2, help="processes that relax and learn")
    return parser


def requests_of(given: argparse.Namespace) -> list[Request]:
    """What a command line asks for. Raises BadInput if that is nothing, or asked in several ways at once."""
    defaults = {"space_group": given.space_group, "energy": given.energy, "z": given.z, "n": given.n}
    if sum(map(bool, (given.formulas, given.requests, given.system, given.improve))) != 1:
        raise BadInput("give formulas, or --requests, or --system, or --improve: one of the four")
    if given.improve:
        if given.z != "any":
            raise BadInput(f"--z {given.z} is not for --improve, whose answers have the given cell's atoms; drop it")
        crystals = read_structures(given.improve).values()
        return [Request.improving(crystal, given.space_group, given.energy, given.n) for crystal in crystals]
    if given.requests:
        return read_requests(given.requests, **defaults)
    formulas = given.formulas or formulas_of_system(given.system, given.max_atoms)
    return [Request.parse(formula, **defaults) for formula in formulas]


def readable(table: pd.DataFrame, most: int = SHOWN) -> str:
    """The table's best rows for a screen, and how many are left out."""
    shown = table.head(most)
    names = {
        "space_group_0.01": "group",  # that of the cell beside it
        "formation_energy": "formation eV/atom",
        "energy_above_hull": "above hull eV/atom",
        "says": "says",
        "volume_per_atom": "Å³/atom",
        "shortest_distance": "shortest Å",
    }
    names |= {"given": "given", "below_given": "below given eV/atom"} if "given" in table else {}
    columns = shown[["name", "known", "z", *names]].rename(columns=names)
    groups, loose = (shown[f"space_group_{symprec}"].astype(str) for symprec in ("0.01", "0.1"))
    columns["group"] = groups.where(groups == loose, groups + " (" + loose + " at 0.1 Å)")
    cells = shown[["a", "b", "c", "alpha", "beta", "gamma"]].to_numpy(float)
    columns["conventional cell (Å, °)"] = [" ".join(f"{value:.4g}" for value in cell) for cell in cells]
    if not len(table):
        return "nothing is left of what was made; more structures (--n), or another request, may leave something"
    text = columns.assign(prototype=shown["prototype"]).to_string(index=False, na_rep="-")
    return text + (f"\nand {len(table) - most} more, in summary.csv" if len(table) > most else "")


@command()
def main(words: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    words = sys.argv[1:] if words is None else list(words)
    given = _parser().parse_args(words)
    asked = {"requests": requests_of(given), "command": shlex.join(["python", "-m", "lib.generate", *words])}
    options = {name: value for name, value in vars(given).items() if name not in ("system", "max_atoms", "improve")}
    answers = generate(**options | asked)
    print(answers.funnel.to_string(index=False))
    print(readable(answers.table))
    for warning in answers.warnings:
        print(f"note: {warning}")
    print(f"{len(answers.structures)} structures in {given.out}")
