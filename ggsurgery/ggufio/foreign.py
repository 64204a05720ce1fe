"""Identify files that are not GGUF: the common formats, each with the next step."""

from __future__ import annotations

import re
import struct

#: Bytes at the start of a file that `describe` needs.
HEAD = 1024

_CONVERT = "Convert the model with llama.cpp's convert_hf_to_gguf.py."
_DOWNLOAD = "Download the file itself; on Hugging Face its address has /resolve/, not /blob/."


def describe(head: bytes) -> tuple[str, str] | None:
    """The format that a file's first bytes indicate, and what to do; None if unknown."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs.github.com/"):
        size = re.search(rb"\nsize (\d{1,20})", text)
        of = f" of a file of {int(size[1]):,} bytes" if size else ""
        return f"a git-lfs pointer{of}, not the file", "Fetch the file with: git lfs pull"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return "a saved web page, not a GGUF file", _DOWNLOAD
    if text.startswith((b"entry not found", b"invalid username or password", b"access to model")):
        return "an error message of the download, not a GGUF file", _DOWNLOAD
    if text.startswith(b"{") or text.startswith(b"["):
        return "a JSON text, not a GGUF file", "Name the GGUF file instead."
    if head.startswith(b"PK\x03\x04"):
        return "a ZIP archive or a PyTorch checkpoint, not a GGUF file", _CONVERT
    if head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, not a GGUF file", _CONVERT
    if head[8:9] == b"{" and len(head) >= 9 and struct.unpack("<Q", head[:8])[0] < 2**32:
        return "a safetensors file, not GGUF", _CONVERT
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "a model in a format older than GGUF", (
            "Convert it with llama.cpp's convert_llama_ggml_to_gguf.py, or the original again."
        )
    if head.startswith(b"FUGG"):
        return "a GGUF file whose magic has its bytes reversed", "Get the file again."
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")):
        return "a compressed file, not a GGUF file", "Decompress it first."
    if head and not head.strip(b"\0"):
        return "a file of zeros, not a GGUF file", "The download did not finish: get it again."
    return None
