"""ONNX in, ONNX out: reading, normalizing, cutting, heads, weights, write-back, the frontier.

What must not enter: torch, onnxruntime, and proofs. A rewrite that is not exact by construction
is returned as a candidate, and `surgeon.operation` proves it.
"""
