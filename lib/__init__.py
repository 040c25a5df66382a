"""The library behind the notebooks, in rooms; a room imports only from those above it.

core       run context and manifest, parameters and profiles, safe writing, processes, intervals, published numbers
symmetry   space groups, Wyckoff positions, asymmetric units, subgroups, orbits, the standard cell
crystals   CrystalTable; the one entrance for structures from outside: read, check, standardise; elements, validity
energies   potentials and relaxation, formation energies and hulls, VASP inputs and outputs
datasets   sources (embedded, AFLOW, MP-20, files), funnel, polymorph groups, splits, pairs, checks of a data set
metrics    match rates, duplicates, distances to the hull, whether structures are as requested
retrieval  which template or which sites a composition takes: substitution, site statistics, learnt ranking
models     networks, the states that they see (64x3 matrix, periodic state, orbits), losses
methods    one file a method: what is drawn, its loss, its samplers
training   what a model is, batches, the one training loop, files of weights, the registry of methods and networks
generation trained models ready to sample, shipped weights, a request and its answer
studies    the notebooks' parameters, and what a notebook needs that no other room has
figures    every plot; computes nothing
report     pages, index, findings, publishing, verifying, goals
entrants   methods with fit and sample, each a row of Table 1

The modules beside the rooms are commands (`python -m lib.generate`, `lib.evaluate`, ...) without logic of their own.
"""
