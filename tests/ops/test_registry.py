"""Declarations are checked when they are made; versions are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from surgeon.errors import UnsupportedError
from surgeon.ops import registry
from surgeon.ops.registry import DeclarationError, Operator, coverage, lookup, op


def test_versions_are_exact() -> None:
    old, new = lookup("", "Softmax", 12), lookup("ai.onnx", "Softmax", 13)
    assert isinstance(old, Operator)
    assert isinstance(new, Operator)
    assert (old.version, new.version) == (11, 13)
    assert old.function is not new.function


def test_defaults_come_from_the_schema_of_the_version() -> None:
    assert lookup("", "Softmax", 11).defaults == {"axis": 1}
    assert lookup("", "Softmax", 13).defaults == {"axis": -1}


@pytest.mark.parametrize(
    ("name", "versions", "reason"),
    [
        ("Reluu", (), "no such operator"),
        ("Relu", (5,), "no versions"),
        ("Relu", (14,), "already declared"),
    ],
)
def test_a_wrong_declaration_is_refused(name: str, versions: tuple[int, ...], reason: str) -> None:
    lookup("", "Relu", 14)
    with pytest.raises(DeclarationError, match=reason) as caught:
        op(name, *versions)(torch.relu)
    assert "test_registry.py:" in str(caught.value)


def test_parameters_must_match_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup("", "Relu", 14)
    monkeypatch.setattr(registry, "_declared", {})

    def without_axis(input: Tensor) -> Tensor:
        return input

    def with_more(input: Tensor, other: Tensor, *, axis: int) -> Tensor:
        return input

    with pytest.raises(DeclarationError, match="no parameter for attribute 'axis'"):
        op("Softmax", 13)(without_axis)
    with pytest.raises(DeclarationError, match="other"):
        op("Softmax", 13)(with_more)


def test_an_unknown_operator_tells_how_a_plugin_adds_it() -> None:
    with pytest.raises(UnsupportedError, match=r"org\.example Thing") as caught:
        lookup("org.example", "Thing", 2)
    assert '@op("Thing", domain="org.example")' in str(caught.value)


def test_an_operator_before_its_first_version_is_said() -> None:
    with pytest.raises(UnsupportedError, match="its first is 20"):
        lookup("", "Gelu", 13)


def test_a_plugin_declares_in_its_own_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_declared", dict(registry._declared))
    lookup.cache_clear()

    @op("Twice", domain="org.example.test")
    def twice(x: Tensor, *, bias: float = 0.0) -> Tensor:
        return 2 * x + bias

    found = lookup("org.example.test", "Twice", 1)
    assert isinstance(found, Operator)
    assert found.attributes["bias"].kind == "float"
    lookup.cache_clear()


def test_coverage_names_file_and_line() -> None:
    lines = [c for c in coverage() if c.name == "Gemm"]
    assert [c.version for c in lines] == [1, 6, 7, 9, 11, 13]
    assert {c.status for c in lines} == {"native"}
    assert all(c.file.endswith("linear.py") and c.line for c in lines)


def test_every_operator_of_onnx_is_covered() -> None:
    missing = [f"{c.domain} {c.name}-{c.version}" for c in coverage() if c.status == "missing"]
    assert missing == []
