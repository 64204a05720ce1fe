"""The overview of all commands: `ggsurgery --help` shows it without loading any of them."""

from __future__ import annotations

#: command → its short help, which a test compares with the command's own.
SHORT_HELP: dict[str, str] = {
    "apply": "Apply the operations of a recipe file, in their order.",
    "bench": "Run tasks of lm-evaluation-harness on a file.",
    "blend": "Blend models of one shape, tensor by tensor.",
    "bridge": "Insert a copy of a layer elsewhere.",
    "choices": "Score multiple-choice questions: the likeliest choice counts as the answer.",
    "compare": "Compare result files with the first of them, question by question.",
    "delete": "Remove layers.",
    "diff": "Compare two files by content: metadata, tensors, and which layer became which.",
    "distil": "Train a cut model towards the uncut one.",
    "doctor": "Check this machine: CPU features, llama.cpp, and which of its fast paths survive.",
    "duplicate": "Insert copies of layers.",
    "evaluate": "Score a file from 0 to 100, and say what the score is worth.",
    "example": "Write a folder to try every command in: model, texts, questions.",
    "experts": "Mixtures of experts: rank the experts, delete those that your texts need least.",
    "heal": "Cut layers and heal the cut without training.",
    "imatrix": "Importance matrices: which input columns of each weight matter, for better "
    "low-bit files.",
    "influence": "Measure what each layer changes, in one forward pass.",
    "inspect": "Show what a file is: layers with their kinds, parameters, types, memory to run.",
    "interpolate": "Insert a new layer between two.",
    "keep": "Build the stack that the list says: depth cuts and frankenmerges.",
    "kl": "Measure the KL divergence of FILE from BASE on a text.",
    "laco": "Collapse layers step by step (LaCo), as long as the output stays similar.",
    "lora": "Check LoRA adapters, and merge them into the weights.",
    "merge": "Collapse layers A…B into A.",
    "meta": "Show and change single metadata entries.",
    "move": "Take layers out and put them back elsewhere.",
    "perplexity": "Measure the perplexity of one or more files on a text.",
    "prune": "Set weights to zero by their magnitude.",
    "prune-depth": "Cut whole layers, chosen by measurement.",
    "quantize": "Quantize a file: the same bytes as llama-quantize of the same version writes.",
    "release": "Build a folder for people to download, or upload one.",
    "repair": "Mend a file that another program pruned without its metadata.",
    "replay": "Make a file once more from the recipe in its header, and compare the bytes.",
    "report": "Put result files into one report; the first model is the base.",
    "run": "Run a recipe: surgery, header, template, quantization, evaluation, release bundle.",
    "scan": "Do one operation at every place, and measure each.",
    "search": "Search for operations that cost least (or help), within a budget.",
    "speed": "Measure tokens a second: reading a prompt, and generating.",
    "swap": "Exchange two layers.",
    "template": "Show, change, try and check the chat template.",
    "tokenizer": "Check a file's tokenizer.",
    "verify": "Check a file: structure, layers, per-layer arrays, tokenizer.",
}

#: Sections of the overview, in the order of the work.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Look": ("inspect", "verify", "diff", "meta", "template", "tokenizer"),
    "Operate": ("delete", "swap", "move", "duplicate", "keep", "apply", "replay", "repair"),
    "Blend": ("merge", "interpolate", "bridge", "blend", "lora", "prune"),
    "Experts": ("experts",),
    "Find the operation": ("influence", "scan", "prune-depth", "laco", "search"),
    "Compensate": ("heal", "distil"),
    "Quantize": ("imatrix", "quantize"),
    "Measure": ("perplexity", "kl", "choices", "evaluate", "compare", "bench", "speed", "report"),
    "Ship": ("release", "run"),
    "Machine": ("doctor", "example"),
}
