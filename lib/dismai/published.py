"""Numbers that the papers publish, each with its place, as they stand beside what is measured here.

Unless a name says otherwise they are those of Yong, Su and Ertekin (10.1039/D4DD00100A): means of three trainings, with
the least and the largest, on cells of 256 to 264 atoms and the authors' data sets.
"""

from __future__ import annotations

import pandas as pd

_INTERFACE = {  # Table 1
    "CDVAE": [
        ("d_Li", 0.0664, 0.0601, 0.0697),
        ("d_Co", 0.0427, 0.0372, 0.0504),
        ("d_Sc", 0.201, 0.186, 0.214),
        ("d_all", 0.0547, 0.0508, 0.0589),
        ("failed", 0.0, 0.0, 0.0),
    ],
    "DiffCSP": [
        ("d_Li", 0.0439, 0.0414, 0.0474),
        ("d_Co", 0.0272, 0.0240, 0.0298),
        ("d_Sc", 0.0954, 0.0909, 0.102),
        ("d_all", 0.0370, 0.0353, 0.0388),
        ("failed", 7.17, 6.00, 8.90),
    ],
    "CrysTens": [
        ("d_Li", 0.0202, 0.0160, 0.0244),
        ("d_Co", 0.0141, 0.00707, 0.0239),
        ("d_Sc", 0.0972, 0.0888, 0.106),
        ("d_all", 0.0213, 0.0164, 0.0257),
        ("failed", 55.3, 50.6, 61.7),
    ],
    "UniMat": [
        ("d_Li", 0.131, 0.0966, 0.154),
        ("d_Co", 0.235, 0.165, 0.292),
        ("d_Sc", 0.101, 0.0891, 0.111),
        ("d_all", 0.151, 0.111, 0.181),
        ("failed", 64.6, 60.6, 68.3),
    ],
    "CryinGAN": [
        ("d_Li", 0.0538, 0.0466, 0.0600),
        ("d_Co", 0.0274, 0.0210, 0.0359),
        ("d_Sc", 0.0888, 0.0838, 0.0963),
        ("d_all", 0.0426, 0.0379, 0.0451),
        ("failed", 9.00, 7.20, 10.2),
    ],
}
_SILICON = {  # Table 2; the other models made no amorphous silicon
    "CDVAE": [
        ("d_motif", 0.0402, 0.0396, 0.0412),
        ("d_rdf", 0.392, 0.381, 0.408),
        ("d_angle", 0.00332, 0.00312, 0.00353),
        ("failed", 0.0, 0.0, 0.0),
    ],
    "DiffCSP": [
        ("d_motif", 0.0647, 0.0462, 0.0908),
        ("d_rdf", 1.39, 1.03, 1.69),
        ("d_angle", 0.0103, 0.00797, 0.0133),
        ("failed", 0.0, 0.0, 0.0),
    ],
}
_ALLOYS = {  # Table 3: d_cluster, with vacancies (%), failed (%)
    "alloy_300K_narrow": {
        "CDVAE": [(0.0604, 0.0540, 0.0675), (35.8, 32.0, 41.2), (0.13, 0.00, 0.40)],
        "DiffCSP": [(0.0645, 0.0566, 0.0792), (94.3, 91.8, 96.5), (0.0, 0.0, 0.0)],
        "CryinGAN": [(0.117, 0.106, 0.126), (100, 100, 100), (0.0, 0.0, 0.0)],
    },
    "alloy_300K_wide": {
        "CDVAE": [(0.0658, 0.0598, 0.0742), (37.4, 34.0, 43.4), (0.07, 0.00, 0.10)],
        "DiffCSP": [(0.103, 0.0831, 0.121), (95.8, 95.4, 96.2), (0.0, 0.0, 0.0)],
        "CryinGAN": [(0.125, 0.119, 0.129), (100, 100, 100), (0.0, 0.0, 0.0)],
    },
    "alloy_1500K_narrow": {
        "CDVAE": [(0.0621, 0.0589, 0.0665), (54.8, 51.9, 56.8), (0.37, 0.20, 0.50)],
        "DiffCSP": [(0.0308, 0.0304, 0.0313), (91.7, 91.5, 91.8), (0.0, 0.0, 0.0)],
        "CryinGAN": [(0.0643, 0.0629, 0.0659), (100, 100, 100), (0.0, 0.0, 0.0)],
    },
    "alloy_1500K_wide": {
        "CDVAE": [(0.0618, 0.0549, 0.0694), (61.3, 55.9, 68.2), (0.27, 0.20, 0.30)],
        "DiffCSP": [(0.0338, 0.0332, 0.0342), (92.3, 89.2, 94.4), (0.0, 0.0, 0.0)],
        "CryinGAN": [(0.0650, 0.0609, 0.0691), (100, 100, 100), (0.0, 0.0, 0.0)],
    },
}
_STUDY = [  # of interfaces alone, with a 95 % interval or a standard deviation where the paper has one
    ("Figure 8", "share of low energy", "random", "48 %"),
    ("Figure 8", "share of low energy", "CryinGAN", "85 %"),
    ("section 2.4.2", "not converged in relaxation", "lambda 0", "34 %"),
    ("section 2.4.2", "not converged in relaxation", "lambda 0.05", "11 %"),
    ("Table 4", "distance of the mean fingerprints of Sc", "CryinGAN", "0.2791 (0.2500 to 0.3077)"),
    ("Table 4", "their cosine similarity", "CryinGAN", "0.9905"),
    ("Table 4", "distance of the mean fingerprints of Sc", "high energy", "0.7074"),
    ("Table 4", "their cosine similarity", "high energy", "0.9316"),
    ("Table 5", "further steps with DFT", "all", "31.7 (sd 41.8)"),
    ("Table 5", "energies in the potential and in DFT, absolute difference", "all", "6.03 meV/atom (sd 10.4)"),
    ("Table 5", "the same after those steps", "all", "3.10 meV/atom (sd 3.21)"),
    ("section 4.6", "errors of the potential", "test set", "2.70 meV/atom, 20.9 meV/Å, 0.0146 GPa"),
]


def study() -> pd.DataFrame:
    """What sections 2.4, 2.5 and 4.6 publish of CryinGAN on interfaces: where, what, of which set, value."""
    return pd.DataFrame(_STUDY, columns=["where", "what", "of", "value"])


def benchmark() -> pd.DataFrame:
    """Tables 1 to 3, a line a number: dataset, entrant, metric, value, low, high (least and largest of three); what is
    published in per cent is a share, as it is where it is measured."""
    lines = [
        (dataset, entrant, *numbers)
        for dataset, table in {"interface": _INTERFACE, "silicon": _SILICON}.items()
        for entrant, row in table.items()
        for numbers in row
    ]
    lines += [
        (dataset, entrant, metric, *numbers)
        for dataset, table in _ALLOYS.items()
        for entrant, row in table.items()
        for metric, numbers in zip(("d_cluster", "vacancies", "failed"), row, strict=True)
    ]
    table = pd.DataFrame(lines, columns=["dataset", "entrant", "metric", "value", "low", "high"])
    per_cent = table.metric.isin(("failed", "vacancies")), ["value", "low", "high"]
    table.loc[per_cent] = (table.loc[per_cent] / 100).round(5)
    return table
