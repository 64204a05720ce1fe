"""Plans measured without leaving a file behind, and without computing anything twice."""

from .session import Candidate, Candidates, Route
from .windows import Windows, window_losses, window_nll

__all__ = ["Candidate", "Candidates", "Route", "Windows", "window_losses", "window_nll"]
