"""What this project means to reach, set before it was measured, beside what it has reached."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lib.core.published import RATES

Machine = Literal["CPU", "GPU"]


@dataclass(frozen=True)
class Target:
    """What one score should be."""

    sign: Literal[">=", ">", "<"]  # how the score must stand to the bound
    bound: float  # in the score's unit; where `above` is given, a difference of two match rates
    above: str | None = None  # id of the score that the bound is counted from
    machine: Machine = "CPU"  # what the target was set for. Measured on the other, a score says how far that one comes
    # what the bound was measured on, where that is other data than the score's: the two are no match, so that the
    # target is neither reached nor missed
    data: str = ""

    def in_words(self) -> str:
        """Such as ">= 0.35" or ">= 5 points above `mp20.substitution.group.match_csp`"."""
        if self.above is None:
            return f"{self.sign} {self.bound:g}" + (f" on {self.data}, which is no match" if self.data else "")
        return (f"{self.sign} {100 * self.bound:g} points above" if self.bound else "above") + f" `{self.above}`"

    def reached(self, value: float | None, scores: Mapping[str, float | None]) -> bool | None:
        """Whether a value is what it should be, beside the values of the other scores; None where one is missing,
        or was measured on other data."""
        start = scores.get(self.above) if self.above else 0.0
        if value is None or start is None or self.data:
            return None
        distance = round(value - start - self.bound, 9)  # 0.85 less 0.80 is 0.05
        return {">=": distance >= 0, ">": distance > 0, "<": distance < 0}[self.sign]


_SUBSTITUTION = "mp20.substitution.{}.match_csp"
TARGETS = {
    "mp20.all.match_csp": Target(">=", 0.5),
    "mp20.group.match_csp": Target(">=", 0.05, _SUBSTITUTION.format("group"), "GPU"),
    "mp20.composition.match_csp": Target(">=", 0.05, _SUBSTITUTION.format("composition"), "GPU"),
    "embedded.generation.match_default": Target(">", 0, "embedded.substitution.match_default", "GPU"),
    "embedded.modification.match_default": Target(
        ">", RATES["Regression"], machine="GPU", data="the paper's AFLOW data"
    ),
    "aflow.ingest_entries_per_s": Target(">=", 8000),
    "aflow.faults_tried": Target(">=", 12),
    "aflow.entries_lost": Target("<", 1),
    "aflow.kill_moments": Target(">=", 20),
    "aflow.kill_mismatches": Target("<", 1),
    "quickstart.seconds": Target("<", 60),
    "quick.first_page_seconds": Target("<", 120),
    "quick.seconds": Target("<", 720),
    "tests.seconds": Target("<", 600),
    "tests.quick_seconds": Target("<", 120),
    "dismai.fingerprint_ratio": Target(">=", 8),
    "dismai.score_1000_seconds": Target("<", 15),
    "aflow.groups_3p5m_seconds": Target("<", 300),
    "aflow.groups_3p5m_peak_gib": Target("<", 6),
    "aflow.open_2p1m_seconds": Target("<", 30),
    "speed.import_seconds": Target("<", 5),
    "speed.matcher_ratio": Target(">=", 3),
    "speed.pbc_loss_ratio": Target(">=", 100),
    "score.graph.ms_per_crystal": Target("<", 1.5),
    "score.graph.python_ratio": Target(">=", 100),
    "relax.batch_ratio_cpu": Target(">=", 3),
    "hull.entries_per_s": Target(">=", 3502),
    "gpaw.max_error_mev": Target("<", 30),
    "relax.batch_differs_mev": Target("<", 1),
    "relax.batch_differs_angstrom": Target("<", 0.01),
    "relax.lost": Target("<", 1),
    "speed.paper_unet.cpu_ratio": Target(">=", 1),
    "speed.paper_unet.train_per_s_h200": Target(">=", 12000, machine="GPU"),
    "speed.paper_unet.sample_per_s_h200": Target(">=", 300, machine="GPU"),
    "speed.periodic.cpu_train_ratio": Target(">=", 20),
    "speed.periodic.cpu_sample_ratio": Target(">=", 20),
    "speed.periodic.train_per_s_h200": Target(">=", 60000, machine="GPU"),
    "speed.periodic.seconds_10k_h200": Target("<", 10, machine="GPU"),
}


def machine_of(score: Mapping) -> Machine:
    """Where a row of a `scores.json` was measured; where one without a value would have been."""
    if score["value"] is None:
        return TARGETS[score["id"]].machine if score["id"] in TARGETS else "CPU"
    return "GPU" if " cores, " in score["machine"] else "CPU"  # as lib.core.machine.machine puts it


def beside(score: Mapping, scores: Mapping[str, float | None]) -> str:
    """A score's target, for which machine it was set, whether it is reached, and whether the bound lies within the
    score's interval, so that another sample might say otherwise; "" for a score without one.

    The score is a row of a `scores.json`, and `scores` the values of all by id.
    """
    target = TARGETS.get(score["id"])
    if target is None:
        return ""
    words = target.in_words() + (f", set for a {target.machine}" if target.machine != machine_of(score) else "")
    reached = target.reached(score["value"], scores)
    if reached is None:
        return words
    bound, low, high = target.bound + (scores[target.above] if target.above else 0), score["ci_low"], score["ci_high"]
    within = low is not None and high is not None and low <= bound <= high
    return f"{words}: {'reached' if reached else 'missed'}{', by less than its error' if within else ''}"
