"""Against llama-perplexity: KL and HellaSwag of the same files, computed by llama.cpp's tool.

Small models (a few layers of SmolLM2, or random ones) and short texts keep it quick;
benchmarks/evaluate_parity.py measures the whole models.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ggsurgery import host
from ggsurgery.example.folder import QUESTIONS
from ggsurgery.measure.questions import load_questions, prompts
from ggsurgery.measure.runs import choices_of_file, kl_of_base_file, kl_of_files, save_base_file
from ggsurgery.plan.recipe import Recipe, step
from ggsurgery.surgery.prepare import prepare
from tests._llama_tools import llama_tool
from tests._needs import needs_smollm2
from tests._tiny import REPORT_TEXT

pytestmark = pytest.mark.slow

THREADS = str(host.n_threads())


def cut(source: Path, out: Path, layers: str) -> Path:
    with prepare(Recipe((step("delete", layer=layers),)), [source]) as operation:
        operation.write(out)
    return out


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """SmolLM2's first layers, and the same with one of them missing."""
    folder = tmp_path_factory.mktemp("parity")
    base = cut(needs_smollm2(), folder / "base.gguf", "6-29")
    return base, cut(base, folder / "cut.gguf", "3")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(REPORT_TEXT.read_text(encoding="utf-8")[:6000], encoding="utf-8")
    return path


def tool(*arguments: object) -> str:
    done = subprocess.run(
        [llama_tool("llama-perplexity"), *map(str, arguments), "--no-repack", "-t", THREADS],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return done.stdout + done.stderr


def test_kl_is_within_one_percent_of_llama_perplexity(models, text, tmp_path):
    base, other = models
    logits = tmp_path / "base.logits"
    common = ("-c", 256, "--chunks", 3)
    tool("-m", base, "-f", text, *common, "--save-all-logits", logits)
    told = tool("-m", other, *common, "--kl-divergence-base", logits, "--kl-divergence")
    ours = {s.metric: s for s in kl_of_files(base, other, text.read_text(), n_ctx=256, n_windows=3)}

    def theirs(pattern: str) -> float:
        found = re.search(pattern, told)
        assert found is not None, told[-1500:]
        return float(found[1])

    assert ours["kl_mean"].n == 3 * 127
    assert ours["kl_mean"].value == pytest.approx(theirs(r"Mean +KLD: +([\d.]+)"), rel=0.01)
    error = theirs(r"Mean +KLD: +[\d.]+ ± +([\d.]+)")
    assert ours["kl_mean"].stderr == pytest.approx(error, rel=0.01)
    assert ours["kl_median"].value == pytest.approx(theirs(r"Median +KLD: +([\d.]+)"), rel=0.01)
    assert ours["kl_p99"].value == pytest.approx(theirs(r"99\.0% +KLD: +([\d.]+)"), rel=0.01)
    same = theirs(r"Same top p: +([\d.]+)") / 100
    assert ours["top1_agreement"].value == pytest.approx(same, abs=0.003)  # one position

    stored = tmp_path / "base.kl"
    save_base_file(base, stored, text.read_text(), n_ctx=256, n_windows=3, k=1000)
    bound = {s.metric: s.value for s in kl_of_base_file(other, stored)}
    assert bound["kl_mean"] <= ours["kl_mean"].value + 1e-6
    assert bound["kl_mean"] == pytest.approx(ours["kl_mean"].value, rel=0.1)
    assert bound["top1_agreement"] == ours["top1_agreement"].value


def test_hellaswag_per_token_equals_llama_perplexity(models, tmp_path):
    base, _ = models
    questions = load_questions(QUESTIONS / "hellaswag.jsonl", limit=24)
    lines = []
    for q in questions:
        lines += [q.query, str(q.answer), *q.choices]
    prompt = tmp_path / "hellaswag.txt"
    prompt.write_text("\n".join(" ".join(line.split()) for line in lines))
    told = tool("-m", base, "-f", prompt, "--hellaswag", "--hellaswag-tasks", 24, "-c", 2048)
    theirs = float(re.findall(r"^\d+\t([\d.]+)%", told, re.M)[-1]) / 100
    ours = {s.metric: s.value for s in choices_of_file(base, prompts(questions, "plain"))}
    assert ours["acc_tokens"] == pytest.approx(theirs, abs=1 / 24 + 1e-6)  # one near tie
