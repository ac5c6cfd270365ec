"""A checkpoint comes back exactly, or says why not; a failed write leaves the last whole one."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch

from surgeon.errors import CheckError, EnvironmentLacksError, OutputError
from surgeon.train import checkpoint


def test_comes_back_exactly(tmp_path):
    odd = torch.tensor([math.pi, -0.0, float("inf"), 1e-45])
    tensors = {
        "a/b:0;{}": odd,
        "half": torch.ones(2, 3).half(),
        "step": torch.tensor(7.0),
        "strided": torch.arange(6).view(2, 3).T,
        "empty": torch.zeros(0, 4),
        "twin": odd,
    }
    state = {"epoch": 3, "history": [{"loss": 0.1 + 0.2, "x": None}]}
    path = checkpoint.save(tmp_path / "run", tensors, state)
    found, stored = checkpoint.load(tmp_path / "run")
    assert {**state, "version": 2} == stored
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == [checkpoint.FILE]


def test_nothing_there(tmp_path):
    assert checkpoint.load(tmp_path) is None


@pytest.mark.parametrize("damage", ["truncated", "garbage", "foreign", "newer"])
def test_damage_is_named(tmp_path, damage):
    path = checkpoint.save(tmp_path, {"a": torch.ones(100)}, {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "garbage":
        path.write_bytes(b"not a checkpoint at all")
    elif damage == "foreign":
        safetensors.torch.save_file({"a": torch.ones(1)}, path)
    else:
        safetensors.torch.save_file(
            {"a": torch.ones(1)}, path, metadata={"surgeon.checkpoint": '{"version": 99}'}
        )
    with pytest.raises(CheckError) as caught:
        checkpoint.load(tmp_path)
    assert caught.value.where == str(path)
    assert "--resume" in caught.value.remedy


def test_a_full_disk_leaves_the_last_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"a": torch.ones(3)}, {"epoch": 1})

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(EnvironmentLacksError):
        checkpoint.save(tmp_path, {"a": torch.zeros(3)}, {"epoch": 2})
    monkeypatch.undo()
    tensors, state = checkpoint.load(tmp_path)
    assert state["epoch"] == 1
    assert torch.equal(tensors["a"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == [checkpoint.FILE]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OutputError):
        checkpoint.save(tmp_path / "taken", {"a": torch.ones(1)}, {})
