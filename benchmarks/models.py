"""What the benchmarks of the networks share: trainers as the notebooks make them, their steps, and samples of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.timing import Job, Result, in_turns, repeated
from lib.core.run import Run
from lib.crystals.table import CrystalTable
from lib.datasets.sources.embedded import EMBEDDED
from lib.models.batch import Batch
from lib.models.transformer import TransformerSizes
from lib.models.unet import UNetSizes
from lib.training.spec import TrainSettings, make_spec
from lib.training.trainer import Trainer

N_CRYSTALS = 1024  # of the embedded set
NO_GPU = "no CUDA device here"
TINY_UNET = UNetSizes(16, (1, 2), 1, (1, 2), 16, 16)
TINY_TRANSFORMER = TransformerSizes(16, 1, 2)


def crystals(run: Run) -> CrystalTable:
    """Crystals of the embedded set, drawn with the run's seed."""
    n = 16 if run.params.tiny else N_CRYSTALS
    table = CrystalTable.from_parquet(EMBEDDED)
    return table.take(np.sort(np.random.default_rng(run.seed).permutation(len(table))[:n]))


@contextmanager
def trainer(run: Run, network: str, batch_size: int, *, on_cpu: bool = False) -> Iterator[Trainer]:
    """A trainer of flow matching from uniform noise with the network's default sizes, or tiny ones.

    On the run's device in bf16 and, on a GPU, compiled; or on the CPU in single precision.
    """
    table = crystals(run)
    tiny = {"paper": TINY_UNET, "transformer": TINY_TRANSFORMER}[network]
    sizes = tiny if run.params.tiny else type(tiny)()
    spec = make_spec("generation", network, "cfm_uniform", table, sizes)
    device, precision = (torch.device("cpu"), "fp32") if on_cpu else (run.device, "bf16")
    how = {"steps": 10**6, "batch_size": batch_size, "precision": precision, "seed": run.seed}
    if device.type == "cuda" and "compile" in {field.name for field in fields(TrainSettings)}:
        how["compile"] = True
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{spec.name}.safetensors"
        yield Trainer(spec, table, table.take(range(8)), TrainSettings(**how), path, device)


def training_step(trainer: Trainer) -> Job:
    """A job that takes one step of the trainer's loop after another, through the batches of an epoch."""
    order, size = trainer.data.epoch(0)[0], trainer.settings.batch_size
    order = np.resize(order, max(len(order) // size, 1) * size)
    batches = np.split(order, len(order) // size)

    def step() -> None:
        rows = batches[trainer.step % len(batches)]
        trainer._train_step(rows, rows)
        trainer.step += 1

    return step


def batch_of(trainer: Trainer, n: int) -> Batch:
    """n crystals of the trainer's data, without needless padding."""
    rows = np.resize(trainer.data.epoch(0)[0], n)
    return trainer.data.batch(rows, rows)


def sampling(trainer: Trainer, net: torch.nn.Module, n: int, steps: int) -> Job:
    """A job that draws n crystals in so many steps."""
    batch = batch_of(trainer, n)

    def sample() -> torch.Tensor:
        generator = torch.Generator(batch.x_1.device).manual_seed(0)
        return trainer.method.sample(net, batch, generator, steps)

    return sample


def per_second(run: Run, line: Result, job: Job, items: int) -> Result:
    """How many items a second a job gets done, by itself."""
    job, times = repeated(job, at_least=0.01 if run.params.tiny else 1.0)
    seconds = in_turns({"job": job}, run.params.repetitions)["job"]
    return line.of([items * times / s for s in seconds])
