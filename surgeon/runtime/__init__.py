"""ONNX Runtime: sessions and providers, features, metrics, and the proof a file carries.

What must not enter: torch.
"""
