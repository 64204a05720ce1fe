"""Chat templates: rendering a GGUF's own, built-in families, checks, Ollama's form of them."""
