"""Crystals, and VASP's output for them, written as VASP writes it."""

import re

import numpy as np
from pymatgen.core import Lattice, Structure

TITELS = {"B": "PAW_PBE B 06Sep2000", "Ta": "PAW_PBE Ta_pv 07Sep2000", "W": "PAW_PBE W_sv 04Sep2015"}


def crystal(*symbols: str) -> Structure:
    coords = [[i / len(symbols)] * 3 for i in range(len(symbols))]
    return Structure(Lattice.cubic(2.6 * len(symbols) ** (1 / 3)), list(symbols), coords)


def vasprun(
    structure: Structure,
    energies: list[float],
    *,
    encut: float = 500.0,
    nelm: int = 200,
    nsw: int = 200,
    n_scf: int = 3,
    tags: str = "",
    titles: dict[str, str] = TITELS,
    divisions: tuple[int, int, int] = (4, 4, 4),
    pressure: float = 0.0,
    force: float = 0.0,
) -> str:
    """A vasprun.xml as VASP 6 writes it for a relaxation, without the blocks of bands and densities of states.

    Args:
        structure: atoms of one element next to each other.
        energies: total energy (sigma -> 0) of each ionic step, eV a cell.
        n_scf: electronic steps of each ionic step.
        tags: further ones, as in INCAR: "GGA = PS, LDAUU = 4 0".
        titles: of the pseudopotentials.
        divisions: of the k-point mesh.
        pressure: at the end, kB.
        force: on the first atom at the end, along y, eV/Å.
    """
    ibrion = 2
    more = ""
    for tag, value in (pair.split(" = ") for pair in tags.split(", ") if pair):
        if tag == "IBRION":
            ibrion = int(value)
            continue
        kind = "logical" if value in ("T", "F") else "int" if value.isdecimal() else "string"
        kind = "" if re.fullmatch(r"[\d. -]+", value) and "." in value else f' type="{kind}"'
        mark = "v" if " " in value else "i"
        more += f'<{mark}{kind} name="{tag}"> {value} </{mark}>\n  '

    def vectors(rows: np.ndarray, indent: str) -> str:
        return "\n".join(f"{indent}<v> " + " ".join(f"{x:16.8f}" for x in row) + " </v>" for row in rows)

    def crystal(name: str) -> str:
        lattice = structure.lattice
        return f"""<structure{name}>
  <crystal>
   <varray name="basis" >
{vectors(lattice.matrix, "    ")}
   </varray>
   <i name="volume"> {lattice.volume:16.8f} </i>
   <varray name="rec_basis" >
{vectors(lattice.reciprocal_lattice_crystallographic.matrix, "    ")}
   </varray>
  </crystal>
  <varray name="positions" >
{vectors(structure.frac_coords, "   ")}
  </varray>
 </structure>"""

    def energy(value: float) -> str:
        return f"""<energy>
   <i name="e_fr_energy"> {value - 0.002:16.8f} </i>
   <i name="e_wo_entrp"> {value + 0.002:16.8f} </i>
   <i name="e_0_energy"> {value:16.8f} </i>
  </energy>"""

    n = len(structure)
    symbols = [site.specie.symbol for site in structure]
    kinds = list(dict.fromkeys(symbols))
    atoms = "".join(f"<rc><c>{s:2}</c><c>{kinds.index(s) + 1:4} </c></rc>\n" for s in symbols)
    types = "".join(
        f"<rc><c>{symbols.count(s):4} </c><c>{s:2}</c><c>     10.00000000</c><c>      5.00000000</c>"
        f"<c>  {titles[s]:38}</c></rc>\n"
        for s in kinds
    )
    steps = "".join(
        f"""<calculation>
  {"".join(f"<scstep>{energy(value)}</scstep>" for _ in range(n_scf))}
  {crystal("")}
  <varray name="forces" >
{vectors(force * np.eye(n, 3, 1) * (np.arange(n) == 0)[:, None], "   ")}
  </varray>
  <varray name="stress" >
{vectors(pressure * np.eye(3), "   ")}
  </varray>
  {energy(value)}
 </calculation>
"""
        for value in energies
    )
    ionic = f"""<i type="int" name="IBRION">{ibrion:6}</i>
  <i type="int" name="NSW">{nsw:6}</i>"""
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator>
  <i name="program" type="string">vasp </i>
  <i name="version" type="string">6.3.2  </i>
  <i name="subversion" type="string">27Jun22 (build Jul 05 2022 12:00:00) complex parallel </i>
 </generator>
 <incar>
  <i type="string" name="PREC">accurate</i>
  <i name="ENCUT">    {encut:.8f}</i>
  {ionic}
  {more}
 </incar>
 <kpoints>
  <generation param="Gamma">
   <v type="int" name="divisions">  {" ".join(map(str, divisions))} </v>
   <v name="usershift">      0.00000000       0.00000000       0.00000000 </v>
   <v name="genvec1">      0.25000000       0.00000000       0.00000000 </v>
   <v name="genvec2">      0.00000000       0.25000000       0.00000000 </v>
   <v name="genvec3">      0.00000000       0.00000000       0.25000000 </v>
   <v name="shift">      0.00000000       0.00000000       0.00000000 </v>
  </generation>
  <varray name="kpointlist" >
   <v>       0.00000000       0.00000000       0.00000000 </v>
  </varray>
  <varray name="weights" >
   <v>       1.00000000 </v>
  </varray>
 </kpoints>
 <parameters>
  <separator name="electronic" >
   <i name="ENMAX">    {encut:.8f}</i>
   {more}
   <separator name="electronic convergence" >
    <i type="int" name="NELM">{nelm:6}</i>
   </separator>
  </separator>
  <separator name="ionic" >
  {ionic}
  </separator>
 </parameters>
 <atominfo>
  <atoms>{n:8} </atoms>
  <types>{len(kinds):8} </types>
  <array name="atoms" >
   <dimension dim="1">ion</dimension>
   <field type="string">element</field>
   <field type="int">atomtype</field>
   <set>
{atoms}   </set>
  </array>
  <array name="atomtypes" >
   <dimension dim="1">type</dimension>
   <field type="int">atomspertype</field>
   <field type="string">element</field>
   <field>mass</field>
   <field>valence</field>
   <field type="string">pseudopotential</field>
   <set>
{types}   </set>
  </array>
 </atominfo>
 {crystal(' name="initialpos" ')}
 {steps}
 {crystal(' name="finalpos" ')}
</modeling>
"""
