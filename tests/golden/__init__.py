"""Outputs of every writing command, held against recorded checksums."""
