"""Which layers of an exported graph stay in floats: found with few tries, those that lose most."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from surgeon.exporting import integers


class Quantiser:
    """Layers whose losses are known and add up as squares do."""

    def __init__(self, losses):
        self.losses = losses
        self.layers = list(losses)

    def quantised(self, *, floats=(), only=()):
        return [self.losses[one] for one in only or self.layers if one not in set(floats)]


class Judge:
    def __init__(self):
        self.alone = self.whole = 0

    def __call__(self, losses, most=None):
        self.whole += most is None
        self.alone += most is not None
        return SimpleNamespace(error=sum(one**2 for one in losses) ** 0.5)

    def told(self, stage, done, total):
        assert stage == "layers"
        assert done <= total


@pytest.mark.parametrize("count", [5, 50, 400])
@pytest.mark.parametrize("bad", [1, 2])
def test_those_that_lose_most_are_found_with_few_tries(count, bad):
    losses = {f"layer {place}": 0.1 / count for place in range(count)}
    worst = {f"layer {place * (count - 1)}": 0.3 + place for place in range(bad)}
    judge = Judge()
    assert set(integers._left(Quantiser(losses | worst), judge)) == set(worst)
    assert judge.alone <= 4 * (1 + count.bit_length())
    assert judge.whole <= 4


def test_where_all_lose_alike_half_of_them_stay_and_tries_have_an_end():
    judge, losses = Judge(), {f"layer {place}": 1.0 for place in range(300)}
    assert len(integers._left(Quantiser(losses), judge)) == 150
    assert judge.alone <= integers.TRIES + 1


def test_where_none_loses_none_stays():
    judge = Judge()
    assert integers._left(Quantiser({"layer": 0.01}), judge) == []
    assert (judge.alone, judge.whole) == (0, 1)
