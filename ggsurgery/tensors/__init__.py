"""Arithmetic on tensors: expressions, blends, masks, thresholds, and the kernels behind them."""
