"""Arithmetic on layers: which tensors a method touches, and how their values come about."""

from .lower import LAYER_METHODS, MODEL_METHODS, combine, lower
from .model import edit_model, prunable

__all__ = ["LAYER_METHODS", "MODEL_METHODS", "combine", "edit_model", "lower", "prunable"]
