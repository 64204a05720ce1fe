"""Arithmetic on layers: which tensors a method touches, and how their values come about."""

from .lower import lower
from .model import check_masks, edit_model

__all__ = ["check_masks", "edit_model", "lower"]
