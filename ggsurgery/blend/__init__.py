"""Arithmetic on layers: which tensors a method touches, and how their values come about."""

from .lower import lower
from .model import edit_model

__all__ = ["edit_model", "lower"]
