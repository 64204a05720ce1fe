"""Check that a GGUF's vocabulary means what its model was trained with."""
