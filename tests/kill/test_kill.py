"""Every writing command, ended at random moments: nothing is left, and no input changes.

A few rounds by default; `make kill-test` runs many. `GGSURGERY_KILL_ROUNDS` is how often each
command is killed, `GGSURGERY_KILL_SEED` where the random moments start.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from .._needs import ROOT
from ._setting import Setting, kill_at

ROUNDS = int(os.environ.get("GGSURGERY_KILL_ROUNDS", "1"))
SEED = int(os.environ.get("GGSURGERY_KILL_SEED", "0"))
TEXT = ("--text", "{text}", "--ctx", "64")

#: What each command does in the inputs' folder {in}; relative names are outputs.
COMMANDS = {
    "delete": "delete --layer 3 {in}/a.gguf delete.gguf --force",
    "swap": "swap --layers 2,5 {in}/a.gguf swap.gguf --force",
    "move": "move --layer 2 --to 5 {in}/a.gguf move.gguf --force",
    "duplicate": "duplicate --layer 2 {in}/a.gguf duplicate.gguf --force",
    "keep": "keep --layers 0-7 {in}/a.gguf keep.gguf --force",
    "apply": "apply {in}/r.yaml {in}/a.gguf apply.gguf --force",
    "replay": "replay {in}/cut.gguf {in}/a.gguf replay.gguf --force",
    "meta": "meta set general.license mit {in}/a.gguf meta.gguf --force",
    "template": "template set --family chatml {in}/a.gguf template.gguf --force",
    "merge": "merge --layers 2-4 {in}/a.gguf merge.gguf --force",
    "interpolate": "interpolate --layers 2,4 {in}/a.gguf interpolate.gguf --force",
    "bridge": "bridge --layer 2 --at 6 {in}/a.gguf bridge.gguf --force",
    "blend": "blend --weights 0.5,0.5 {in}/a.gguf {in}/b.gguf blend.gguf --force",
    "prune": "prune --sparsity 0.3 {in}/a.gguf prune.gguf --force",
    "quantize": "quantize {in}/a.gguf quantize.gguf --type Q4_K_M --force",
    "ladder": "quantize {in}/a.gguf --types Q8_0,Q4_K_M --out-dir ladder --force",
    "target": "quantize {in}/a.gguf target.gguf --target-bpw 6 --text {text} --force",
    "imatrix": "imatrix {in}/a.gguf i.gguf --text {text} --ctx 64 --chunks 20 --force",
    "remap": "imatrix remap {in}/a.imatrix.gguf m.gguf --uncut {in}/a.gguf --cut {in}/cut.gguf"
    " --force",
    "kl": "kl {in}/a.gguf --text {text} --ctx 64 --chunks 20 --save-base base.kl --force",
    "heal": "heal --layer 4-5 --text {text} --ctx 64 {in}/a.gguf heal.gguf --force",
    "prune-depth": "prune-depth --layers 2 --by greedy --text {text} --ctx 64 {in}/a.gguf d.gguf"
    " --force",
    "laco": "laco {in}/a.gguf laco.gguf --text {text} --ctx 64 --highest 9 --threshold 0.1 --force",
    "scan": "scan {in}/a.gguf --text {text} --ctx 64 --journal scan.jsonl",
    "search": "search {in}/a.gguf --study s --text {text} --ctx 64 --space delete --budget 20",
    "choices": "choices {in}/a.gguf --data {in}/q.jsonl -o choices.json --force",
    "influence": "influence {in}/a.gguf --text {text} --ctx 64",
    "release": "release {in}/a.gguf {in}/q8.gguf --out bundle --force",
    "run": "run {in}/run.yaml --out run",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    a = folder / "a.gguf"
    shutil.copy(ROOT / "models" / "tiny-qwen3" / "tiny-qwen3.gguf", a)
    text = (ROOT / "models" / "tiny-qwen3" / "heldout_search.txt").read_text()
    (folder / "text.txt").write_text(text[:20_000])
    (folder / "r.yaml").write_text("operations:\n  - delete: {layer: 3}\n")
    (folder / "run.yaml").write_text(
        f"name: killed\nsource: {{file: {a}}}\noperations: [{{delete: {{layer: '3'}}}}]\n"
        "quantize: {types: [Q8_0]}\n"
        f"evaluate: {{perplexity: {{text: {folder}/text.txt, ctx: 64, chunks: 5}}}}\n"
        "release: {languages: [en]}\n"
    )
    question = {"query": "One and one is", "choices": ["two", "three"], "answer": 0}
    lines = [json.dumps({"id": str(n), **question}) for n in range(8)]
    (folder / "q.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "cache").mkdir()
    (folder / "first").mkdir()
    setting = Setting.make(folder / "first", folder, folder / "cache")
    for line in (
        "move --layer 0 --to 3 {in}/a.gguf {in}/b.gguf",
        "delete --layer 3 {in}/a.gguf {in}/cut.gguf",
        "quantize {in}/a.gguf {in}/q8.gguf --type Q8_0",
        "imatrix {in}/a.gguf {in}/a.imatrix.gguf --text {text} --ctx 64 --chunks 2",
    ):
        setting.run(*words(line, folder))
    assert setting.temporary() == []
    return folder


def words(line: str, inputs: Path) -> list[str]:
    return line.format_map({"in": inputs, "text": inputs / "text.txt"}).split()


def sums(folder: Path) -> dict[str, str]:
    files = (p for p in folder.iterdir() if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_undisturbed_it_ends_well(tmp_path: Path, inputs: Path, name: str) -> None:
    """Else the moments below would hit a command that refuses its arguments."""
    setting = Setting.make(tmp_path, inputs, inputs / "cache")
    setting.run(*words(COMMANDS[name], inputs))
    assert setting.temporary() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_ended_at_a_random_moment(tmp_path: Path, inputs: Path, name: str) -> None:
    moments = random.Random(f"{SEED} {name}")
    setting = Setting.make(tmp_path, inputs, inputs / "cache")
    before = sums(inputs)
    for number in range(ROUNDS):
        sent = moments.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
        begun = moments.random() < 0.75
        wait = moments.uniform(0, 0.3 if begun else 3)
        code, errors = kill_at(setting, words(COMMANDS[name], inputs), sent, wait, begun=begun)
        what = f"round {number}: {sent.name} {wait:.3f} s after {'work' if begun else 'start'}"
        if "ggsurgery" in errors:  # else Python itself was still starting
            assert "Traceback" not in errors, (what, errors)
        if sent is signal.SIGKILL:  # nothing can be cleaned: the next run does it
            setting.run(*words("meta set general.license x {in}/a.gguf next.gguf --force", inputs))
        else:  # 0: it was done before; the signal itself: it had not yet begun
            assert code in (0, 128 + sent, -sent), (what, errors)
        assert setting.temporary() == [], what
        setting.check_outputs()
        assert sums(inputs) == before, what


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["scan", "laco", "prune-depth", "heal", "search"])
def test_no_model_stays_in_memory(
    tmp_path: Path, inputs: Path, name: str, number: signal.Signals
) -> None:
    """The commands that keep candidates in /dev/shm, stopped while one is there."""
    setting = Setting.make(tmp_path, inputs, inputs / "cache")
    process = setting.start(*words(COMMANDS[name], inputs))
    while process.poll() is None and not any(setting.shm.rglob("*.gguf")):
        time.sleep(0.001)  # the command needs the processor
    assert process.poll() is None, process.stderr and process.stderr.read()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == (
        "ggsurgery: interrupted; inputs untouched, nothing half-written left behind"
    )
    setting.wait_for_the_end()
    assert setting.temporary() == []
