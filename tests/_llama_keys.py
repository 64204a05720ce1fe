"""The types of metadata entries as llama.cpp and gguf-py state them, read from their sources.

`python -m tests._llama_keys` writes `ggsurgery/ggufio/key_types.toml`; a test compares the two.
From llama.cpp: the C++ type of the variable that each `get_key`, `get_arr`, `get_key_or_arr` of
the loader fills, and which architectures run that line. From gguf-py: which `add_…` method each
key goes through in `GGUFWriter`, for keys that the loader does not read.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from gguf.constants import Keys

from ggsurgery.ggufio.key_types import ANY_ARRAY, ANY_SCALAR, DATA, expand

from ._llama_source import llama_source

#: What each array container of C++ accepts, as `llama_model_loader::get_arr` checks it.
_INTS = "array[int32|uint32]"
_ARRAYS = {
    ("array", "uint32_t"): "array[int32|uint32|bool]",
    ("array", "int"): "array[int32|uint32|bool]",
    ("array", "int32_t"): "array[int32|uint32|bool]",
    ("array", "uint64_t"): "array[uint64]",
    ("array", "float"): "array[float32]",
    ("vector", "uint32_t"): _INTS,
    ("vector", "int32_t"): _INTS,
    ("vector", "llama_token"): _INTS,
    ("vector", "float"): "array[float32]",
    ("vector", "std::string"): "array[string]",
}
_SCALARS = {
    "bool": "bool",
    "float": "float32",
    "uint32_t": "uint32",
    "int32_t": "int32",
    "int": "int32",
    "uint16_t": "uint16",
    "std::string": "string",
    "enum llama_pooling_type": "uint32",
}

#: Read through gguf's C functions, with a check of the type beside them.
_BY_HAND = {
    "tokenizer.ggml.tokens": "array[string]",
    "tokenizer.ggml.token_type": "array[int32]",
    "tokenizer.ggml.scores": "array[float32|int32]",
    "tokenizer.ggml.merges": "array[string]",
    "tokenizer.ggml.precompiled_charsmap": "array[int8|uint8]",
    "tokenizer.ggml.suppress_tokens": "array[int32]",
    "general.alignment": "uint32",
    "split.no": "uint16",
}
#: Written by llama.cpp's own converters and tools, not by a method of `GGUFWriter`.
_TOOLS = {
    "adapter.type": "string",
    "adapter.lora.task_name": "string",
    "adapter.lora.prompt_prefix": "string",
    "adapter.lora.alpha": "float32",
    "adapter.alora.invocation_tokens": "array[uint32]",
    "controlvector.model_hint": "string",
    "controlvector.layer_count": "int32",
    "imatrix.datasets": "array[string]",
    "imatrix.chunk_count": "uint32",
    "imatrix.chunk_size": "uint32",
}

_CALL = re.compile(
    r"\bget_(key_or_arr|key|arr)\s*\(\s*(?:\w+\.llm_kv\()?(?:llm_kv\()?"
    r"(LLM_KV_\w+)\)?\s*,\s*([\w.]+)\s*([^;]*?)\)[ )]*[;{&|]"
)
_FUNCTION = re.compile(r"^[\w:<>&* ]*?\b(\w+)::(\w+)\([^;{]*\)[^;{]*\{", re.MULTILINE)
_KIND = r"((?:enum )?(?:std::)?\w+(?:<[^;>]*>)?)"


def read_source(folder: Path) -> dict[str, dict[str, str]]:
    """The tables of the data file from the unpacked source of llama.cpp."""
    source = folder / "src"
    listed = re.findall(r"\{\s*(LLM_\w+),\s*\"([^\"]+)\"", _text(source / "llama-arch.cpp"))
    names = {k: v for k, v in listed if k.startswith("LLM_KV_")}
    keys = {k: v.replace("%s.", "{arch}.") for k, v in names.items()}
    common: dict[str, list[frozenset[str]]] = defaultdict(list)
    special: dict[str, dict[str, list[frozenset[str]]]] = defaultdict(lambda: defaultdict(list))
    archs = dict(
        re.findall(r"\{\s*(LLM_ARCH_\w+),\s*\"([^\"]+)\"", _text(source / "llama-arch.cpp"))
    )
    vocabulary = _text(source / "llama-vocab.cpp").split("struct llama_vocab::impl {")[1]
    members = _members(vocabulary.split("\n};")[0])
    for name in (
        "llama-vocab.h",
        "llama-model-loader.h",
        "llama-model.h",
        "models/models.h",
        "llama-hparams.h",
    ):
        members |= _members(_text(source / name))
    files = sorted([*source.glob("llama-*.cpp"), *(source / "models").glob("*.cpp")])
    functions = [f for file in files for f in _functions(_text(file))]
    classes = _classes(source)
    for owner, name, body in functions:
        users = classes.get(owner)
        if owner == "llama_model_base" and name != "load_hparams":
            callers = [o for o, _, other in functions if o in classes and f"{name}(ml" in other]
            users = {arch for caller in callers for arch in classes[caller]} or None
        reads: dict[str, frozenset[str]] = {}
        for match in _CALL.finditer(body):
            way, kid, target, rest = match.groups()
            accepted = _accepted(way, target, rest, body[: match.start()], members)
            only = _only_for(body, match.start(), archs)
            if only:
                for arch in only:
                    special[keys[kid]][archs[arch]].append(accepted)
            else:
                reads[kid] = _both(reads.get(kid), accepted)
        for kid, accepted in reads.items():
            for arch in users or ():
                special[keys[kid]][archs[arch]].append(accepted)
            if users is None:
                common[keys[kid]].append(accepted)
    for file in files:
        text = _text(file)
        for kid in re.findall(r"\{ (LLM_KV_TOKENIZER_\w+),\s+special_\w+_id\s+\}", text):
            common[keys[kid]].append(expand("uint32"))
    for key, accepted_text in _BY_HAND.items():
        common[key].append(expand(accepted_text))
    everywhere = {k: _written(frozenset.intersection(*v)) for k, v in common.items()}
    by_arch = {
        key: _grouped({a: _written(frozenset.intersection(*v)) for a, v in users.items()})
        for key, users in special.items()
        if key not in everywhere
    }
    known = everywhere.keys() | by_arch.keys()
    others = {k: v for k, v in (_gguf_writer() | _TOOLS).items() if k not in known}
    return {"everywhere": everywhere, "by_architecture": by_arch, "written": others}


def _text(path: Path) -> str:
    return re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))


def _members(text: str) -> dict[str, str]:
    """Member → C++ type of `llama_hparams` and the structs in it."""
    found = {n: k for k, n in re.findall(_KIND + r"\s+(\w+)(?:\s*=[^;]*)?;", text)}
    for kind, name in re.findall(r"struct (llama_hparams_\w+)\s+(\w+);", text):
        body = text.split(f"struct {kind} {{")[1].split("}", maxsplit=1)[0]
        found |= {f"{name}.{n}": k for k, n in re.findall(_KIND + r"\s+(\w+);", body)}
    return {n: k for n, k in found.items() if k in _SCALARS or "<" in k}


def _classes(source: Path) -> dict[str, set[str]]:
    """Class of a model → the architectures that run its functions."""
    header = _text(source / "models" / "models.h")
    parents = dict(re.findall(r"struct (llama_model_\w+) : public (\w+)", header))
    own = {
        name: set(re.findall(r"void (load_\w+)\(", body))
        for name, body in re.findall(r"struct (llama_model_\w+) : (.*?)\n\};", header, re.DOTALL)
    }
    mapping = re.findall(
        r"((?:case LLM_ARCH_\w+:\s*)+)(?:\{\s*)?return new (llama_model_\w+)\(",
        _text(source / "llama-model.cpp"),
    )
    found: dict[str, set[str]] = {name: set() for name in parents}
    for cases, model in mapping:
        name = model
        users = set(re.findall(r"LLM_ARCH_\w+", cases))
        while "load_arch_hparams" not in own.get(name, set()) and name in parents:
            name = parents[name]
        found.setdefault(name, set()).update(users)
    return found


def _functions(text: str) -> list[tuple[str, str, str]]:
    """The class, the name and the text of each function of a file."""
    return [
        (match[1], match[2], text[match.start() : text.find("\n}", match.end()) + 2])
        for match in _FUNCTION.finditer(text)
    ]


def _both(first: frozenset[str] | None, second: frozenset[str]) -> frozenset[str]:
    """What two reads of one key in one function let through.

    Where the first takes arrays only, the second is what it falls back on without one.
    """
    if first is None:
        return second
    if first >= ANY_SCALAR and not second & ANY_ARRAY:
        return (first - ANY_SCALAR) | second
    return first & second


def _only_for(body: str, place: int, archs: dict[str, str]) -> set[str] | None:
    """The architectures of an `if (arch == …)` around a place; None if there is none."""
    for match in re.finditer(r"if \(((?:arch == LLM_ARCH_\w+(?: \|\| )?)+)\) \{", body):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(body[end], 0)
            end += 1
        if match.end() <= place < end:
            return set(re.findall(r"LLM_ARCH_\w+", match[1])) & archs.keys()
    return None


def _accepted(
    way: str, target: str, rest: str, before: str, members: dict[str, str]
) -> frozenset[str]:
    """The types that one call lets through."""
    name = target.removeprefix("hparams.")
    kind = members.get(name) if target != name or name not in before else None
    if kind is None:
        local = re.findall(_KIND + r"\s+" + re.escape(name) + r"\b", before)
        local = [k for k in local if k in _SCALARS or "<" in k]
        kind = local[-1] if local else members.get(name.rpartition(".")[2], "")
    container = re.fullmatch(r"std::(array|vector)<\s*([\w:]+).*>", kind)
    if container is None:
        if kind not in _SCALARS:
            raise LookupError(f"no type for {target} ({kind!r})")
        scalar = expand(_SCALARS[kind])
        return scalar | ANY_ARRAY if way == "key_or_arr" and "false" in rest else scalar
    array = expand(_ARRAYS[container[1], container[2]])
    if way == "arr":
        return array if "false" not in rest else array | ANY_SCALAR
    return array | expand(_SCALARS[container[2]])


def _written(accepted: frozenset[str]) -> str:
    """Accepted types as the data file has them: `uint32 or array[int32|uint32]`."""
    scalars = [t for t in sorted(accepted - ANY_ARRAY) if not t.startswith("array")]
    items = sorted(t[6:-1] for t in accepted if t.startswith("array"))
    parts = ["scalar"] if accepted >= ANY_SCALAR else scalars
    if accepted >= ANY_ARRAY:
        parts.append("array")
    elif items:
        parts.append(f"array[{'|'.join(items)}]")
    return " or ".join(parts)


def _grouped(users: dict[str, str]) -> str:
    """`types: arch arch; types: arch`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for arch, types in sorted(users.items()):
        groups[types].append(arch)
    return "; ".join(f"{types}: {' '.join(archs)}" for types, archs in sorted(groups.items()))


# -- gguf-py ------------------------------------------------------------------------------


def _gguf_writer() -> dict[str, str]:
    spec = find_spec("gguf.gguf_writer")
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("add_"):
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    found |= _one_call(call, function)
    return found


def _one_call(call: ast.Call, function: ast.FunctionDef) -> dict[str, str]:
    way = getattr(call.func, "attr", "")
    if not way.startswith("add_") or len(call.args) < 2:
        return {}
    key = _key(call.args[0])
    kind = way.removeprefix("add_")
    if key is None or (kind not in ("array", "bool", "string") and not re.search(r"\d$", kind)):
        return {}
    if kind != "array":
        return {key: kind}
    text = ast.unparse(function.args)
    items = {"Sequence[bool]": "bool", "Sequence[int]": "int32", "Sequence[float]": "float32"}
    item = next((v for k, v in items.items() if k in text), "string")
    return {key: f"array[{item}]"}


def _key(node: ast.expr) -> str | None:
    """The text behind `Keys.A.B` or `Keys.A.B.format(arch=…)`."""
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "format":
        node = node.func.value  # type: ignore[attr-defined]
    path = ast.unparse(node)
    if not path.startswith("Keys."):
        return None
    value: object = Keys
    for part in path.split(".")[1:]:
        value = getattr(value, part, None)
    named = isinstance(value, str) and "{dense}" not in value  # the loader's table has those
    return value if isinstance(value, str) and named else None


# -- the file -----------------------------------------------------------------------------


def as_toml(tables: dict[str, dict[str, str]]) -> str:
    notes = {
        "everywhere": "Read by llama.cpp in files of every architecture.",
        "by_architecture": "Read by llama.cpp in files of the architectures behind the colon.",
        "written": "Written by the package gguf or llama.cpp's tools; the loader does not check.",
    }
    lines = [
        "# The types of metadata entries. Written by `python -m tests._llama_keys` from",
        f"# llama-cpp-python {version('llama-cpp-python')} and gguf {version('gguf')}.",
        "# `scalar`, `array`: any such value is ignored there, and does no harm.",
    ]
    for table, note in notes.items():
        lines += ["", f"# {note}", f"[{table}]"]
        lines += [f'"{key}" = "{types}"' for key, types in sorted(tables[table].items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DATA.write_text(as_toml(read_source(llama_source())), encoding="utf-8")
