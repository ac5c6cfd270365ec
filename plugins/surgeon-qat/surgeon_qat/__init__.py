"""Quantisation-aware training: a float file becomes a QDQ file of int8 that learns."""
