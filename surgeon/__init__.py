"""surgeon: transfer learning on any pretrained ONNX file."""

__version__ = "0.1.0"
