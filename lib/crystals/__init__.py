"""Crystals as packed arrays, and the one door for structures from outside: read, check, standardise."""
