"""Chat templates: rendering a GGUF's own, built-in families, checks, and their Ollama form."""
