"""Space groups, Wyckoff positions, asymmetric units, subgroups, orbits, the standard cell."""
