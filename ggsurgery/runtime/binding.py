"""The binding to llama.cpp, checked once when it is first used.

llama-cpp-python mirrors llama.cpp's structs field by field; a struct that moved would not
fail but corrupt memory. So the version, the fields this package sets, and the layout of
`ggml_tensor` (which llama-cpp-python does not mirror) are checked before anything else.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import EngineError
from . import log

#: The versions of llama-cpp-python whose structs were checked.
TESTED = ("0.3.36",)

MAX_DIMS, MAX_SRC, MAX_NAME, MAX_OP_PARAMS = 4, 10, 64, 64


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h; `check` compares it with a tensor that ggml made."""


_FIELDS: list[tuple[str, Any]] = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMS),
    ("nb", ctypes.c_size_t * MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * (MAX_OP_PARAMS // 4)),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * MAX_SRC),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * MAX_NAME),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]
Tensor._fields_ = _FIELDS

#: Fields that this package sets or reads, by struct.
USED_FIELDS = {
    "llama_model_params": {
        "use_extra_bufts",
        "n_gpu_layers",
        "vocab_only",
        "load_mode",
        "no_alloc",
        "load_mtp",
    },
    "llama_context_params": {
        "n_ctx",
        "n_batch",
        "n_ubatch",
        "n_seq_max",
        "n_threads",
        "n_threads_batch",
        "cb_eval",
        "cb_eval_user_data",
        "kv_unified",
        "swa_full",
        "no_perf",
    },
    "llama_model_quantize_params": {
        "nthread",
        "ftype",
        "allow_requantize",
        "quantize_output_tensor",
        "only_copy",
        "pure",
        "dry_run",
        "imatrix",
        "kv_overrides",
        "tt_overrides",
        "output_tensor_type",
        "token_embedding_type",
    },
    "llama_batch": {"n_tokens", "token", "embd", "pos", "n_seq_id", "seq_id", "logits"},
}


class InitParams(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


def installed_version() -> str:
    """The version of llama-cpp-python.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        raise EngineError(
            "llama-cpp-python is not installed",
            hint=f"Install it with: pip install llama-cpp-python=={TESTED[0]}",
        ) from None


@cache
def llama() -> Any:
    """The module `llama_cpp.llama_cpp`, checked and initialized; its log goes to `runtime.log`.

    Raises:
        EngineError: another version, or a struct whose layout is not the one that was tested.
    """
    found = installed_version()
    if found not in TESTED:
        raise EngineError(
            "this version of llama-cpp-python was not tested with ggsurgery",
            expected=" or ".join(TESTED),
            found=found,
            hint=f"Install it with: pip install llama-cpp-python=={TESTED[0]}",
        )
    try:
        import llama_cpp.llama_cpp as module
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"llama-cpp-python {found} cannot be loaded: {error}") from error
    for struct, used in USED_FIELDS.items():
        names = {name for name, *_ in getattr(module, struct)._fields_}
        if missing := used - names:
            raise EngineError(
                f"llama-cpp-python {found}: {struct} lacks {', '.join(sorted(missing))}",
                hint=f"Install it with: pip install llama-cpp-python=={TESTED[0]}",
            )
    log.attach(module)
    module.llama_backend_init()
    check_defaults(module)
    return module


def check_defaults(module: Any) -> None:
    """Compare default parameters with values known from llama.h: this detects a shifted struct.

    Raises:
        EngineError: a value is not where this package expects it.
    """
    context = module.llama_context_default_params()
    quantize = module.llama_model_quantize_default_params()
    model = module.llama_model_default_params()
    facts = [
        ("llama_context_params.n_ctx", context.n_ctx, 512),
        ("llama_context_params.type_k", context.type_k, module.GGML_TYPE_F16),
        ("llama_model_quantize_params.ftype", quantize.ftype, module.LLAMA_FTYPE_MOSTLY_Q8_0),
        ("llama_model_quantize_params.max_buf_size", quantize.max_buf_size, 8 << 30),
        ("llama_model_params.use_extra_bufts", model.use_extra_bufts, True),
        ("llama_model_params.vocab_only", model.vocab_only, False),
    ]
    for name, value, expected in facts:
        if value != expected:
            raise EngineError(
                f"llama-cpp-python {installed_version()}: {name} is not where it was",
                expected=expected,
                found=value,
                hint=f"Install it with: pip install llama-cpp-python=={TESTED[0]}",
            )


@cache
def ggml() -> ctypes.CDLL:
    """libggml-base with the functions this package calls, after a check of `Tensor`.

    Raises:
        EngineError: the library is missing or its tensors are laid out otherwise.
    """
    llama()  # ggml is loaded with it, and its log is silenced
    library = library_path("ggml-base")
    base = ctypes.CDLL(str(library))
    pointer = ctypes.POINTER(Tensor)
    for name, arguments, result in [
        ("ggml_tensor_overhead", [], ctypes.c_size_t),
        ("ggml_init", [InitParams], ctypes.c_void_p),
        ("ggml_free", [ctypes.c_void_p], None),
        (
            "ggml_new_tensor_2d",
            [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64],
            pointer,
        ),
        ("ggml_set_name", [pointer, ctypes.c_char_p], pointer),
        ("ggml_nbytes", [pointer], ctypes.c_size_t),
        ("ggml_op_name", [ctypes.c_int], ctypes.c_char_p),
        ("ggml_type_name", [ctypes.c_int], ctypes.c_char_p),
        ("ggml_row_size", [ctypes.c_int, ctypes.c_int64], ctypes.c_size_t),
        (
            "ggml_quantize_chunk",
            [
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_int64,
                ctypes.c_int64,
                ctypes.c_int64,
                ctypes.c_void_p,
            ],
            ctypes.c_size_t,
        ),
        ("ggml_get_type_traits", [ctypes.c_int], ctypes.c_void_p),
        ("ggml_backend_buffer_is_host", [ctypes.c_void_p], ctypes.c_bool),
        (
            "ggml_backend_tensor_get",
            [pointer, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t],
            None,
        ),
    ]:
        function = getattr(base, name)
        function.argtypes, function.restype = arguments, result
    _check_tensor(base)
    return base


def library_path(stem: str) -> Path:
    """The shared library `stem` (`llama`, `ggml-base`, `ggml-cpu`) of llama-cpp-python.

    Raises:
        EngineError: it is not there.
    """
    folder = Path(llama().__file__).parent / "lib"
    for name in (f"lib{stem}.so", f"lib{stem}.dylib", f"{stem}.dll", f"lib{stem}.dll"):
        if (folder / name).exists():
            return folder / name
    raise EngineError("a library of llama-cpp-python is missing", file=folder / f"lib{stem}.so")


def _check_tensor(base: ctypes.CDLL) -> None:
    overhead = base.ggml_tensor_overhead()
    context = base.ggml_init(InitParams(4096, None, False))
    try:
        made = base.ggml_set_name(base.ggml_new_tensor_2d(context, 0, 3, 5), b"check").contents
        facts = (
            list(made.ne) == [3, 5, 1, 1]
            and list(made.nb) == [4, 12, 60, 60]
            and made.name == b"check"
            and made.op == 0
            and bool(made.data)
            and 0 < overhead - ctypes.sizeof(Tensor) <= 64  # plus one ggml_object
        )
    finally:
        base.ggml_free(context)
    if not facts:
        raise EngineError(
            f"llama-cpp-python {installed_version()}: struct ggml_tensor is laid out otherwise",
            expected=f"about {ctypes.sizeof(Tensor)} bytes",
            found=f"{overhead} with its object",
            hint=f"Install it with: pip install llama-cpp-python=={TESTED[0]}",
        )
