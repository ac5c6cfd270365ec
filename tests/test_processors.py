"""Models and bounds hold under the arithmetic of other processors (see `processors.py`)."""

import processors
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("setting", processors.TRIED)
def test_models_are_built_and_known(setting):
    # Quantising takes longest; its calibration is tried where sums differ most.
    models = processors.MODELS if setting == processors.TRIED[0] else processors.MODELS[:2]
    done = processors.build(setting, models)
    assert not done.returncode, done.stdout + done.stderr
    assert done.stdout.count("recognised") == len(models)


@pytest.mark.parametrize("setting", processors.TRIED)
def test_numbers_stay_within_their_bounds(setting):
    done = processors.run_tests(setting)
    assert not done.returncode, done.stdout[-8000:] + done.stderr[-2000:]
