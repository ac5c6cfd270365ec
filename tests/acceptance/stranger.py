"""What a stranger brings along: labelled arrays, painted pictures, a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SURGEON = Path(sys.executable).parent / "surgeon"
PREPROCESS = json.dumps(
    {"layout": "NCHW", "channels": "RGB", "size": [12, 12], "mean": [127], "std": [64]}
)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def vectors(n=60, classes=3, features=8, seed=0, x="x"):
    """Labelled vectors that a linear head can nearly tell apart."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    values = random.normal(size=(n, features)).astype(np.float32)
    values[np.arange(n), labels] += 2
    return {x: values, "labels": labels}


def pictures(n=60, classes=3, side=12, seed=0, x="x"):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    values = random.normal(size=(n, 3, side, side)).astype(np.float32) * 0.5
    values[np.arange(n), labels % 3] += 2
    return {x: values, "labels": labels}


def paint(path: Path, color: int, seed: int, mode: str = "RGB", side: int = 14) -> None:
    """One picture, mostly of one colour."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 90, (side, side, 3)).astype(np.uint8)
    pixels[..., color] += 120
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., color].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    return subprocess.run(
        [str(SURGEON), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=1200,
        **options,
    )
