"""Detectors: class convolutions re-dimensioned in place, boxes as data."""
