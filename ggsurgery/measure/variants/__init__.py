"""Plans measured without leaving a file behind, and without computing anything twice."""

from .candidate import Candidate
from .losses import window_losses, window_nll
from .session import Candidates

__all__ = ["Candidate", "Candidates", "window_losses", "window_nll"]
