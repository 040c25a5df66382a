"""The paper-size UNet (304.8 million parameters): against a plain reading of the paper on CPU, and by itself on a GPU.

The two networks share their parameters, so that memory holds one of them: 1.2 GB of weights, their gradients and their
average, and two states of Adam; 9 GB at its peak. Four crystals a batch: a step of 256 would take minutes on two cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, leaky_relu, pad, silu

from benchmarks.models import NO_GPU, batch_of, per_second, sampling, trainer, training_step
from benchmarks.timing import Result, in_turns, ratios
from lib.core.run import Run
from lib.crystals.elements import N_ELEMENTS
from lib.models.batch import Batch
from lib.models.unet import LEAKY_SLOPE, PaperNet, UNetSizes
from lib.training.spec import at_precision

CPU = Result("speed.paper_unet.cpu_ratio", "the smaller of training and sampling, 4 crystals, to plain PyTorch", "x")
TRAINING = Result("speed.paper_unet.train_per_s_h200", "training, batch 256, bf16", "samples/s")
SAMPLING = Result("speed.paper_unet.sample_per_s_h200", "sampling, 100 steps, bf16", "structures/s")
BATCH = 4


class PlainNet(nn.Module):
    """Section 4, Figure 2 and A.3 in plain modules and a plain forward pass; parameters in the library's order."""

    def __init__(self, sizes: UNetSizes, n_features: int) -> None:
        super().__init__()
        c, features, width = sizes.condition_channels, sizes.condition_features, sizes.model_channels
        emb = 4 * width
        self.group_convs = nn.ModuleList(
            [nn.Conv2d(192, c // 4, 2), nn.Conv2d(c // 4, c // 2, 2), nn.Conv2d(c // 2, features, 2)]
        )
        self.element_convs = nn.ModuleList(
            [nn.Conv1d(N_ELEMENTS + n_features, c // 4, 3), nn.Conv1d(c // 4, c // 2, 3), nn.Conv1d(c // 2, c, 3)]
        )
        self.element_out = nn.Linear(c * 58, features)
        self.time = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.condition = nn.Linear(1 + 2 * features, emb)
        self.conv_in = nn.Conv1d(3, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips = width, [width]
        for level, mult in enumerate(sizes.channel_mult):
            for _ in range(sizes.num_res_blocks):
                self.down.append(PlainStage(channels, mult * width, emb, 2**level in sizes.attention_resolutions))
                channels = mult * width
                skips.append(channels)
            if level < len(sizes.channel_mult) - 1:
                self.down.append(nn.Conv1d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)
        last = [PlainStage(channels, channels, emb, True), PlainStage(channels, channels, emb, False)]
        for level, mult in reversed(list(enumerate(sizes.channel_mult))):
            for _ in range(sizes.num_res_blocks + 1):
                attends = 2**level in sizes.attention_resolutions
                self.up.append(PlainStage(channels + skips.pop(), mult * width, emb, attends))
                channels = mult * width
            if level:
                self.up.append(nn.Conv1d(channels, channels, 3, padding=1))
        self.middle = nn.ModuleList(last)
        self.norm_out = nn.GroupNorm(min(32, width // 4), width)
        self.conv_out = nn.Conv1d(width, 3, 3, padding=1)
        self.width = width

    def forward(self, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """(B, 64, 3), times (B,) -> (B, 64, 3)."""
        conditions = batch.conditions
        h = self.operations[conditions.space_group]
        for conv in self.group_convs:
            h = leaky_relu(conv(h), LEAKY_SLOPE)
        group = h.flatten(1)
        h = self.rows[pad(conditions.species, (0, 64 - conditions.species.shape[1]))].transpose(1, 2)
        for conv in self.element_convs:
            h = gelu(conv(h))
        elements = self.element_out(h.flatten(1))
        half = self.width // 2
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        time = self.time(torch.cat([torch.cos(angles), torch.sin(angles)], dim=1))
        emb = time + self.condition(torch.cat([conditions.energy[:, None], group, elements], dim=1))
        h = self.conv_in(x.transpose(1, 2))
        skips = [h]
        for block in self.down:
            h = block(h, emb) if isinstance(block, PlainStage) else block(h)
            skips.append(h)
        for block in self.middle:
            h = block(h, emb)
        for block in self.up:
            if isinstance(block, PlainStage):
                h = block(torch.cat([h, skips.pop()], dim=1), emb)
            else:
                h = block(nn.functional.interpolate(h, scale_factor=2, mode="nearest"))
        return self.conv_out(silu(self.norm_out(h))).transpose(1, 2)


class PlainStage(nn.Module):
    """A residual block, and single-head attention written out."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int, attends: bool) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(min(32, channels // 4), channels)
        self.conv_in = nn.Conv1d(channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_channels, out_channels)
        self.norm_out = nn.GroupNorm(min(32, out_channels // 4), out_channels)
        self.conv_out = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if channels == out_channels else nn.Conv1d(channels, out_channels, 1)
        self.attends = attends
        if attends:
            self.norm = nn.GroupNorm(min(32, out_channels // 4), out_channels)
            self.qkv = nn.Conv1d(out_channels, 3 * out_channels, 1)
            self.proj = nn.Conv1d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv_in(silu(self.norm_in(x))) + self.emb(silu(emb))[:, :, None]
        h = self.skip(x) + self.conv_out(silu(self.norm_out(h)))
        if not self.attends:
            return h
        q, k, v = self.qkv(self.norm(h)).chunk(3, dim=1)  # (B, C, L) each
        weights = torch.softmax(torch.einsum("bcl,bcm->blm", q, k) / math.sqrt(q.shape[1]), dim=-1)
        return h + self.proj(torch.einsum("blm,bcm->bcl", weights, v))


def plain_twin(net: PaperNet, sizes: UNetSizes) -> PlainNet:
    """A plain network whose parameters are those of `net`, the same objects.

    Raises:
        ValueError: the two do not have the same parameters, in number, order and shape.
    """
    with torch.device("meta"):
        plain = PlainNet(sizes, net.elements.rows.shape[1] - N_ELEMENTS)
    plain.operations, plain.rows = net.space_group.operations, net.elements.rows
    theirs = [(module, name) for module in plain.modules() for name, _ in module.named_parameters(recurse=False)]
    for (module, name), parameter in zip(theirs, net.parameters(), strict=True):
        if getattr(module, name).shape != parameter.shape:
            raise ValueError(
                f"{name} of {type(module).__name__} is {getattr(module, name).shape}, not {parameter.shape}"
            )
        setattr(module, name, parameter)
    return plain


def on_cpu(run: Run) -> Result:
    """The library's training step and sampling step to plain ones, in single precision.

    The library's step also clips the gradient and keeps an average of the weights, which the paper's does not.
    """
    with trainer(run, "paper", BATCH, on_cpu=True) as ours:
        plain = plain_twin(ours.net, ours.spec.sizes)
        check(ours, plain)
        optimiser = torch.optim.Adam(ours.net.parameters(), ours.settings.learning_rate)
        batch = batch_of(ours, BATCH)

        def plain_step() -> None:
            optimiser.zero_grad()
            draw = ours.method.draw(batch, torch.Generator().manual_seed(0))
            ours.method.losses(plain, batch, draw).mean().backward()
            optimiser.step()

        jobs = {"plain": plain_step, "lib": training_step(ours)}
        training = ratios(in_turns(jobs, run.params.repetitions), of="plain", to="lib")
        jobs = {"plain": sampling(ours, plain, BATCH, 2), "lib": sampling(ours, ours.net, BATCH, 2)}
        drawing = ratios(in_turns(jobs, run.params.repetitions), of="plain", to="lib")
    return min(CPU.of(training), CPU.of(drawing), key=lambda line: line.value)


@torch.no_grad()
def check(ours, plain: PlainNet) -> None:
    """Whether the two networks give the same, with every layer taking part: the output layers begin as zero."""
    saved = {name: p.clone() for name, p in ours.net.named_parameters() if not p.any()}
    for name, parameter in ours.net.named_parameters():
        if name in saved:
            nn.init.normal_(parameter, std=0.02)
    batch = batch_of(ours, 2)
    given = batch.x_1, torch.tensor([0.2, 0.7]), batch
    torch.testing.assert_close(ours.net(*given), plain(*given), rtol=1e-3, atol=1e-4)
    for name, parameter in ours.net.named_parameters():
        if name in saved:
            parameter.copy_(saved[name])


def alone(run: Run) -> Iterator[Result]:
    """Training and sampling by the library, as fast as they go."""
    batch, samples, steps = (4, 4, 2) if run.params.tiny else (256, 512, 100)
    with trainer(run, "paper", batch) as ours:
        yield per_second(run, TRAINING, training_step(ours), batch)
        net = at_precision(ours.net, "bf16", run.device)
        yield per_second(run, SAMPLING, sampling(ours, net, samples, steps), samples)


def measure(run: Run) -> Iterator[Result]:
    """See the module's first lines."""
    yield on_cpu(run)
    if run.device.type == "cuda":
        yield from alone(run)
    else:
        yield TRAINING.without(NO_GPU)
        yield SAMPLING.without(NO_GPU)
