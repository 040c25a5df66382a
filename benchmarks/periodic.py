"""The periodic model, a transformer of 6 blocks of width 128: against the paper-size UNet on CPU, alone on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.models import NO_GPU, crystals, per_second, sampling, trainer, training_step
from benchmarks.timing import Job, Result, in_turns, ratios
from lib.core.run import Run
from lib.crystals.elements import SYMBOLS
from lib.crystals.table import CrystalTable
from lib.generation.sampling import TrainedModel, load_model

TRAINING = Result("speed.periodic.cpu_train_ratio", "training, to the paper-size UNet", "x")
SAMPLING = Result("speed.periodic.cpu_sample_ratio", "sampling, to the paper-size UNet", "x")
TRAINING_GPU = Result("speed.periodic.train_per_s_h200", "training, batch 2,048, bf16", "samples/s")
SECONDS_10K = Result("speed.periodic.seconds_10k_h200", "10,000 structures of 10 atoms, 100 steps", "s")
BATCH, BATCH_UNET = 256, 8
STEPS, STEPS_UNET = 20, 2  # a sampler's time is that of its steps


def on_cpu(run: Run) -> Iterator[Result]:
    """Samples a second of both, each with a batch that suits it, in single precision."""
    with (
        trainer(run, "transformer", BATCH, on_cpu=True) as ours,
        trainer(run, "paper", BATCH_UNET, on_cpu=True) as unet,
    ):
        sizes = f", {BATCH} crystals at once to {BATCH_UNET}"
        jobs = {"unet": training_step(unet), "lib": training_step(ours)}
        times = ratios(in_turns(jobs, run.params.repetitions), of="unet", to="lib")
        yield replace(TRAINING, what=TRAINING.what + sizes).of([r * BATCH / BATCH_UNET for r in times])
        jobs = {
            "unet": sampling(unet, unet.net, BATCH_UNET, STEPS_UNET),
            "lib": sampling(ours, ours.net, BATCH, STEPS),
        }
        times = ratios(in_turns(jobs, run.params.repetitions), of="unet", to="lib")
        per_step = STEPS / STEPS_UNET * BATCH / BATCH_UNET
        yield replace(SAMPLING, what=SAMPLING.what + sizes).of([r * per_step for r in times])


def generation(model: TrainedModel, table: CrystalTable, n: int, n_atoms: int, steps: int) -> Job:
    """A job that draws n structures of so many atoms, from requests to pymatgen structures."""
    numbers = np.resize(table.species, (n, n_atoms))
    species = [row[np.argsort(SYMBOLS[row])] for row in numbers]
    requests = species, np.ones(n, int), np.full(n, -0.5)
    return lambda: model.generate(*requests, steps=steps, batch_size=2048)


def alone(run: Run) -> Iterator[Result]:
    """Training and sampling by the library, as fast as they go."""
    batch, n, n_atoms, steps = (4, 3, 4, 2) if run.params.tiny else (2048, 10_000, 10, 100)
    with trainer(run, "transformer", batch) as ours:
        yield per_second(run, TRAINING_GPU, training_step(ours), batch)
        ours.settings = replace(ours.settings, steps=ours.step)  # finished: it writes the model
        ours.run()
        job = generation(load_model(ours.path, ours.device), crystals(run), n, n_atoms, steps)
        yield SECONDS_10K.of(in_turns({"job": job}, run.params.repetitions)["job"])


def measure(run: Run) -> Iterator[Result]:
    """See the module's first line."""
    yield from on_cpu(run)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
        yield from alone(run)
    else:
        yield TRAINING_GPU.without(NO_GPU)
        yield SECONDS_10K.without(NO_GPU)
