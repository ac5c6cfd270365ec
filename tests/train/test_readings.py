"""Numbers of a step: there at once on a CPU, some steps later on a GPU; never lost or doubled."""

from __future__ import annotations

import torch

from surgeon.train import readings
from surgeon.train.readings import Readings


def row(number):
    return torch.tensor(float(number)), torch.tensor(number * 10)


def test_on_a_cpu_they_are_there_at_once():
    rows = Readings(torch.device("cpu"))
    rows.put(*row(1))
    rows.put(*row(2))
    assert rows.take() == [(1.0, 10.0), (2.0, 20.0)]
    assert rows.take() == []


class Event:
    """A CUDA event of a device that has done nothing until somebody waits."""

    done: set[int]
    waited: list[int]

    def __init__(self):
        self.number = None

    def record(self):
        self.number = Event.count = Event.count + 1

    def query(self):
        return self.number in Event.done

    def synchronize(self):
        Event.waited.append(self.number)
        Event.done.add(self.number)


def test_on_a_gpu_they_come_in_order_and_the_host_stays_a_few_steps_ahead(monkeypatch):
    Event.count, Event.done, Event.waited = 0, set(), []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    rows = Readings(torch.device("cuda"))
    taken = []
    for number in range(1, 11):
        rows.put(*row(number))
        found = rows.take()
        # Nothing is done, so that the host waits for the oldest once too many are under way.
        assert len(found) == (number > readings._BEHIND)
        taken += found
    assert Event.waited == list(range(1, 11 - readings._BEHIND))
    Event.done |= {7, 9}
    assert rows.take() == [(7.0, 70.0)]
    taken += rows.take(wait=True)
    assert taken == [(float(n), 10.0 * n) for n in (1, 2, 3, 4, 5, 6, 8, 9, 10)]
    assert rows.take(wait=True) == []
