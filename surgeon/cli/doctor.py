"""`surgeon doctor`: what works on this machine and what does not.

Every examination is by doing: a session is opened and run, a file is written. Torch is asked in a
process of its own, so that an installation that crashes is a finding and not the end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.screen import Screen, size
from surgeon.cli.session import Answer, Session
from surgeon.cli.versions import LIBRARIES, installed, versions
from surgeon.errors import SurgeonError
from surgeon.extras import EXTRAS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Finding = dict[str, Any]

RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}  # exactly one of them, which the session check sees
LITTLE_ROOM = 2_000_000_000
TORCH_SECONDS = 120
TORCH_PROBE = """
import json, torch
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
sum_of_four = float(torch.ones(4).sum())
print(json.dumps({"devices": devices, "works": sum_of_four == 4, "cuda": torch.version.cuda}))
"""


@click.command(cls=Verb)
@click.pass_obj
def doctor(session: Session) -> Answer:
    """Examine this installation: packages, ONNX Runtime, torch, cache, plugins.

    Exits with 3 where something essential is missing.
    """
    examinations = (_packages, _onnxruntime, _torch, _cache, lambda: _plugins(session))
    checks = [finding for examine in examinations for finding in examine()]
    ok = all(one["level"] != "error" for one in checks)
    body = {"ok": ok, "versions": versions(), "checks": checks}
    return Answer(body, show, exit=0 if ok else 3)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One line per check, its remedy under it."""
    known = body["versions"]
    screen.line(f"surgeon {known['surgeon']} on python {known['python']}")
    for one in body["checks"]:
        screen.line(f"{one['level']:<8} {one['name']}: {one['detail']}")
        if one["remedy"]:
            screen.line(f"         to do: {one['remedy']}")
    screen.line("everything essential works" if body["ok"] else "something essential is missing")


def _found(name: str, level: str, detail: str, remedy: str | None = None) -> Finding:
    return {"name": name, "level": level, "detail": " ".join(detail.split()), "remedy": remedy}


def _refused(name: str, error: SurgeonError) -> Finding:
    return _found(name, "error", error.message, error.remedy)


def _packages() -> Iterator[Finding]:
    essential = [name for name in LIBRARIES if name not in RUNTIMES and name not in EXTRAS]
    known = {name: installed(name) for name in essential}
    missing = [name for name, version in known.items() if version is None]
    if missing:
        remedy = f"pip install {' '.join(missing)}"
        yield _found("packages", "error", f"not installed: {', '.join(missing)}", remedy)
    else:
        yield _found("packages", "ok", f"all {len(known)} are installed")
    absent = [name for name in EXTRAS if installed(name) is None]
    extras = ",".join(sorted({EXTRAS[name] for name in absent}))
    without = f"not installed: {', '.join(absent)}; pip install 'onnx-surgeon[{extras}]'"
    yield _found("extras", "ok", without if absent else "all are installed")


def _onnxruntime() -> Iterator[Finding]:
    """Ask for each provider and say which one a session really got."""
    from surgeon.runtime import places

    try:
        places.check_installation()
        model = _doubling_model()
    except SurgeonError as error:
        yield _refused("onnxruntime", error)
        return
    except ImportError as error:
        yield _found("onnxruntime", "error", str(error), "pip install onnx-surgeon")
        return
    devices = places.count_cuda_devices()
    for device in ("cpu", *(f"cuda:{index}" for index in range(devices))):
        name = f"onnxruntime on {device}"
        try:
            yield _run_on(name, device, model)
        except SurgeonError as error:
            level = "error" if device == "cpu" else "warning"
            yield {**_refused(name, error), "level": level}
    if not devices:
        yield _found("onnxruntime on cuda", "ok", "this machine has no CUDA device")


def _run_on(name: str, device: str, model: bytes) -> Finding:
    import numpy as np

    from surgeon.runtime import sessions

    opened = sessions.open_session(model, device=device)
    result = opened.run({"x": np.array([1.0, 2.0], np.float32)})[0]
    got = ", ".join(opened.providers)
    if not np.array_equal(result, [2.0, 4.0]):
        return _found(name, "error", f"{got} computes 2·[1, 2] as {result.tolist()}")
    return _found(name, "ok", f"a session got {got}")


def _doubling_model() -> bytes:
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [x], [y])
    opset = [helper.make_opsetid("", 13)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return model


def _torch() -> Iterator[Finding]:
    command = [sys.executable, "-c", TORCH_PROBE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TORCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        yield _found("torch", "error", f"did not answer in {TORCH_SECONDS} seconds")
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        yield _found("torch", "error", last, "pip install --force-reinstall torch")
        return
    answer = json.loads(done.stdout.splitlines()[-1])
    devices = answer["devices"]
    level = "ok" if answer["works"] else "error"
    on = f"cpu and {', '.join(devices)}" if devices else "cpu"
    built = f"built for CUDA {answer['cuda']}" if answer["cuda"] else "built without CUDA"
    yield _found("torch", level, f"{installed('torch')} trains on {on} ({built})")


def _cache() -> Iterator[Finding]:
    from surgeon.runtime.cache import cache_root

    folder = cache_root()
    remedy = "set SURGEON_CACHE to a folder you may write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"surgeon")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield _found("cache", "error", f"{folder} cannot be written: {error.strerror}", remedy)
        return
    level = "warning" if free < LITTLE_ROOM else "ok"
    yield _found(
        "cache",
        level,
        f"{folder} can be written, {size(free)} free",
        "free some space, or " + remedy if level == "warning" else None,
    )
    if (room := shutil.disk_usage(Path(tempfile.gettempdir())).free) < LITTLE_ROOM:
        yield _found("temporary files", "warning", f"{size(room)} free in {tempfile.gettempdir()}")


def _plugins(session: Session) -> Iterator[Finding]:
    for plugin in session.plugins.loaded:
        source = f"{plugin.distribution} {plugin.version}"
        if plugin.error is not None:
            remedy = f"repair or uninstall {plugin.distribution}"
            yield _found(f"plugin {plugin.name}", "warning", f"{source}: {plugin.error}", remedy)
        else:
            yield _found(f"plugin {plugin.name}", "ok", f"loaded from {source}")
