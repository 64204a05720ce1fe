"""Whether llama.cpp would load a file: its own checks of keys and tensors, without the weights."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import EngineError
from ..files.shard_names import siblings
from . import binding, log, worker

#: enum llama_load_mode (llama.h): neither map the file nor read it directly.
_LOAD_MODE_NONE = 0


def refusal(path: str | Path) -> str:
    """Why llama.cpp does not load a file, in its words; "" if it would.

    Runs in a child: llama.cpp aborts on some files. No weights are read, so the size of the
    model does not matter.

    Raises:
        EngineError: llama.cpp is missing here, or of another version.
    """
    try:
        return worker.run(_refusal, Path(path))
    except EngineError as error:
        if worker.CRASHED not in error.problem:
            raise
        return error.problem


def _refusal(path: Path) -> str:
    llama = binding.llama()
    parameters = llama.llama_model_default_params()
    parameters.no_alloc = True
    parameters.load_mode = _LOAD_MODE_NONE
    parameters.load_mtp = True
    parameters.use_extra_bufts = False
    with log.capture() as lines:
        model = llama.llama_model_load_from_file(os.fsencode(siblings(path)[0]), parameters)
    if not model:
        return lines.errors(last=1) if "rror" in lines.errors(last=1) else lines.errors()
    llama.llama_model_free(model)
    return ""
