"""Distillation: another file, run by ONNX Runtime, teaches what is trained."""
