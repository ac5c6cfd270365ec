from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pluggy
import pytest
from contract_bodies import BODIES

import surgeon
from surgeon.cli import main
from surgeon.plugin import hookimpl, hooks, manager


@dataclass
class Run:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Run the command line in this process."""

    def call(*arguments: object) -> Run:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return call


class Document:
    """What `operation` returns for finetune, predict and verify."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body

    def document(self, out: object = None) -> dict[str, Any]:
        return self.body if out is None else {**self.body, "out": str(out)}

    def save(self, path: Any, *, force: bool) -> None:
        path.write_text("saved")


class Operation(ModuleType):
    """A stand-in for `surgeon.operation`: contract-shaped answers, and a record of the calls."""

    def __init__(self) -> None:
        super().__init__("surgeon.operation")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.fail: BaseException | None = None
        self.bodies = {verb: dict(body) for verb, body in BODIES.items()}
        for verb in ("inspect", "cuts", "check", "cases", "evaluate"):
            setattr(self, verb, self._answer(verb, lambda body: body))
        for verb in ("operate", "finetune", "predict", "verify"):
            setattr(self, verb, self._answer(verb, Document))

    def _answer(self, verb, wrap):
        def call(*args, **kwargs):
            self.calls.append((verb, args, kwargs))
            print("a library prints this")
            if self.fail is not None:
                raise self.fail
            return wrap(self.bodies[verb])

        return call

    @property
    def settings(self) -> dict[str, Any]:
        return self.calls[-1][2]


@pytest.fixture
def operation(monkeypatch):
    """Put the stand-in where the verbs import `surgeon.operation` from."""
    fake = Operation()
    monkeypatch.setitem(sys.modules, "surgeon.operation", fake)
    monkeypatch.setattr(surgeon, "operation", fake, raising=False)
    return fake


@pytest.fixture
def model(tmp_path):
    """A file that exists; no fake reads it."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"onnx")
    return path


@pytest.fixture
def plugins(monkeypatch):
    """One plugin, `mine` of `their-dist`, whose verbs and warnings a test may replace."""
    state = SimpleNamespace(commands=lambda cli: None, asked=[], warnings=())

    class Mine:
        @hookimpl
        def surgeon_commands(self, cli):
            state.commands(cli)

    def loading(*, enabled=True, disabled=(), verbs=False):
        state.asked.append(enabled)
        pluggy_manager = pluggy.PluginManager(hooks.PROJECT)
        pluggy_manager.add_hookspecs(hooks)
        pluggy_manager.register(Mine(), name="mine")
        loaded = (manager.Loaded("mine", "their-dist", "1.0"),)
        return manager.Plugins(pluggy_manager, loaded, state.warnings)

    monkeypatch.setattr(manager, "load_plugins", loading)
    return state
