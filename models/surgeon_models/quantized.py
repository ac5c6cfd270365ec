"""Makes 8-bit files out of an indexed float one, with ONNX Runtime's static quantisation.

Both forms that real files have: QDQ (float operators between QuantizeLinear and DequantizeLinear)
and QOperator (QLinearConv and its like). Calibrated on real pictures, always the same ones. This
module decides nothing about operating on such files.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon.errors import EnvironmentLacksError
from surgeon_models import content, datasets, encodings, recipes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_MEAN, _STD = 127.0, 128.0  # of EfficientNet-Lite, the same for all three channels


def quantize_efficientnet_lite0(
    sources: Path, path: Path, *, opset: int, format: str, pictures: int
) -> None:
    """Write EfficientNet-Lite0 with 8-bit weights (per channel) and 8-bit activations.

    Both are unsigned: ONNX Runtime's kernels for signed weights add two products in 16 bits on
    older processors and saturate there. Those for unsigned ones do not in the QDQ form; files of
    the QOperator form were seen to be far off the float network on a processor without VNNI.

    Args:
        sources: folder with the packages' files, as for `recipes.export_efficientnet_lite0`.
        path: the file to write.
        opset: ONNX operator set of the float export, at least 13 (per-channel scales).
        format: `QDQ` or `QOperator`.
        pictures: how many emoji calibrate the activations' ranges (minimum and maximum).

    Raises:
        EnvironmentLacksError: ONNX Runtime or torch cannot make the file.
    """
    from onnxruntime import quantization

    scratch = path.with_name("float.onnx")
    recipes.export_efficientnet_lite0(sources, scratch, opset=opset)
    try:
        with _quiet():
            quantization.quantize_static(
                scratch,
                path,
                _Calibration("input", choose_pictures(pictures)),
                quant_format=quantization.QuantFormat[format],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QUInt8,
            )
    except (RuntimeError, ValueError, AttributeError) as error:
        raise EnvironmentLacksError(
            f"ONNX Runtime cannot quantise this model: {error}",
            where=path.name,
            remedy="install the versions named in constraints.txt",
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    proto = onnx.load(path)
    content.strip(proto)
    onnx.save(proto, path)
    onnx.checker.check_model(path)


def choose_pictures(count: int) -> np.ndarray:
    """Return `count` emoji, evenly spread over all groups: float32 [count, 3, 224, 224]."""
    images = datasets.emoji().images
    chosen = images[np.linspace(0, len(images) - 1, count).round().astype(int)]
    pixels = encodings.resize_pictures(chosen, (224, 224))
    return ((pixels - np.float32(_MEAN)) / np.float32(_STD)).transpose(0, 3, 1, 2)


class _Calibration:
    """What ONNX Runtime calls a calibration data reader: one picture at a time, then None."""

    def __init__(self, name: str, pictures: Sequence[np.ndarray] | np.ndarray) -> None:
        self._feeds: Iterator[Mapping[str, Any]] = ({name: picture[None]} for picture in pictures)

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self._feeds, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice on preprocessing out of the user's log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
