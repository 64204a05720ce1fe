"""The card's section on how to run the files: Ollama, llama.cpp, llama-cpp-python, the Hub."""

from __future__ import annotations

from .modelfile import Chat, context_note, parameters_of
from .request import ReleaseFile, Request

_FLAGS = (("temperature", "temp"), ("top_k", "top-k"), ("top_p", "top-p"), ("min_p", "min-p"))


def usage(best: ReleaseFile, chat: Chat, request: Request) -> list[str]:
    """How to run the recommended file."""
    name = best.name.rsplit(".", 1)[0].lower()
    context = min(4096, best.header.number("{arch}.context_length") or 4096)
    is_chat = chat.match is None or chat.match.family.name != "plain"
    parameters = parameters_of(best.header, chat, request.parameters)
    flags = [f"--{flag} {parameters[key]:g}" for key, flag in _FLAGS if key in parameters]
    mode = "--jinja" if is_chat else "-no-cnv"
    call = (
        'llm.create_chat_completion([{"role": "user", "content": "Hello!"}])'
        if is_chat
        else 'llm("Once upon a time", max_tokens=64)'
    )
    note = context_note(best.header, request.parameters)
    lines = [
        "## Usage",
        "",
        "Ollama (in this folder):",
        "",
        "```sh",
        f"ollama create {name} -f Modelfile",
        f"ollama run {name}",
        "```",
        "",
        f"Ollama is expected to report: {', '.join(chat.capabilities.names)}.",
        *([f"{note}."] if note else []),
        "",
        "llama.cpp:",
        "",
        "```sh",
        " ".join(["llama-cli -m", best.name, mode, *flags]),
        "```",
        "",
        "llama-cpp-python:",
        "",
        "```python",
        "from llama_cpp import Llama",
        "",
        f'llm = Llama("{best.name}", n_ctx={context})',
        f"print({call})",
        "```",
    ]
    return [*lines, "", *_from_the_hub(best, request.repo, " ".join([mode, *flags]))]


def _from_the_hub(best: ReleaseFile, repo: str | None, flags: str) -> list[str]:
    rule = "Ollama then chooses a template by the one in the GGUF and reads no Modelfile."
    if repo is None:
        return [
            f"From a repository on Hugging Face: Ollama runs `hf.co/`, the repository's name "
            f"and `:{best.ftype}` as one word, llama.cpp takes the name and `:{best.ftype}` "
            f"behind `-hf`. {rule}"
        ]
    place = f"{repo}:{best.ftype}"
    commands = [f"ollama run hf.co/{place}", f"llama-cli -hf {place} {flags}"]
    return [
        "From Hugging Face, without a download by hand:",
        "",
        "```sh",
        *commands,
        "```",
        "",
        rule,
    ]
