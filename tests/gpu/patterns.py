"""Pictures that the trainings of this room learn from."""

from __future__ import annotations

import numpy as np
import torch


def pictures(samples=90, classes=3, seed=0):
    """Noise around one pattern per class: learnable, with room for error."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    patterns = np.random.default_rng(7).standard_normal((classes, 3, 12, 12))
    x = patterns[labels] + 1.5 * rng.standard_normal((samples, 3, 12, 12))
    return {"x": x.astype(np.float32), "labels": labels}


class Batches:
    """Samples in memory for `fit`."""

    def __init__(self, data):
        self.x, self.targets = torch.from_numpy(data["x"]), data["labels"].astype(np.int64)

    @property
    def n(self):
        return len(self.targets)

    def load(self, indices):
        return (self.x[torch.from_numpy(indices)],)
