"""Energies from first principles: VASP and GPAW behind one form of a finished calculation."""
