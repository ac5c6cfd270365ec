"""What the slow tests of clients run with: fetched once, kept in the user's cache, else skipped."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

CACHE = Path(platformdirs.user_cache_dir("surgeon-tests"))
NPM = (
    "onnxruntime-node@1.30.0",
    "onnxruntime-web@1.30.0",
    "sharp@0.35.5",
    "playwright-core@1.65.1",
)
PIP = ("openvino==2026.4.1", "openvino-telemetry==2025.2.0", "opencv-python-headless==5.0.0.93")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def _fetched(name, command, **environment):
    """Return a folder that a command fills once; skip with its last words where it fails."""
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _run([*command, str(folder)], name, environment)
        (folder / "complete").touch()
    return folder


def _run(command, name, environment):
    try:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{name} cannot be fetched: {error}")
    if done.returncode:
        pytest.skip(f"{name} cannot be fetched: {(done.stderr or done.stdout).strip()[-200:]}")


def node_modules():
    """Return the folder of npm's packages; skips where there is no Node, npm or network."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed")
    command = ["npm", "install", "--no-audit", "--no-fund", *NPM, "--prefix"]
    return _fetched("npm", command, ONNXRUNTIME_NODE_INSTALL="skip") / "node_modules"


def wheels():
    """Return the folder of other runtimes' wheels, for PYTHONPATH; the environment stays as is."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", *PIP, "--target"]
    return _fetched("wheels", command)


def chromium():
    """Return the path of a browser; installs Debian's where that can be done, else skips."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("no Chromium is installed, and nobody here may install it")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update"], "Debian's list of packages", environment)
    command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
    _run(command, "chromium", environment)
    return shutil.which("chromium") or pytest.skip("chromium was installed and is not there")
