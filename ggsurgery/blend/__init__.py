"""Arithmetic on layers: which tensors a method touches, and how their values come about."""

from .lower import LAYER_METHODS, MODEL_METHODS, combine, lower
from .model import check_masks, edit_model

__all__ = ["LAYER_METHODS", "MODEL_METHODS", "check_masks", "combine", "edit_model", "lower"]
