"""Models and bounds hold under the arithmetic of other processors (see `processors.py`)."""

import processors
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("setting", processors.SETTINGS)
def test_models_are_built_and_known(setting):
    done = processors.build(setting)
    assert not done.returncode, done.stdout + done.stderr
    assert done.stdout.count("recognised") == len(processors.MODELS)


@pytest.mark.parametrize("setting", processors.SETTINGS)
def test_numbers_stay_within_their_bounds(setting):
    done = processors.run_tests(setting)
    assert not done.returncode, done.stdout[-8000:] + done.stderr[-2000:]
