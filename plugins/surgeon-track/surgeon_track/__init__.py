"""Trackers: the progress of training told to TensorBoard, MLflow, W&B and trackio."""
