"""lm-evaluation-harness over our model: its own scoring of the same questions, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggsurgery.errors import EngineError, FormatError, GGSurgeryError
from ggsurgery.files.installation import MissingExtraError
from ggsurgery.measure.bench import run as bench_run
from ggsurgery.measure.bench.tasks import TASKS, write_tasks
from ggsurgery.measure.questions import load_questions, prompts
from ggsurgery.measure.results.comparison import compare_all
from ggsurgery.measure.results.result_files import load_results
from ggsurgery.measure.runs import choices_of_file
from ggsurgery.runtime import worker
from ggsurgery.runtime.engine import Engine
from tests._needs import needs_package, needs_smollm2
from tests._small_models import write_small_model

pytestmark = pytest.mark.slow

CHOICES = [
    {
        "id": f"q{i}",
        "query": f"The answer to question {i} is",
        "answer": i % 3,
        "choices": ["yes", "no, not at all", f"perhaps {i} times"],
    }
    for i in range(9)
]
MMLU = [
    {
        "id": f"{s}-{i}",
        "query": f"Is {i} even?",
        "choices": ["yes", "no", "both", "none"],
        "answer": i % 2,
        "subject": s,
    }
    for s in ("number_theory", "logic")
    for i in range(4)
]
FILES = {
    "hellaswag.jsonl": CHOICES,
    "mmlu.jsonl": MMLU,
    "mmlu_dev.jsonl": [{**q, "id": f"dev{n}-{q['id']}"} for n in range(2) for q in MMLU],
    "boolq.jsonl": [
        {"id": f"b{i}", "passage": f"Fact {i}.", "question": f"is it {i}", "answer": i % 2 == 0}
        for i in range(4)
    ],
    "winogrande.jsonl": [
        {
            "id": f"w{i}",
            "query": f"Ann met Bea as _ was {i}.",
            "choices": ["Ann", "Bea"],
            "answer": i % 2,
        }
        for i in range(4)
    ],
    "gsm8k.jsonl": [
        {
            "id": f"g{i}",
            "question": f"What is {i} + 1?",
            "answer": f"It is {i + 1}.\n#### {i + 1}",
            "final": str(i + 1),
        }
        for i in range(3)
    ],
}
FILES["gsm8k_train.jsonl"] = [
    {**q, "id": f"train{n}-{q['id']}"} for n in range(2) for q in FILES["gsm8k.jsonl"]
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    for name, items in FILES.items():
        (folder / name).write_text("\n".join(map(json.dumps, items)))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Random weights with SmolLM2's vocabulary: it runs in milliseconds."""
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    return write_small_model(path, width=64, n_layers=2, vocabulary_of=needs_smollm2())


@pytest.fixture(scope="module")
def found(model, data):
    needs_package("lm_eval", extra="bench")
    return worker.run(
        bench_run.run_bench,
        model,
        ["hellaswag", "mmlu", "boolq", "winogrande", "gsm8k"],
        data=data,
        shots=None,
        n_ctx=512,
        limit=None,
    )


def test_all_tasks_give_figures_with_n_and_error(found):
    got = {s.label: s for s in found.scores}
    assert {k: s.n for k, s in got.items()} == {
        "hellaswag acc": 9,
        "hellaswag acc_norm": 9,
        "mmlu acc": 8,
        "boolq acc": 4,
        "winogrande acc": 4,
        "gsm8k exact_match (strict-match)": 3,
        "gsm8k exact_match (flexible-extract)": 3,
    }
    assert got["mmlu acc"].provenance["chance"] == 0.25
    assert got["mmlu acc"].provenance["shots"] == 5
    for score in found.scores:
        assert len(score.items) == len(score.ids) == score.n
        assert sum(score.items) / score.n == pytest.approx(score.value)


def test_choices_agree_with_the_harness_question_by_question(found, model, data):
    """The same log-probabilities, scored by the harness and by us."""
    got = {s.label: s for s in found.scores}
    for task, style, file in (
        ("hellaswag", "plain", "hellaswag.jsonl"),
        ("boolq", "boolq", "boolq.jsonl"),
        ("winogrande", "blank", "winogrande.jsonl"),
    ):
        asked = prompts(load_questions(data / file), style)
        ours = {s.metric: s for s in choices_of_file(model, asked, n_ctx=512)}
        for metric in ("acc", "acc_norm"):
            if f"{task} {metric}" in got:
                assert ours[metric].ids == got[f"{task} {metric}"].ids
                assert ours[metric].items == got[f"{task} {metric}"].items


def test_results_file_is_the_harness_own_and_compares_with_itself(found, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(found.document))
    assert {"results", "configs", "n-shot", "n-samples"} <= set(found.document)
    (loaded,) = load_results(path)
    assert loaded.scores == found.scores
    same = compare_all(loaded.scores, found.scores)
    assert {c.verdict.split(" at ")[0] for c in same} == {"not distinguishable"}


def test_model_answers_all_three_kinds_of_request(model):
    instance = needs_package("lm_eval.api.instance", extra="bench").Instance
    from ggsurgery.measure.bench.model import harness_model

    def ask(kind, *arguments):
        return [
            instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)
        ]

    with Engine.open(model, n_ctx=128) as engine:
        told = []
        adapter = harness_model(engine, progress=lambda *step: told.append(step))
        text = "One two three four five six seven eight."
        (rolled,) = adapter.loglikelihood_rolling(ask("loglikelihood_rolling", (text,)))
        tokens = engine.tokenize(text, add_special=False)
        whole = engine.logprobs([adapter.prefix_token_id], [tokens])[0].sum()
        assert rolled == pytest.approx(whole, abs=1e-3)
        long = text * 40  # longer than the context: several windows
        (rolled,) = adapter.loglikelihood_rolling(ask("loglikelihood_rolling", (long,)))
        assert rolled < 20 * whole

        likeliest = engine.generate(engine.tokenize("Once"), max_tokens=3).tokens
        says = engine.detokenize(likeliest)
        pairs = adapter.loglikelihood(ask("loglikelihood", ("Once", says), ("Once", " zebra")))
        assert [greedy for _, greedy in pairs] == [True, False]
        direct = engine.logprobs(engine.tokenize("Once"), [list(likeliest)])[0].sum()
        assert pairs[0][0] == pytest.approx(direct, abs=1e-3)

        (said,) = adapter.generate_until(
            ask("generate_until", ("Once", {"until": [says[-2:]], "max_gen_toks": 9}))
        )
        assert says[-2:] not in said
        (cut,) = adapter.generate_until(ask("generate_until", (long, {"max_gen_toks": 4})))
        assert cut and adapter.n_truncated == 1
        assert told[-1] == (1, 1)


def test_unknown_tasks_missing_data_and_too_few_examples(data, tmp_path):
    with pytest.raises(GGSurgeryError, match=r"no local form of the task 'triviaqa'.*hellaswag"):
        write_tasks(["triviaqa"], data, tmp_path, shots=None)
    with pytest.raises(
        GGSurgeryError, match=r"no data of piqa: expected piqa_valid\.jsonl or piqa"
    ):
        write_tasks(["piqa"], data, tmp_path, shots=None)
    with pytest.raises(FormatError, match=r"'number_theory'.*expected 9, found 8"):
        write_tasks(["mmlu"], data, tmp_path, shots=9)
    with pytest.raises(FormatError, match=r"too few solved examples for gsm8k.*9, found 6"):
        write_tasks(["gsm8k"], data, tmp_path, shots=9)
    bad = tmp_path / "hellaswag.jsonl"
    bad.write_text(json.dumps({**CHOICES[0], "answer": 3}))
    with pytest.raises(FormatError, match=r"hellaswag\.jsonl: line 1: field answer"):
        write_tasks(["hellaswag"], tmp_path, tmp_path, shots=None)
    assert set(TASKS) >= {"mmlu", "gsm8k", "hellaswag", "piqa", "boolq", "arc_challenge"}


def test_own_task_files_work_beside_local_ones_without_a_network(model, data, tmp_path):
    needs_package("lm_eval", extra="bench")
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs: {{data_files: {{test: {data / 'hellaswag.jsonl'}}}}}\n"
        'doc_to_text: "{{query}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list: [{metric: acc}]\n"
    )
    found = worker.run(
        bench_run.run_bench,
        model,
        ["mine", "hellaswag"],
        data=data,
        include_path=tmp_path,
        n_ctx=512,
        limit=len(CHOICES),
    )
    mine, theirs = (next(s for s in found.scores if s.task == t) for t in ("mine", "hellaswag"))
    assert (mine.metric, mine.items) == (theirs.metric, theirs.items)
    with pytest.raises(GGSurgeryError, match=r"nowhere: no such folder of task files"):
        bench_run.run_bench(model, ["mine"], data=data, include_path=tmp_path / "nowhere")


def test_without_the_extra_the_error_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"lm-eval.*\[bench\]"):
        bench_run.require_harness()


def test_chat_needs_a_template_and_the_model_a_file(model, data, tmp_path):
    needs_package("lm_eval", extra="bench")
    with pytest.raises(EngineError, match="no such file"):
        worker.run(bench_run.run_bench, tmp_path / "none.gguf", ["hellaswag"], data=data)
    with pytest.raises(GGSurgeryError, match="no chat template"):
        worker.run(bench_run.run_bench, model, ["hellaswag"], data=data, chat=True)


def test_a_broken_model_is_an_error_and_not_an_accuracy_of_zero(model, tmp_path):
    needs_package("lm_eval", extra="bench")
    from ggsurgery.ggufio.reader import Source
    from ggsurgery.measure.bench.model import GGUFModel

    with Source(model) as source:
        at = source.position(source.header.by_name["blk.1.ffn_down.weight"])
    raw = bytearray(model.read_bytes())
    raw[at : at + 4] = b"\xff" * 4  # NaN, whatever the float type
    broken = tmp_path / "nan.gguf"
    broken.write_bytes(raw)
    with Engine.open(broken, n_ctx=64) as engine:
        adapter = GGUFModel(engine)
        with pytest.raises(EngineError, match=r"nan\.gguf: .*graph node ffn_out-1.*blk\.1\."):
            adapter._loglikelihood_tokens([(("a", "b"), engine.tokenize("Once"), [5])])
        with pytest.raises(EngineError, match=r"generating behind.*graph node ffn_out-1"):
            engine.generate(engine.tokenize("Once"), max_tokens=2)
