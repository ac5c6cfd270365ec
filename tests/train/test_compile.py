"""Which form the passes take: what is tried, what is chosen, what is said."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from surgeon.train import compile as room
from surgeon.train.compile import FORMS, Form, Passes

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Module(torch.nn.Module):
    """Stands for the converted graph."""

    def forward(self, x):
        return 2 * x


@pytest.fixture
def compiler(monkeypatch):
    """torch.compile that notes its options; a pass takes what `seconds` says of its form."""
    made = SimpleNamespace(options=[], seconds={}, broken=set(), clock=0.0)

    def compiler(module, **options):
        made.options.append(options)
        name = next(f.name for forms in FORMS.values() for f in forms if f.options == options)

        def call(x):
            if name in made.broken:
                raise RuntimeError(f"{name} is broken")
            made.clock += made.seconds.get(name, 1.0)
            return module(x)

        call.form = name
        return call

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(room, "work_seconds", lambda _: made.clock)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    return made


def attempt(compiler, device, wanted="auto", *, left=math.inf, several=False):
    module = Module()
    passes = Passes(module, wanted, device)

    def once(forward):
        if forward is module:
            compiler.clock += 1.0
        forward(torch.ones(2))

    note = passes.attempt(once, varies=False, left=left, several=several)
    return passes, note


def test_on_a_gpu_the_fastest_of_all_forms_is_taken(compiler):
    compiler.seconds = {"CUDA graphs": 0.9, "compiled": 0.8, "compiled, CUDA graphs": 0.7}
    passes, note = attempt(compiler, CUDA, left=1000.0)
    assert passes.compiled
    assert passes.form.name == "compiled, CUDA graphs"
    assert len(compiler.options) == 3
    assert note.endswith("compiled, CUDA graphs used")
    assert "0.8 s per pass instead of 1" in note


def test_tuning_for_many_minutes_needs_an_hour_to_come(compiler):
    names = {f.name for f in FORMS["cuda"]}
    attempt(compiler, CUDA, left=4000.0)
    assert len(compiler.options) == len(names)
    compiler.options.clear()
    attempt(compiler, CUDA, "on")
    assert {"mode": "max-autotune-no-cudagraphs"} not in compiler.options
    assert len(compiler.options) == len(names) - 1


def test_gradients_that_add_up_are_kept_from_graphs(compiler):
    attempt(compiler, CUDA, left=1000.0, several=True)
    assert compiler.options == [{}]


def test_a_form_that_gains_too_little_is_left(compiler):
    compiler.seconds = {"compiled": 0.98}
    passes, note = attempt(compiler, CPU, left=2000.0)
    assert passes.compiled is False
    assert passes.form is None
    assert note.endswith("not used")
    passes, note = attempt(compiler, CPU, "on")  # asked for by name
    assert passes.compiled


def test_one_broken_form_leaves_the_others(compiler):
    compiler.seconds = {"CUDA graphs": 0.5}
    compiler.broken = {"compiled", "compiled, CUDA graphs"}
    passes, note = attempt(compiler, CUDA, left=1000.0)
    assert passes.form.name == "CUDA graphs"
    assert "compiled is broken" in note
    compiler.broken.add("CUDA graphs")
    passes, note = attempt(compiler, CUDA, left=1000.0)
    assert passes.compiled is False
    assert "does not work here" in note


def test_memory_that_runs_out_is_for_the_loop_to_handle(compiler):
    def once(forward):
        raise torch.OutOfMemoryError("out of memory")

    passes = Passes(Module(), "on", CPU)
    with pytest.raises(torch.OutOfMemoryError):
        passes.attempt(once, varies=False)


def test_on_a_gpu_a_form_without_memory_is_left_and_the_plain_one_goes_on(compiler, monkeypatch):
    forgotten = []
    monkeypatch.setattr(room, "_forget", forgotten.append)
    monkeypatch.setitem(FORMS, "cuda", FORMS["cuda"][1:2])
    module = Module()

    def once(forward):
        if forward is not module:
            raise torch.OutOfMemoryError("out of memory")

    passes = Passes(module, "on", CUDA)
    note = passes.attempt(once, varies=False)
    assert passes.compiled is False
    assert "out of memory" in note
    assert forgotten == [CUDA]


def test_of_several_forms_no_one_keeps_its_memory_beside_the_next(compiler, monkeypatch):
    forgotten = []
    compiler.seconds = {"compiled": 0.5}
    monkeypatch.setattr(room, "_forget", lambda _: forgotten.append(len(compiler.options)))
    passes, _ = attempt(compiler, CUDA, left=1000.0)
    assert forgotten == [1, 2, 3]
    assert passes.forward(torch.ones(2)).tolist() == [2.0, 2.0]
    passes.end()
    assert forgotten == [1, 2, 3, 3]
    assert passes.forward(torch.ones(2)).tolist() == [2.0, 2.0]


def test_without_the_clock_the_first_form_alone(compiler):
    module = Module()
    passes = Passes(module, "on", CUDA, measured=False)
    passes.attempt(lambda forward: forward(torch.ones(2)), varies=False)
    assert [o["backend"] for o in compiler.options] == ["cudagraphs"]


def test_gradients_of_a_graph_are_saved_from_its_next_replay(compiler):
    passes, _ = attempt(compiler, CUDA, "on")
    passes.module.weight = torch.nn.Parameter(torch.ones(3))
    pool = torch.arange(3.0)
    passes.module.weight.grad = pool
    passes.form = FORMS["cuda"][1]  # compiled, no graph: nothing to save
    passes.between()
    assert passes.module.weight.grad is pool
    passes.form = FORMS["cuda"][0]
    passes.between()
    pool.fill_(9.0)
    assert passes.module.weight.grad.tolist() == [0.0, 1.0, 2.0]


def worked(passes, seconds, steps):
    for _ in range(steps):
        passes.took(seconds)
    return passes


def test_nothing_is_tried_before_steps_were_timed_nor_where_it_cannot_pay():
    passes = Passes(Module(), "auto", CUDA)
    assert not passes.is_due(10**6, math.inf)
    worked(passes, 0.1, 40)
    assert not passes.is_due(100, math.inf)  # ten seconds to come
    assert passes.compiled is False
    assert passes.decision["chosen"] == "as they are"
    assert passes.decision["seconds_left"] == pytest.approx(10)
    assert worked(Passes(Module(), "auto", CUDA), 0.1, 40).is_due(10**4, math.inf)
    assert not worked(Passes(Module(), "auto", CUDA), 0.1, 40).is_due(10**4, 5.0)


def test_a_short_job_is_never_taken_for_a_long_one_whatever_its_first_steps_took():
    # Ten steps of sixty times their time, then as they are: half a minute in all.
    passes = worked(Passes(Module(), "auto", CPU), 60 * 0.04, 2 * room.MEASURED)
    assert not passes.is_due(750, math.inf)  # estimated at half an hour, and hardly begun
    for left in range(750, 0, -1):
        passes.took(0.04)
        assert not passes.is_due(left, math.inf)
    assert passes.compiled in {None, False}


def test_a_long_job_is_tried_once_it_has_shown_to_be_one():
    passes = Passes(Module(), "auto", CPU)
    worked(passes, 1.0, 29)
    assert not passes.is_due(10**5, math.inf)
    worked(passes, 1.0, 10)
    assert passes.is_due(10**5, math.inf)
    assert passes.decision["steps"] == 36
    assert passes.decision["step_seconds"] == 1.0


def test_a_form_that_turns_out_slower_is_left_again(compiler):
    compiler.seconds = {"compiled": 0.5}
    module = Module()
    passes = worked(Passes(module, "auto", CPU), 1.0, 40)
    assert passes.is_due(10**5, math.inf)

    def once(forward):
        compiler.clock += forward is module
        forward(torch.ones(2))

    passes.attempt(once, varies=False, left=10**5)
    assert passes.compiled
    assert passes.timing
    assert passes.decision["chosen"] == "compiled"
    told = [passes.took(1.2) for _ in range(2 * room.MEASURED)]
    assert told[:-1] == [None] * (len(told) - 1)
    assert "left again" in told[-1]
    assert passes.compiled is False
    assert not passes.timing
    assert passes.decision["chosen"] == "as they are"
    assert passes.decision["step_seconds_after"] == pytest.approx(1.2)


def test_a_form_that_is_as_fast_as_was_measured_stays(compiler):
    compiler.seconds = {"compiled": 0.5}
    module = Module()
    passes = worked(Passes(module, "auto", CPU), 1.0, 40)
    assert passes.is_due(10**5, math.inf)

    def once(forward):
        compiler.clock += forward is module
        forward(torch.ones(2))

    passes.attempt(once, varies=False, left=10**5)
    assert not any(passes.took(0.5) for _ in range(4 * room.MEASURED))
    assert passes.compiled
    assert not passes.timing


def test_work_on_a_cpu_is_not_what_the_clock_on_the_wall_says(monkeypatch):
    monkeypatch.setattr(room.time, "perf_counter", lambda: pytest.fail("a clock on the wall"))
    assert room.work_seconds(CPU) >= 0


def test_forms_are_in_order_of_trial():
    for forms in FORMS.values():
        assert [f.worth for f in forms] == sorted(f.worth for f in forms)
        assert len({f.name for f in forms}) == len(forms)
    assert isinstance(FORMS["cpu"][0], Form)
