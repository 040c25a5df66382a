"""What is done to each crystal by itself, in shards: here by several processes, or on a cluster by a job each.

    python -m lib.datasets asymmetric_units data/training.parquet 3 16 data/prepared/

does the fourth of sixteen shards, and the folder is the table when all are there: the Snakefile's rule `shard`, where
notebook 02's parameter `shards` is 16. A shard that is done is not done again.
"""

import argparse
from pathlib import Path

from lib.core.commands import Help, command, whole
from lib.core.errors import BadInput
from lib.core.workers import do_all
from lib.crystals.columns import checksum, n_rows
from lib.crystals.table import CrystalTable

SHARD = 2000  # crystals, some ten seconds of one core for their symmetry
TASKS = ("standard_cells", "asymmetric_units")
_SOURCE = "shard of"  # fact of a shard: the checksum of the table that it is a part of


def shard_path(folder: Path, shard: int, of: int) -> Path:
    """The file of one shard."""
    return folder / f"{shard:05d}_of_{of:05d}.parquet"


def do_shard(task: str, source: Path, shard: int, of: int, folder: Path, source_sum: str = "") -> None:
    """Write one shard of a table with a task of TASKS done, unless it is there already.

    Raises:
        BadInput: there is no such task or shard, or the table cannot be read.
    """
    if task not in TASKS or not 0 <= shard < of:
        raise BadInput(f"there is no shard {shard} of {of} or no task {task!r}; tasks are {', '.join(TASKS)}")
    path, n, source_sum = shard_path(folder, shard, of), n_rows(source), source_sum or checksum(source)
    if path.exists() and CrystalTable.from_parquet(path, range(0)).about.get(_SOURCE) == source_sum:
        return
    table = CrystalTable.from_parquet(source, range(n * shard // of, n * (shard + 1) // of))
    if task == "standard_cells":
        table = table.standardised()
    else:
        len(table.asymmetric_units)  # found here, they are written with the table
    table.with_notes(about={_SOURCE: source_sum}).to_parquet(path)


def in_shards(task: str, source: Path, folder: Path, n_workers: int, of: int | None = None) -> CrystalTable:
    """A table with a task of TASKS done, shard by shard; the files that the folder has from before are taken.

    The result does not depend on the number of shards, `of`. Raises BadInput as :func:`do_shard`.
    """
    of = of or max(1, -(-n_rows(source) // SHARD))
    source_sum = checksum(source)
    arguments = [(task, source, shard, of, folder, source_sum) for shard in range(of)]
    do_all(do_shard, arguments, n_workers, desc=task.replace("_", " "), unit="shard")
    shards = [CrystalTable.from_parquet(shard_path(folder, shard, of)) for shard in range(of)]
    about = {fact: value for fact, value in shards[0].about.items() if fact != _SOURCE}
    return CrystalTable.join(shards, about=about)


@command()
def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m lib.datasets", description=__doc__, formatter_class=Help)
    parser.add_argument("task", choices=TASKS, help="what is done to each crystal")
    parser.add_argument("source", type=Path, help="a table, or a folder of parts of one")
    parser.add_argument("shard", type=whole(0), help="which shard, from 0")
    parser.add_argument("of", type=whole(1), help="how many there are")
    parser.add_argument("folder", type=Path, help="where the shards go")
    given = parser.parse_args()
    do_shard(given.task, given.source, given.shard, given.of, given.folder)
