"""Clocks, medians and ratios.

In: jobs that return what one run of theirs gave. Out: samples and what they amount to. It starts no programs.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence

Samples = dict[str, list[float]]


def interleaved(rounds: int, jobs: Mapping[str, Callable[[], float]]) -> Samples:
    """Run each job once a round, in an order that is drawn anew: none always follows the same one."""
    names = list(jobs)
    samples: Samples = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            samples[name].append(jobs[name]())
    return samples


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: what disturbs a round disturbs both of its runs."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def percentile(samples: Sequence[float], part: float) -> float:
    """Return the sample that `part` (0 to 1) of all are not above."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def spread(samples: Sequence[float]) -> str:
    """Say the noise: the middle half of the samples, relative to their median."""
    middle = statistics.median(samples)
    low, high = percentile(samples, 0.25), percentile(samples, 0.75)
    return f"middle half {low / middle - 1:+.1%} to {high / middle - 1:+.1%}"
