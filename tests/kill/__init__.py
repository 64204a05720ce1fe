"""Commands that are stopped or killed at random moments."""
