"""Runs what depends on a processor's arithmetic under the settings of other processors.

`python tests/processors.py [SETTING ...] [-- pytest arguments]`. Last digits of sums, products and
exponentials belong to the processor; the libraries can be told to take other kernels than this one
would, so that one machine stands for several. Each setting gets a process of its own, builds the
demonstration's models afresh and runs the tests below.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

SETTINGS = {
    "as-it-is": {},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "mkl-avx2": {"MKL_CBWR": "AVX2"},
    "mkl-instructions-avx2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "openblas-sandybridge": {"OPENBLAS_CORETYPE": "Sandybridge"},
    "numpy-baseline": {
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_ICL"
    },
}

#: Those that the slow tier tries; the script by itself tries all.
TRIED = ("mkl-compatible", "mkl-avx2", "mkl-instructions-avx2", "aten-default", "aten-avx2")

#: The demonstration's model, one whose exporter folds with other arithmetic, one in 8 bits.
MODELS = ("efficientnet-lite0", "mobilenetv2", "efficientnet-lite0-qdq")

#: Tests whose numbers come from torch, numpy or ONNX Runtime and are compared with a bound.
TESTS = (
    "tests/models/test_models_store.py",
    "tests/models/test_models_content.py",
    "tests/reported/test_indexed_elsewhere.py",
    "tests/ops/test_products.py",
    "tests/engines/test_conveyor.py",
    "tests/probe/test_head.py",
    "tests/runtime/test_proof.py",
)

_BUILD = """
import os, sys, shutil, onnx, surgeon_models
from surgeon_models import packages
before = os.environ["SURGEON_CACHE"]
for name in sys.argv[2:]:
    path = surgeon_models.get(name)
    model, digest = onnx.load(path), packages.sha256_of(path)
    os.environ["SURGEON_CACHE"] = sys.argv[1]  # a machine that has built nothing
    found = surgeon_models.recognise(model, digest)
    os.environ["SURGEON_CACHE"] = before
    assert found is not None and found.name == name, (name, found)
    print(name, digest[:12], "built, equal to the index within its bounds, recognised")
"""


def environment(setting: str, cache: str) -> dict[str, str]:
    """Return the environment of one setting, with an empty cache."""
    settings = dict(SETTINGS[setting])
    disabled = settings.get("NPY_DISABLE_CPU_FEATURES")
    if disabled is not None:  # numpy refuses what this processor does not have
        settings["NPY_DISABLE_CPU_FEATURES"] = " ".join(_dispatched(disabled.split()))
    return {**os.environ, **settings, "SURGEON_CACHE": cache}


def _dispatched(names: list[str]) -> list[str]:
    code = "import sys; from numpy._core import _multiarray_umath as m; "
    code += "print(*[n for n in sys.argv[1:] if n in m.__cpu_dispatch__ and m.__cpu_features__[n]])"
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def build(setting: str, models: tuple[str, ...] = MODELS) -> subprocess.CompletedProcess[str]:
    """Build models in a process under a setting; they must be the indexed ones, and be known."""
    with tempfile.TemporaryDirectory() as folder:
        cache, empty = Path(folder, "cache"), Path(folder, "empty")
        cache.mkdir()
        empty.mkdir()
        _lend_data(cache)
        return subprocess.run(
            [sys.executable, "-c", _BUILD, str(empty), *models],
            env=environment(setting, str(cache)), capture_output=True, text=True, check=False,
        )  # fmt: skip


def _lend_data(cache: Path) -> None:
    """Share data sets that are here already: they are no numbers of this processor."""
    from surgeon_models import store

    if store.data_folder().is_dir():
        (cache / "data").symlink_to(store.data_folder().resolve())


def run_tests(setting: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tests in a process under a setting, with the models that are cached already."""
    from surgeon.runtime.cache import cache_root

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m"]
    command += ["not slow and not gpu", *(arguments or TESTS)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(setting, str(cache_root())), capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Print one line per setting and step; return how many failed."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    failed = 0
    for setting in arguments[:at] or SETTINGS:
        for done in (build(setting), run_tests(setting, *arguments[at + 1 :])):
            failed += bool(done.returncode)
            said = done.stdout if not done.returncode else done.stdout[-4000:] + done.stderr[-2000:]
            lines = said.strip().splitlines()
            shown = lines if done.returncode else [each for each in lines if "..." not in each]
            print(f"{setting}: {'FAILED' if done.returncode else 'ok'}", *shown, sep="\n  ")
            sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
