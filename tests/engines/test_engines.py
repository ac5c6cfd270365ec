"""Which engine computes the frozen part: compared, measured, chosen and said."""

from __future__ import annotations

import copy
import warnings

import frozen_parts
import networks
import numpy as np
import onnx.parser
import pytest
import torch
from frozen_parts import differ, streamed

import surgeon
from surgeon.engines import choice as engines
from surgeon.engines import engine as computing
from surgeon.engines.choice import Engines, engine_for
from surgeon.engines.conveyor import Conveyor
from surgeon.engines.engine import OnnxEngine, TorchEngine
from surgeon.errors import EnvironmentLacksError, UnsupportedError
from surgeon.graph.weights import roles
from surgeon.job import frozen, stages
from surgeon.runtime import places
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request
from surgeon.runtime.places import Device
from surgeon.runtime.sessions import OutOfMemoryError
from surgeon.runtime.stream import Runner
from surgeon.torch_graph.module import to_module

CPU = torch.device("cpu")
ONNX, TORCH = "ONNX Runtime on CPU", "torch in float32"
BF16, WHOLE = "torch in bf16", "torch wholly in bf16"


@pytest.fixture
def part():
    return frozen_parts.rows(networks.convnet(), count=40)


@pytest.fixture
def measuring(monkeypatch):
    """Everything is worth measuring, and runs take what `speeds` says: samples/s by engine."""
    monkeypatch.setattr(engines, "WORTH_MEASURING", 0.0)
    speeds = {ONNX: lambda size: 100.0, TORCH: lambda size: 200.0}
    tried = []

    def seconds(belt, placed, repeats):
        tried.append((belt.engine.name, placed.size))
        belt.bring(belt.rows(placed))
        return placed.size / speeds[belt.engine.name](placed.size)

    monkeypatch.setattr(engines, "seconds_of", seconds)
    speeds["tried"] = tried
    return speeds


def runner_of(part, **options):
    options = {"device": "cpu", "threads": 2, **options}
    return Runner(part.frozen, part.samples, outputs=part.names, **options)


def choose(part, runner=None, **options):
    """Return the streamer that is chosen, and the notes."""
    runner = runner or runner_of(part)
    chosen = Engines(CPU, Device("cpu"), **options)(runner, part.frozen, np.arange(part.samples.n))
    return chosen, runner.notes


@pytest.mark.parametrize("winner", [ONNX, TORCH])
def test_the_faster_one_is_kept_and_said(winner, part, measuring):
    loser = {ONNX: TORCH, TORCH: ONNX}[winner]
    measuring |= {winner: lambda size: 9800.0, loser: lambda size: 7100.0}
    chosen, notes = choose(part)
    assert chosen.engine.name == winner
    assert notes == [f"features: {winner}, 9,800 samples/s, {chosen.batch} a run ({loser}: 7,100)"]
    expected = streamed(runner_of(part), part.samples.n)[0]
    assert differ(streamed(chosen, part.samples.n)[0], expected) <= 1e-4
    assert chosen.providers == (("torch:cpu",) if winner == TORCH else ("CPUExecutionProvider",))


def test_little_work_is_not_measured(part, monkeypatch):
    def never(*_, **__):
        raise AssertionError("torch was tried")

    monkeypatch.setattr(engines, "TorchEngine", never)
    chosen, notes = choose(part)
    assert chosen.engine.name == ONNX
    assert notes == []
    expected = streamed(runner_of(part), part.samples.n)[0]
    assert differ(streamed(chosen, part.samples.n)[0], expected) <= 1e-4


def never(*_, **__):
    raise AssertionError("this was not to be tried")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_little_work_is_computed_in_the_precision_asked_for(precision, part, monkeypatch):
    monkeypatch.setattr(engines, "OnnxEngine", never)
    chosen, notes = choose(part, precision=precision)
    assert chosen.engine.name == f"torch in {precision}"
    assert notes == [f"features: torch in {precision}, {chosen.batch} a run"]
    found = differ(streamed(chosen, part.samples.n)[0], streamed(runner_of(part), 40)[0])
    assert 0 < found <= engines.BOUNDS[precision]


def test_little_work_of_a_half_precision_file_is_not_measured(part, monkeypatch):
    monkeypatch.setattr(engines, "TorchEngine", never)
    monkeypatch.setattr(engines, "is_half", lambda _: True)  # as its own types, with tensor cores
    chosen, notes = choose(part, precision="bf16")
    assert (chosen.engine.name, notes) == (ONNX, [])


def test_little_work_that_torch_does_not_convert(part, monkeypatch):
    monkeypatch.setattr(computing, "to_module", unconvertible)
    chosen, notes = choose(part, precision="bf16")
    assert chosen.engine.name == ONNX
    assert notes == ["features: torch does not convert the frozen part: no such operator"]


@pytest.mark.parametrize("winner", [BF16, WHOLE])
def test_reduced_precision_is_tried_by_autocast_and_throughout(winner, part, measuring):
    loser = {BF16: WHOLE, WHOLE: BF16}[winner]
    measuring |= {winner: lambda size: 9800.0, loser: lambda size: 7100.0}
    chosen, notes = choose(part, precision="bf16")
    assert chosen.engine.name == winner
    assert notes == [f"features: {winner}, 9,800 samples/s, {chosen.batch} a run ({loser}: 7,100)"]
    assert ONNX not in {name for name, _ in measuring["tried"]}  # no rival without TF32
    expected = streamed(runner_of(part), part.samples.n)[0]
    assert 0 < differ(streamed(chosen, part.samples.n)[0], expected) <= 5e-2


def test_fp16_is_left_to_autocast(part, measuring):
    """What overflows may do so in samples that were not compared."""
    measuring["torch in fp16"] = lambda size: 100.0
    chosen, notes = choose(part, precision="fp16")
    assert chosen.engine.name == "torch in fp16"
    assert notes == [f"features: torch in fp16, 100 samples/s, {chosen.batch} a run"]


def test_a_form_that_mixes_types_is_left_out(part, measuring, monkeypatch):
    run = TorchEngine.run

    def mixed(self, values):
        if self.name == WHOLE:
            raise RuntimeError("expected both to be of one type")
        return run(self, values)

    monkeypatch.setattr(TorchEngine, "run", mixed)
    measuring[BF16] = lambda size: 100.0
    chosen, notes = choose(part, precision="bf16")
    assert chosen.engine.name == BF16
    assert notes[0].startswith(f"features: {WHOLE} does not run the frozen part: expected both")


# ── the engine of torch ──────────────────────────────────────────────────────────────────────────


def values_of(part, count=4):
    feeds = part.samples.read(np.arange(count)).feeds
    return {name: torch.from_numpy(np.array(value)) for name, value in feeds.items()}


@pytest.mark.parametrize(
    "build", [networks.convnet, networks.residual, networks.vit], ids=lambda build: build.__name__
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_factors_lie_in_the_type_that_autocast_wants(build, precision, monkeypatch):
    """Cast once, not in every run, and not a bit changes."""
    part = frozen_parts.rows(build())
    engine = TorchEngine(part.frozen, CPU, precision=precision)
    monkeypatch.setattr(computing, "factors_of", lambda _: frozenset())
    every_time = TorchEngine(part.frozen, CPU, precision=precision)
    half = {name for name, p in engine.module.named_parameters() if p.dtype != torch.float32}
    assert half
    assert all(dict(engine.module.named_parameters())[name].dim() >= 2 for name in half)
    assert {p.dtype for p in every_time.module.parameters()} == {torch.float32}
    found, expected = (one.run(values_of(part)) for one in (engine, every_time))
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_a_weight_that_others_read_too_stays_as_it_is():
    """Gather, a subgraph, an output and the bias of a product take it in its own type."""
    names = ("both", "inner", "bias", "plain", "given")
    weights = ", ".join(
        f"float[3,3] {name} = {{1, 2, 3, 4, 5, 6, 7, 8, {n}}}" for n, name in enumerate(names)
    )
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[3,3] x, int64[3] i, bool c) => (float[3,3] y, float[3,3] given) <{weights}> {{
            a = Gather(both, i)
            m = MatMul(a, both)
            n = Gemm(m, plain, bias)
            o = MatMul(n, given)
            p = MatMul(o, inner)
            y = If (c) <
                then_branch = t () => (float[3,3] q) {{ q = Add(p, inner) }},
                else_branch = e () => (float[3,3] r) {{ r = Identity(p) }}
            >
        }}"""
    )
    found = computing.factors_of(to_module(model, roles=roles(model)))
    assert found == {"plain"}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_runs_wait_for_weights_that_are_laid_out(precision, part, monkeypatch):
    """That is work of the default stream, for which a stream of one's own does not wait."""
    modules, waited = [], []

    def converted(*arguments, **options):
        modules.append(to_module(*arguments, **options))
        return modules[-1]

    def wait(device):
        (module,) = modules
        kernels = [p for p in module.parameters() if p.dim() == 4]
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
        assert {p.dtype for p in kernels} == {computing.REDUCED.get(precision, torch.float32)}
        waited.append(device)

    monkeypatch.setattr(computing, "to_module", converted)
    monkeypatch.setattr(computing, "wait", wait)
    TorchEngine(part.frozen, CPU, precision=precision)
    assert waited == [CPU]


def test_throughout_in_bf16_nothing_is_left_to_autocast(tmp_path, part, monkeypatch):
    engine = TorchEngine(part.frozen, CPU, precision="bf16", whole=True)
    monkeypatch.setattr(torch, "autocast", never)
    assert {p.dtype for p in engine.module.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in engine.run(values_of(part)).values()} == {torch.bfloat16}
    texts = frozen_parts.letters(tmp_path / "texts")
    engine = TorchEngine(texts.frozen, CPU, precision="bf16", whole=True)
    taken = [engine._taken(value).dtype for value in values_of(texts).values()]
    assert set(taken) == {torch.int64}  # ids stay ids


# ── how many at once ─────────────────────────────────────────────────────────────────────────────


def choice(part, *, kind="cuda", count=None, **options):
    """Return a choice before it is made, for a device that need not be there."""
    runner = runner_of(part, **options)
    runner.batch = min(runner.batch, 4) if runner.grows else runner.batch
    indices = np.arange(part.samples.n if count is None else count)
    place = Engines(torch.device(kind), Device("cpu"))
    return engines._Choice(place, runner, part.frozen, indices)


def test_torch_starts_with_what_fills_a_gpu(part):
    made = choice(part, count=5000)
    assert made._first_batch() == 256
    assert choice(part, count=100)._first_batch() == 64  # no more than there are
    assert choice(part, kind="cpu", count=5000)._first_batch() == 4
    assert choice(part, batch=3, count=5000)._first_batch() == 3
    assert choice(frozen_parts.fixed(part, 4), count=5000)._first_batch() == 4
    made.arrivals.sample_bytes = 2**20
    assert made._first_batch() == 64
    made.arrivals.sample_bytes = 2**30
    assert made._first_batch() == 4  # the Runner's own
    made.runner.batch = 512
    assert made._first_batch() == 512


@pytest.mark.parametrize(("count", "looks"), [(20 * 256, False), (20 * 256 + 1, True)])
def test_algorithms_are_looked_for_where_that_pays(count, looks, part, monkeypatch):
    made, asked = choice(part, count=count), []
    monkeypatch.setattr(engines, "TorchEngine", lambda *_, **options: asked.append(options))
    monkeypatch.setattr(made, "_tested", lambda engine, bound, batch: batch)
    assert made._torch() == 256
    assert [options["one_shape"] for options in asked] == [looks]
    monkeypatch.setattr(engines.Arrivals, "one_shape", False)
    made._torch()
    assert asked[-1]["one_shape"] is False


def test_batches_are_not_so_large_that_reading_has_nothing_to_run_beside(part):
    sizes = []
    for count in (100, 1000, 4096, 100_000):
        made = choice(part, count=count)
        made.reference = {"features": np.zeros((8, 8), np.float32)}
        sizes.append(made._most())
    assert sizes == [100, 256, 512, 2048]


def test_memory_is_looked_at_before_it_is_given_back(part, small, measuring, monkeypatch):
    events = []

    def used(_):
        events.append("looked")
        return 0.5

    monkeypatch.setattr(engines, "_used", used)
    monkeypatch.setattr(engines, "_release", lambda _: events.append("given back"))
    measuring |= {ONNX: lambda size: 100.0, TORCH: lambda size: 200.0}
    choose(part, small)
    assert events == 4 * ["looked", "given back"] + ["given back"]


@pytest.fixture
def small(part, monkeypatch):
    """A Runner that begins with four samples, and time enough to try more."""
    monkeypatch.setattr(engines, "_TRIAL_SHARE", 1e6)
    runner = runner_of(part)
    runner.batch = 4
    return runner


def test_the_batch_grows_while_that_gives_more(part, small, measuring):
    measuring |= {
        ONNX: lambda size: 100.0 * min(size, 8),
        TORCH: lambda size: 100.0 * min(size, 16) + size,
    }
    chosen, _ = choose(part, small)
    assert (chosen.engine.name, chosen.batch) == (TORCH, 16)
    tried = {name: {s for n, s in measuring["tried"] if n == name} for name in (ONNX, TORCH)}
    assert tried == {ONNX: {4, 8, 16}, TORCH: {4, 8, 16, 32}}  # the last one gave too little


def test_the_search_for_a_batch_takes_its_share_of_the_time(part, small, measuring, monkeypatch):
    monkeypatch.setattr(engines, "_TRIAL_SHARE", 0.0)
    measuring |= {ONNX: lambda size: 100.0 * size, TORCH: lambda size: 200.0 * size}
    assert choose(part, small)[0].batch == 4


def test_the_batch_of_the_caller_and_of_the_graph_stand(part, measuring):
    measuring |= {ONNX: lambda size: 100.0 * size, TORCH: lambda size: 200.0 * size}
    assert choose(part, runner_of(part, batch=3))[0].batch == 3
    insists = frozen_parts.fixed(part, 4)
    chosen, _ = choose(insists)
    assert chosen.batch == 4
    expected = streamed(runner_of(insists), part.samples.n)[0]
    assert differ(streamed(chosen, part.samples.n)[0], expected) <= 1e-4


def test_a_full_device_ends_the_growth(part, small, measuring, monkeypatch):
    measuring |= {ONNX: lambda size: 100.0 * size, TORCH: lambda size: 400.0 * size}
    shares = iter([0.5, 0.5, 0.95, 0.5, 0.95])
    monkeypatch.setattr(engines, "_used", lambda _: next(shares))
    chosen, notes = choose(part, small)
    assert (chosen.engine.name, chosen.batch) == (TORCH, 4)
    assert notes[0].endswith(f"1,600 samples/s, 4 a run ({ONNX}: 800)")


@pytest.mark.parametrize("most", [1, 3])
def test_out_of_memory_halves_the_batch(most, part, measuring, monkeypatch):
    run = TorchEngine.run

    def narrow(self, values):
        if len(values["x"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, values)

    monkeypatch.setattr(TorchEngine, "run", narrow)
    runner = runner_of(part)
    runner.batch = 8
    chosen, notes = choose(part, runner)
    assert (chosen.engine.name, chosen.batch) == (TORCH, {1: 1, 3: 2}[most])
    assert len(notes) == 1
    found = streamed(chosen, part.samples.n)[0]
    assert differ(found, streamed(runner_of(part), part.samples.n)[0]) <= 1e-4


def unconvertible(*_, **__):
    raise UnsupportedError("no such operator", where="node n1", remedy="none")


def raising(*_):
    raise RuntimeError("it broke\nin many lines")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("converts", "torch does not convert the frozen part: no such operator"),
        ("raises", "torch in float32 does not run the frozen part: it broke"),
        ("differs", "torch in float32 differs from ONNX Runtime by"),
        ("gives nan", "torch in float32 differs from ONNX Runtime by nan"),
        ("runs out", "torch in float32 does not run the frozen part: out of memory"),
    ],
)
def test_an_engine_that_fails_is_left_out(harm, said, part, measuring, monkeypatch):
    run = TorchEngine.run
    factor = {"differs": 1.001, "gives nan": float("nan")}.get(harm, 1.0)
    if harm == "converts":
        monkeypatch.setattr(computing, "to_module", unconvertible)
    elif harm == "raises":
        monkeypatch.setattr(TorchEngine, "run", raising)
    elif harm == "runs out":

        def full(*_):
            raise OutOfMemoryError("out of memory", remedy="none")

        monkeypatch.setattr(TorchEngine, "run", full)
    else:
        monkeypatch.setattr(
            TorchEngine,
            "run",
            lambda self, values: {n: v * factor for n, v in run(self, values).items()},
        )
    chosen, notes = choose(part)
    assert chosen.engine.name == ONNX
    assert notes[0].startswith(f"features: {said}")
    assert notes[1].startswith(f"features: {ONNX}, 100 samples/s")
    assert len(notes) == 2


def test_where_no_engine_works_the_runner_does(part, measuring, monkeypatch):
    monkeypatch.setattr(TorchEngine, "run", raising)
    monkeypatch.setattr(OnnxEngine, "run", raising)
    runner = runner_of(part)
    chosen, notes = choose(part, runner)
    assert chosen is runner
    assert [note.split(" does not")[0] for note in notes] == [
        f"features: {ONNX}",
        f"features: {TORCH}",
    ]


def test_a_choice_that_breaks_leaves_the_runner(part, monkeypatch):
    monkeypatch.setattr(engines, "Arrivals", raising)
    runner = runner_of(part)
    chosen, notes = choose(part, runner)
    assert chosen is runner
    assert notes == ["features: ONNX Runtime as it is; no other engine: it broke"]


def test_compiling_waits_for_enough_work(part, measuring, monkeypatch):
    compiled = []

    def pretend(self, *, tuned=False):
        engine = copy.copy(self)
        engine.name = f"{'autotuned' if tuned else 'compiled'} {self.name}"
        compiled.append(engine.name)
        return engine

    monkeypatch.setattr(TorchEngine, "compiled", pretend)
    measuring |= {
        f"compiled {TORCH}": lambda size: 300.0,
        f"autotuned {TORCH}": lambda size: 250.0,
    }
    assert choose(part)[0].engine.name == TORCH  # a fifth of a second is left
    assert compiled == []
    monkeypatch.setitem(engines.WORTH_COMPILING, "cpu", 0.01)
    assert choose(part, compile="off")[0].engine.name == TORCH
    chosen, notes = choose(part)
    assert chosen.engine.name == f"compiled {TORCH}"
    assert compiled == [f"compiled {TORCH}"]
    assert notes[0].endswith(f"({ONNX}: 100; {TORCH}: 200)")
    monkeypatch.setattr(engines, "WORTH_TUNING", 0.02)
    assert choose(part)[0].engine.name == f"compiled {TORCH}"
    assert compiled[-1] == f"autotuned {TORCH}"


def test_the_faster_form_is_compiled(part, measuring, monkeypatch):
    def pretend(self, *, tuned=False):
        engine = copy.copy(self)
        engine.name = f"compiled {self.name}"
        return engine

    monkeypatch.setattr(TorchEngine, "compiled", pretend)
    monkeypatch.setitem(engines.WORTH_COMPILING, "cpu", 0.0)
    measuring |= {BF16: lambda size: 300.0, WHOLE: lambda size: 200.0}
    measuring[f"compiled {BF16}"] = lambda size: 400.0
    assert choose(part, precision="bf16")[0].engine.name == f"compiled {BF16}"
    measuring |= {WHOLE: lambda size: 350.0, f"compiled {WHOLE}": lambda size: 500.0}
    assert choose(part, precision="bf16")[0].engine.name == f"compiled {WHOLE}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "whole", "bound"),
    [("float32", False, 1e-4), ("bf16", False, 5e-2), ("bf16", True, 5e-2)],
    ids=["float32", "bf16", "wholly bf16"],
)
def test_a_compiled_engine_gives_the_same_rows(precision, whole, bound, part):
    runner = runner_of(part)
    few = part.samples.read(np.arange(2))
    dtypes = {name: rows.dtype for name, rows in runner.run(few.feeds, 2).items()}
    engine = TorchEngine(part.frozen, CPU, precision=precision, whole=whole).compiled()
    belt = Conveyor(runner, engine, engines.Arrivals(runner, CPU, None), batch=6, dtypes=dtypes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about itself
        found = streamed(belt, part.samples.n)[0]
    assert belt.notes == []
    assert differ(found, streamed(runner, part.samples.n)[0]) <= bound


def test_texts_of_all_lengths_are_not_compiled(tmp_path, measuring, monkeypatch):
    monkeypatch.setitem(engines.WORTH_COMPILING, "cpu", 0.0)
    monkeypatch.setattr(TorchEngine, "compiled", unconvertible)
    texts = frozen_parts.letters(tmp_path)
    chosen, notes = choose(texts)
    assert chosen.engine.name == TORCH
    assert len(notes) == 1
    found = streamed(chosen, texts.samples.n)[0]
    assert differ(found, streamed(runner_of(texts), texts.samples.n)[0]) <= 1e-4


def test_pictures_are_chosen_for_by_their_real_features(tmp_path, measuring):
    pictures = frozen_parts.mobilenet(tmp_path, 12)
    chosen, notes = choose(pictures)
    assert (chosen.engine.name, len(notes)) == (TORCH, 1)
    found, failures = streamed(chosen, 12)
    expected, lost = streamed(runner_of(pictures), 12)
    assert differ(found, expected) <= 1e-4
    assert failures == lost != []


# ── where it is used ─────────────────────────────────────────────────────────────────────────────


def test_a_cpu_and_repeatable_runs_have_no_choice(monkeypatch):
    assert engine_for("cpu") is None
    if not torch.cuda.is_available():
        assert engine_for("auto") is None
    monkeypatch.setattr(engines, "choose", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(engines, "choose_device", lambda _: Device("cuda"))
    assert engine_for("cuda", deterministic=True) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_torch_lacks_is_an_error():
    with pytest.raises(EnvironmentLacksError) as caught:
        engine_for("cuda")
    assert caught.value.exit == 3


def test_on_a_gpu_both_engines_compute_on_one_stream(monkeypatch):
    class Stream:
        cuda_stream = 4096

    monkeypatch.setattr(engines, "choose", lambda _: torch.device("cuda:1"))
    monkeypatch.setattr(engines, "choose_device", lambda _: Device("cuda", 1, required=True))
    monkeypatch.setattr(engines.torch.cuda, "Stream", lambda device: Stream())
    chosen = engine_for("cuda:1", precision="bf16")
    assert chosen.place == Device("cuda", 1, required=True, stream=4096)
    assert chosen.device == torch.device("cuda:1")
    assert chosen.key_parts == ["engines", "bf16"]
    assert engine_for("cuda:1").key_parts == ["engines"]


def test_features_say_what_computed_them(part, measuring, tmp_path):
    def features(**options):
        chosen = Engines(CPU, Device("cpu"), **options)
        return extract(
            part.frozen, part.names, part.samples, None,
            Request(cache_dir=tmp_path, device=chosen.place, faster=chosen,
                    key_parts=chosen.key_parts),
        )  # fmt: skip

    plain = extract(
        part.frozen, part.names, part.samples, None, Request(cache_dir=tmp_path, device="cpu")
    )
    first = features()
    assert first.providers == ("torch:cpu",)
    assert first.notes[0].startswith(f"features: {TORCH}, 200 samples/s")
    np.testing.assert_allclose(
        first.array("features"), plain.array("features"), rtol=1e-4, atol=1e-6
    )
    again = features()
    assert (again.hit, again.providers, again.notes) == (True, ("torch:cpu",), ())
    measuring["torch in bf16"] = measuring[TORCH]
    reduced = features(precision="bf16")
    assert not reduced.hit
    assert len({plain.key, first.key, reduced.key}) == 3
    assert reduced.array("features").dtype == np.float32


def test_what_is_not_kept_is_computed_by_the_runner(part, measuring, tmp_path):
    chosen = Engines(CPU, Device("cpu"))
    found = extract(
        part.frozen, part.names, part.samples, None,
        Request(cache_dir=tmp_path, device="cpu", faster=chosen, limit_bytes=10),
    )  # fmt: skip
    assert found.recomputed
    assert found.providers == ("CPUExecutionProvider",)
    assert measuring["tried"] == []


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    x = random.standard_normal((90, 3, 12, 12)).astype(np.float32)
    labels = np.arange(90) % 3
    x += labels[:, None, None, None]
    return {"x": x, "labels": labels}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def test_a_run_tells_of_the_engine(data, measuring, monkeypatch):
    monkeypatch.setattr(frozen, "engine_for", lambda *_, **__: Engines(CPU, Device("cpu")))
    outcome = surgeon.finetune(networks.convnet(), data, case="small-similar", device="cpu")
    body = outcome.document()
    assert body["providers"] == ["torch:cpu"]
    assert body["device"] == "cpu"
    assert any(note.startswith(f"features: {TORCH}") for note in body["warnings"])


def test_a_run_asks_for_what_it_was_asked_for(data, monkeypatch):
    asked = []

    def remember(device, **options):
        asked.append((device, options))

    monkeypatch.setattr(frozen, "engine_for", remember)
    surgeon.finetune(
        networks.convnet(), data, case="small-similar", device="cpu", deterministic=True,
        compile="off", precision="bf16",
    )  # fmt: skip
    expected = {"precision": "bf16", "compile": "off", "deterministic": True}
    assert asked == [("cpu", expected)]


def test_a_run_says_that_torch_lacks_the_gpu(data, monkeypatch):
    """The driver shows a GPU, torch is built for CPUs: trained there, and said aloud."""
    monkeypatch.setattr(stages, "torch_device", lambda _: CPU)
    monkeypatch.setattr(places, "choose_device", lambda _: Device("cuda"))
    outcome = surgeon.finetune(networks.convnet(), data, case="small-similar", device="cpu")
    body = outcome.document()
    assert body["device"] == "cpu"
    assert [note for note in body["warnings"] if "training ran on the CPU" in note]


ORT_CPU, ORT_CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("device", "providers", "front"),
    [
        ("cpu", (ORT_CPU,), None),
        ("cuda:0", ("torch:cuda:0",), None),
        ("cuda:0", (ORT_CUDA, ORT_CPU), None),
        ("cuda:0", (), None),
        ("cuda:0", (ORT_CPU,), "cpu"),
        ("cpu", (ORT_CUDA, ORT_CPU), "cuda"),
    ],
)
def test_two_devices_are_both_named(device, providers, front):
    class OnTheCpu:
        class given:  # noqa: N801 - stands for a field
            device = Device("cpu")

    said = []
    if front is not None:
        said = [f"the frozen part ran on {front} ({providers[0]}), training on {device}"]
    assert stages._places(OnTheCpu(), torch.device(device), providers) == said
