"""Dismai-Bench (Yong, Su and Ertekin, 10.1039/D4DD00100A): disordered materials that any generator can be tested on.

Data sets of one composition in one cell, from first principles where the authors' files are not at hand; floors and
baselines beside every number; one rule for all entrants.
"""
