"""The 8-bit optimiser against torch's own: the same training, a quarter of the state."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.errors import CheckError, UsageError
from surgeon.train import checkpoint, optimizers

KINDS = ["adamw", "sgd", "adamw8bit"]
LAST, FIRST = torch.channels_last, torch.contiguous_format


def weights(dtype=torch.float32, layout=LAST):
    """Return parameters below and above SMALL; the last convolution fills no whole blocks."""
    draw = torch.Generator().manual_seed(3)
    shapes = [(25, 10, 3, 3), (64, 96), (10,)]
    values = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
    values.append(torch.randn((61, 13, 3, 3), generator=draw).to(dtype))
    return [nn.Parameter(v.contiguous(memory_format=layout) if v.ndim == 4 else v) for v in values]


def give_gradients(parameters, step, factor=1.0):
    draw = torch.Generator().manual_seed(step)
    for p in parameters:
        sizes = torch.randn(p.shape, generator=draw).exp()
        gradient = torch.randn(p.shape, generator=draw) * sizes * factor
        p.grad = torch.empty_like(p).copy_(gradient)


def take_steps(optimizer, parameters, steps, **attributes):
    for name, value in attributes.items():
        setattr(optimizer, name, value)
    for step in steps:
        give_gradients(parameters, step)
        optimizer.step()


def make(parameters, kind="adamw8bit", lr=0.01):
    groups = [
        {"params": parameters[:2], "lr": lr, "weight_decay": 0.1, "factor": 1.0},
        {"params": parameters[2:], "lr": lr / 2, "weight_decay": 0.0, "factor": 0.5},
    ]
    return optimizers.make(groups, kind=kind, lr=lr)


def snapshot(optimizer, parameters):
    values = [p.detach().clone() for p in parameters]
    for p in parameters:
        values += [tensor.clone() for _, tensor in sorted(optimizer.state[p].items())]
    return values


def same(ones, others):
    return len(ones) == len(others) and all(
        torch.equal(one, other) for one, other in zip(ones, others, strict=True)
    )


# ------------------------------------------------------------------------------ it trains


def digits_network(layout=LAST):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    return network.to(memory_format=layout)


def train_on_digits(kind, steps=150, dtype=torch.float32):
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    held, used = order[:500], order[500:]
    network = digits_network()
    groups = [{"params": list(network.parameters()), "lr": 1e-3, "weight_decay": 0.01}]
    optimizer = optimizers.make(groups, kind=kind, lr=1e-3)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        chunk = used[torch.arange(64 * step, 64 * step + 64) % len(used)]
        loss = functional.cross_entropy(network(x[chunk]), y[chunk])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, functional.cross_entropy(network(x[held]), y[held]).item()


def test_real_training_goes_as_with_float32_states():
    wide, wide_held = train_on_digits("adamw")
    narrow, narrow_held = train_on_digits("adamw8bit")
    assert narrow != wide  # else nothing was rounded
    assert wide[0] > 2
    assert wide_held < 0.3
    assert narrow_held == pytest.approx(wide_held, rel=0.02)
    assert sum(narrow[-20:]) == pytest.approx(sum(wide[-20:]), rel=0.02)


def test_steps_stay_near_those_of_float32_states():
    wide, narrow = weights(), weights()
    start = [p.detach().clone() for p in wide]
    take_steps(make(wide, "adamw"), wide, range(50))
    take_steps(make(narrow), narrow, range(50))
    for p, q, was in zip(wide, narrow, start, strict=True):
        moved = (p - was).norm()
        assert (p - q).norm() <= (0.1 * moved if p.numel() >= optimizers.SMALL else 0)


def test_no_step_is_divided_by_next_to_nothing():
    """A small gradient beside large ones, then none: its mean outlives its square in 8 bits."""
    parameter = nn.Parameter(torch.zeros(optimizers.SMALL))
    optimizer = optimizers.make([{"params": [parameter]}], kind="adamw8bit", lr=0.001)
    for step in range(60):
        parameter.grad = torch.full_like(parameter, 1e-5 if step < 30 else 0.0)
        parameter.grad[:: optimizers.BLOCK] = 100.0 * (-1) ** step
        optimizer.step()
    assert parameter.abs().max() <= 0.001 * 60


# --------------------------------------------------------------------------- what it keeps


def test_two_bytes_per_parameter():
    parameter = nn.Parameter(torch.zeros(1000, 1000))
    sizes = {}
    for kind in ("adamw", "adamw8bit"):
        optimizer = optimizers.make([{"params": [parameter]}], kind=kind, lr=0.1)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        state = optimizer.state[parameter].values()
        sizes[kind] = sum(t.numel() * t.element_size() for t in state) / parameter.numel()
    assert sizes["adamw"] == pytest.approx(8, abs=0.01)
    assert sizes["adamw8bit"] == pytest.approx(2 + 8 / optimizers.BLOCK, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [LAST, FIRST], ids=["last", "first"])
def test_a_checkpoint_goes_on_bit_for_bit(kind, layout, tmp_path):
    whole = weights(layout=layout)
    optimizer = make(whole, kind)
    take_steps(optimizer, whole, range(4))
    tensors = {f"now/{n}": p.detach() for n, p in enumerate(whole)}
    for number, p in enumerate(whole):
        for key, tensor in optimizer.state[p].items():
            assert type(tensor) is torch.Tensor
            tensors[f"optimizer/{key}/{number}"] = tensor
    checkpoint.save(tmp_path, tensors, {})
    take_steps(optimizer, whole, range(4, 8))

    again = weights(layout=layout)
    resumed = make(again, kind)
    found, _ = checkpoint.load(tmp_path)
    for number, p in enumerate(again):
        with torch.no_grad():
            p.copy_(found[f"now/{number}"])
        keys = {name.split("/")[1]: name for name in found if name.endswith(f"/{number}")}
        state = {k: found[n] for k, n in keys.items() if n.startswith("optimizer/")}
        optimizers.restore(resumed, p, state)
    take_steps(resumed, again, range(4, 8))
    assert same(snapshot(resumed, again), snapshot(optimizer, whole))


def test_the_state_of_another_optimiser_is_refused():
    parameters = weights()
    optimizer, other = make(parameters), make(parameters, "adamw")
    take_steps(other, parameters, [0])
    with pytest.raises(CheckError) as caught:
        optimizers.restore(optimizer, parameters[1], other.state[parameters[1]])
    assert "--resume" in caught.value.remedy
    state = {
        key: tensor[:1] for key, tensor in optimizer.state[parameters[2]].items() if key != "step"
    }
    with pytest.raises(CheckError):
        optimizers.restore(optimizer, parameters[2], state)


def test_torch_does_not_load_the_states():
    optimizer = make(weights())
    with pytest.raises(UsageError, match="load_state_dict"):
        optimizer.load_state_dict(optimizer.state_dict())


# ------------------------------------------------------------------- clipping and skipping


@pytest.mark.parametrize("kind", KINDS)
def test_found_inf_changes_nothing(kind):
    parameters = weights()
    optimizer = make(parameters, kind)
    take_steps(optimizer, parameters, range(3), found_inf=torch.tensor(0.0))
    before = snapshot(optimizer, parameters)
    for gradient in (float("nan"), float("inf"), 1.0):
        for p in parameters:
            p.grad = torch.full_like(p, gradient)
        optimizer.found_inf = torch.tensor(1.0)
        optimizer.step()
        assert same(snapshot(optimizer, parameters), before)
    take_steps(optimizer, parameters, [3], found_inf=torch.tensor(0.0))

    others = weights()
    plain = make(others, kind)
    take_steps(plain, others, range(4))
    assert same(snapshot(optimizer, parameters), snapshot(plain, others))


@pytest.mark.parametrize("kind", KINDS)
def test_grad_scale_clips(kind):
    scaled, clipped = weights(), weights()
    one, other = make(scaled, kind), make(clipped, kind)
    for step in range(5):
        give_gradients(scaled, step)
        give_gradients(clipped, step)
        norm = nn.utils.clip_grad_norm_(clipped, 1.0)
        assert norm > 1
        other.step()
        one.grad_scale = norm / 1.0
        one.step()
    for p, q in zip(scaled, clipped, strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


def test_gradients_divided_before_give_the_same_bits():
    scaled, divided = weights(), weights()
    one, other = make(scaled), make(divided)
    for step in range(5):
        give_gradients(scaled, step, factor=8.0)
        give_gradients(divided, step)
        one.grad_scale = torch.tensor(8.0)
        one.step()
        other.step()
    assert same(snapshot(one, scaled), snapshot(other, divided))


def test_a_gradient_scaler_hands_over_what_it_found():
    parameters = weights()
    optimizer = make(parameters)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for overflow in (True, False):
        before = snapshot(optimizer, parameters)
        scaler.scale(torch.ones(()))
        give_gradients(parameters, 0, factor=4.0)
        if overflow:
            parameters[0].grad[0, 0, 0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        assert same(snapshot(optimizer, parameters), before) is overflow
    assert scaler.get_scale() == 2.0


class NoQuestions(TorchDispatchMode):
    """Raise where the host asks for a value or a size that a device would have to tell."""

    WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.WAITS, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_no_value(kind):
    """What a GPU would stop for; tests/gpu has the detector of torch itself."""
    parameters = weights()
    optimizer = make(parameters, kind)
    for step in range(2):
        give_gradients(parameters, step)
        with NoQuestions():
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            optimizer.grad_scale = norm.clamp(min=1.0)
            optimizer.found_inf = 1.0 - torch.isfinite(norm).float()
            optimizer.step()
    with NoQuestions(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        float(norm)


# -------------------------------------------------------------------- whatever the weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_layout_changes_no_bit(dtype):
    last, first = weights(dtype, LAST), weights(dtype, FIRST)
    one, other = make(last), make(first)
    take_steps(one, last, range(5))
    take_steps(other, first, range(5))
    assert last[0].is_contiguous(memory_format=LAST)
    assert first[0].is_contiguous()
    assert all(p.dtype == dtype for p in last)
    assert same(snapshot(one, last), snapshot(other, first))
    assert all(torch.isfinite(value).all() for value in snapshot(one, last))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_is_stepped_in_float32(dtype):
    low = weights(dtype)
    exact = [nn.Parameter(p.detach().float()) for p in low]
    one, other = make(low), make(exact)
    give_gradients(low, 0)
    for p, q in zip(low, exact, strict=True):
        q.grad = p.grad.float()
    one.step()
    other.step()
    for p, q in zip(low, exact, strict=True):
        assert torch.equal(p, q.to(dtype))
        assert all(t.dtype in {torch.uint8, torch.float32} for t in one.state[p].values())


def test_a_transposed_weight_is_written_to():
    values = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    plain, turned = nn.Parameter(values.clone()), nn.Parameter(values.T.contiguous().T)
    assert not turned.is_contiguous()
    for p in (plain, turned):
        optimizer = optimizers.make([{"params": [p]}], kind="adamw8bit", lr=0.1)
        take_steps(optimizer, [p], range(3))
    assert torch.equal(plain, turned)
    assert not torch.equal(plain, values)


def test_the_size_of_a_piece_changes_no_bit(monkeypatch):
    whole, pieces = weights(), weights()
    one, other = make(whole), make(pieces)
    take_steps(one, whole, range(3))
    monkeypatch.setitem(optimizers._BLOCKS_AT_A_TIME, "cpu", 5)
    take_steps(other, pieces, range(3))
    assert same(snapshot(one, whole), snapshot(other, pieces))
    assert all(float(one.state[p]["step"]) == 3 for p in whole)


def test_a_rate_may_be_a_tensor_and_may_change():
    numbers, tensors = weights(), weights()
    one, other = make(numbers), make(tensors)
    for step, rate in enumerate((0.5, 0.25, 0.125)):
        for group in one.param_groups:
            group["lr"] = rate
        for group in other.param_groups:
            group["lr"] = torch.tensor(rate)
        take_steps(one, numbers, [step])
        take_steps(other, tensors, [step])
    assert same(snapshot(one, numbers), snapshot(other, tensors))
    assert [group["factor"] for group in one.param_groups] == [1.0, 0.5]


def test_a_parameter_without_a_gradient_stays():
    parameters = weights()
    optimizer = make(parameters)
    give_gradients(parameters, 0)
    parameters[1].grad = parameters[2].grad = None
    before = snapshot(optimizer, parameters[1:3])
    optimizer.step()
    assert same(snapshot(optimizer, parameters[1:3]), before)


def test_sgd_is_plain():
    parameters = weights()
    before = [p.detach().clone() for p in parameters]
    take_steps(make(parameters, "sgd", lr=0.5), parameters, [0])
    for p, was, rate in zip(parameters, before, (0.5, 0.5, 0.25, 0.25), strict=True):
        assert torch.allclose(p, was - rate * p.grad)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="adamw4bit"):
        optimizers.make([{"params": weights()}], kind="adamw4bit", lr=0.1)


# ------------------------------------------------------------------------------ the codes


@pytest.mark.parametrize("map_", [0, 1], ids=["signed", "unsigned"])
def test_every_level_comes_back_and_rounding_is_to_the_nearest(map_):
    values = optimizers._maps(torch.device("cpu"))[map_]
    assert len(values.levels.unique()) == 256
    assert values.levels.max() == 1
    assert 0 in values.levels
    codes, scale = torch.zeros(1, 256, dtype=torch.uint8), torch.zeros(1, 1)
    values.narrow(4 * values.levels[None], codes, scale, None)
    used = slice(map_, None)  # zero does not divide
    assert codes[0, used].tolist() == list(range(256))[used]
    assert torch.equal(values.widen(codes, scale)[0, used], 4 * values.levels[used])

    given = torch.linspace(float(values.levels[1]), 1, 256)[None]
    values.narrow(given, codes, scale, None)
    distance = (given.T - values.levels).abs().min(1).values
    found = (values.widen(codes, scale) - given)[0].abs()
    assert (found <= distance + given[0].abs() / 2**11).all()


def test_zero_stays_zero_but_in_what_divides():
    signed, unsigned = optimizers._maps(torch.device("cpu"))
    given = torch.zeros(2, 256)
    given[1, :3] = torch.tensor([1.0, 1e-12, 0.0])
    for values in (signed, unsigned):
        codes, scale = torch.ones(2, 256, dtype=torch.uint8), torch.ones(2, 1)
        values.narrow(given, codes, scale, None)
        back = values.widen(codes, scale)
        assert not back[0].any()
        least = values.levels[values.levels > 0].min() if values is unsigned else 0
        assert (back[1, 1:] == least).all()
