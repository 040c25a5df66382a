"""Potentials and relaxation, formation energies, convex hulls, DFT inputs and outputs."""
