"""The periodic model, a transformer of 6 blocks of width 128: against the paper-size UNet on CPU, alone on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.models import NO_GPU, crystals, per_second, sampling, trainer, training_step
from benchmarks.timing import Result, in_turns, ratios
from lib.crystals import SYMBOLS
from lib.run import Run
from lib.sampling import load_model
from lib.training import Trainer

TRAINING = Result("speed.periodic.cpu_train_ratio", "training, to the paper-size UNet", "x", ">= 20")
SAMPLING = Result("speed.periodic.cpu_sample_ratio", "sampling, to the paper-size UNet", "x", ">= 20")
TRAINING_GPU = Result("speed.periodic.train_per_s_h200", "training, batch 2,048, bf16", "samples/s", ">= 60000")
SECONDS_10K = Result("speed.periodic.seconds_10k_h200", "10,000 structures of 10 atoms, 100 steps", "s", "< 10")
BATCH, BATCH_UNET, BATCH_GPU, SAMPLES_AT_ONCE = 256, 8, 2048, 2048
STEPS, STEPS_UNET = 20, 2  # a sampler's time is that of its steps


def on_cpu(run: Run) -> Iterator[Result]:
    """Samples a second of both, each with a batch that suits it, in single precision."""
    how = {"device": "cpu", "precision": "fp32"}
    with trainer(run, "transformer", BATCH, **how) as ours, trainer(run, "paper", BATCH_UNET, **how) as unet:
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


def ten_thousand(run: Run, ours: Trainer, n: int = 10_000):
    """A job that draws n structures of 10 atoms, from requests to pymatgen structures."""
    table = crystals(run)
    numbers = np.resize(np.concatenate([table.species_of(i) for i in range(64)]), (n, 10))
    model = load_model(ours.path, ours.device)
    species = [row[np.argsort(SYMBOLS[row])] for row in numbers]
    requests = species, np.ones(n, int), np.full(n, -0.5)
    return lambda: model.generate(*requests, steps=100, batch_size=SAMPLES_AT_ONCE)


def on_gpu(run: Run) -> Iterator[Result]:
    """Training and sampling by the library, as fast as they go."""
    with trainer(run, "transformer", BATCH_GPU, device="cuda", precision="bf16") as ours:
        yield per_second(TRAINING_GPU, training_step(ours), BATCH_GPU, run.params.repetitions)
        ours.settings = replace(ours.settings, steps=ours.step)  # finished: write the model
        ours.run()
        times = in_turns({"job": ten_thousand(run, ours)}, run.params.repetitions)
        yield SECONDS_10K.of(times["job"])


def measure(run: Run) -> Iterator[Result]:
    """See the module's first line."""
    yield from on_cpu(run)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
        yield from on_gpu(run)
    else:
        yield TRAINING_GPU.without(NO_GPU)
        yield SECONDS_10K.without(NO_GPU)
