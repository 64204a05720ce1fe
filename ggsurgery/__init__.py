"""ggsurgery: surgery, quantization and evaluation of GGUF language models on a CPU."""

__version__ = "0.1.0"
