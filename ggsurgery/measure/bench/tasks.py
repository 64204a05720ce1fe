"""Task files for lm-evaluation-harness made from local question files: no network needed.

The wording, the number of shots and the metrics are those of the harness's own tasks of the
same name; only the data comes from a folder of JSON-lines files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import FormatError, GGSurgeryError
from ..draw import SEED, draw
from ..questions import load_questions, read_jsonl

_ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
_ACC_NORM = {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}

#: File names that are looked for, in this order.
Files = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalTask:
    """One benchmark over a local file.

    Args:
        files: names of the question file; `examples` of the file that solved examples are
            taken from (the question file itself if empty).
        config: the harness's task configuration without its data.
        shots: how many solved examples its published figures use.
    """

    files: Files
    config: Mapping[str, Any]
    examples: Files = ()
    shots: int = 0


def _choice(text: str, choices: Any, target: str, *metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_type": "multiple_choice",
        "doc_to_text": text,
        "doc_to_choice": choices,
        "doc_to_target": target,
        "metric_list": list(metrics),
    }


_ASKED = _choice("Question: {{query}}\nAnswer:", "{{choices}}", "{{answer}}", _ACC, _ACC_NORM)

_GSM8K: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {
        "until": ["Question:", "</s>", "<|im_end|>"],
        "do_sample": False,
        "temperature": 0.0,
    },
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "ignore_punctuation": False,
            "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"],
        }
    ],
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [
                {"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"},
                {"function": "take_first"},
            ],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {
                    "function": "regex",
                    "group_select": -1,
                    "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)",
                },
                {"function": "take_first"},
            ],
        },
    ],
}

_MMLU = _choice(
    "{{query.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
    "D. {{choices[3]}}\nAnswer:",
    ["A", "B", "C", "D"],
    "{{answer}}",
    _ACC,
)

TASKS: dict[str, LocalTask] = {
    "arc_challenge": LocalTask(("arc_challenge_test.jsonl", "arc_challenge.jsonl"), _ASKED),
    "arc_easy": LocalTask(("arc_easy_test.jsonl", "arc_easy.jsonl"), _ASKED),
    "boolq": LocalTask(
        ("boolq_val.jsonl", "boolq.jsonl"),
        _choice(
            "{{passage}}\nQuestion: {{question}}?\nAnswer:", ["no", "yes"], "{{answer|int}}", _ACC
        ),
    ),
    "gsm8k": LocalTask(
        ("gsm8k_test.jsonl", "gsm8k.jsonl"), _GSM8K, ("gsm8k_train16.jsonl", "gsm8k_train.jsonl"), 5
    ),
    "hellaswag": LocalTask(
        ("hellaswag.jsonl",), _choice("{{query}}", "{{choices}}", "{{answer}}", _ACC, _ACC_NORM)
    ),
    "mmlu": LocalTask(
        ("mmlu_test_10pct.jsonl", "mmlu_test.jsonl", "mmlu.jsonl"), _MMLU, ("mmlu_dev.jsonl",), 5
    ),
    "piqa": LocalTask(("piqa_valid.jsonl", "piqa.jsonl"), _ASKED),
    "winogrande": LocalTask(
        ("winogrande_valid.jsonl", "winogrande.jsonl"),
        _choice(
            "{{answer}}",  # the harness takes the index of the right context here
            "{{[query.split('_')[0] ~ choices[0], query.split('_')[0] ~ choices[1]]}}",
            "{{query.split('_')[1].strip()}}",
            _ACC,
        ),
    ),
}


def write_tasks(
    names: Sequence[str],
    data: Path,
    folder: Path,
    *,
    shots: int | None,
    limit: int | None = None,
    seed: int = SEED,
) -> None:
    """Write the harness's task files of these benchmarks into `folder`.

    Args:
        limit: at most so many questions of a benchmark, as `draw` chooses them by `seed`.

    Raises:
        GGSurgeryError: an unknown benchmark, or its data is not in the folder.
        FormatError: a question file is damaged; names file, line and field.
    """
    for name in names:
        if name not in TASKS:
            raise GGSurgeryError(
                f"no local form of the task {name!r}",
                expected=", ".join(TASKS),
                hint="Leave --data away to take the harness's own tasks from the network",
            )
        task = TASKS[name]
        questions = _find(data, task.files, name)
        examples = _find(data, task.examples, name) if task.examples else None
        wanted = task.shots if shots is None else shots
        if name != "gsm8k":
            load_questions(questions)  # every field checked before the harness sees it
        if limit is not None:
            questions = _drawn(questions, folder / f"{name}.drawn.jsonl", limit, seed)
        if name == "mmlu":
            _write_mmlu(task, questions, examples, folder, wanted)
            continue
        known = examples or questions
        count = sum(1 for _ in read_jsonl(known))
        if wanted > count - (examples is None):
            raise FormatError(
                f"too few solved examples for {name}",
                file=known,
                expected=wanted,
                found=count,
                hint="Give more, or fewer --shots",
            )
        _write(folder, name, {**task.config, **_data(questions, examples, wanted)})


def _drawn(questions: Path, out: Path, limit: int, seed: int) -> Path:
    """A file of some of the questions."""
    items = draw(
        list(read_jsonl(questions)),
        limit,
        seed=seed,
        name=lambda line: str(line[1].get("id", f"line-{line[0]}")),
        subject=lambda line: str(line[1].get("subject")),
    )
    out.write_text("".join(json.dumps(item) + "\n" for _, item in items), encoding="utf-8")
    return out


def _data(questions: Path, examples: Path | None, shots: int) -> dict[str, Any]:
    files = {"test": str(questions)}
    found: dict[str, Any] = {"test_split": "test", "num_fewshot": shots}
    if examples is not None:
        files["dev"] = str(examples)
        found |= {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
    return {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, **found}


def _write(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    text = yaml.safe_dump({"task": name, **config, "metadata": {"version": 1.0}}, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text)


def _write_mmlu(
    task: LocalTask, questions: Path, examples: Path | None, folder: Path, shots: int
) -> None:
    """One task a subject, each with the examples of its own subject, and their group."""
    tests, devs = _by_subject(questions), _by_subject(examples) if examples else {}
    for subject, items in tests.items():
        if shots > len(devs.get(subject, ())):
            raise FormatError(
                f"too few solved examples of {subject!r}",
                file=examples,
                expected=shots,
                found=len(devs.get(subject, ())),
            )
        test, dev = folder / f"{subject}.test.jsonl", folder / f"{subject}.dev.jsonl"
        test.write_text("\n".join(map(json.dumps, items)))
        dev.write_text("\n".join(map(json.dumps, devs.get(subject, items))))
        topic = subject.replace("_", " ")
        about = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
        _write(
            folder,
            f"mmlu_{subject}",
            {**task.config, "description": about, **_data(test, dev, shots)},
        )
    group = {
        "group": "mmlu",
        "task": [f"mmlu_{s}" for s in tests],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "mmlu.yaml").write_text(yaml.safe_dump(group, sort_keys=False))


def _by_subject(path: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for number, item in read_jsonl(path):
        subject = item.get("subject")
        if not isinstance(subject, str) or not subject.replace("_", "").isalnum():
            raise FormatError(f"line {number}: field subject", file=path, expected="a plain name")
        found.setdefault(subject, []).append(item)
    return found


def question_file(folder: Path, task: str) -> Path | None:
    """The file of a task's questions in a folder, None where it has no local form."""
    return _find(folder, TASKS[task].files, task) if task in TASKS else None


def _find(folder: Path, names: Files, task: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise GGSurgeryError(
        f"no data of {task}", file=folder, expected=" or ".join(names), found="none of them"
    )
