"""Choice scores by hand, prompts word for word, and every kind of broken question file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ggsurgery.errors import EngineError, FormatError
from ggsurgery.measure.metrics.choices import (
    Answered,
    accuracy,
    encode_pair,
    score_choices,
    score_question,
)
from ggsurgery.measure.questions import Question, guess_style, load_questions, prompts
from tests.measure.fakes import BOS, ByteModel, exact_log_softmax

Q = Question("q1", "Up or", ("down", "do"), 0)
MMLU = [
    Question(f"{s}-{i}", f"Query {i}?", ("w", "x", "y", "z"), i, s)
    for s in ("high_school_law", "art")
    for i in range(3)
]


def by_hand(model: ByteModel, context: str, continuation: str) -> float:
    tokens = list((context + continuation).encode())
    model.reset()
    log_p = exact_log_softmax(model.decode(tokens, logits="all"))
    start = len(context.encode())
    return sum(log_p[i - 1, tokens[i]] for i in range(start, len(tokens)))


def test_log_probabilities_equal_those_of_whole_texts():
    (asked,) = prompts([Q], "plain")
    found = score_question(ByteModel(1), asked)
    for value, choice in zip(found.logprobs, Q.choices, strict=True):
        assert value == pytest.approx(by_hand(ByteModel(1), Q.query, f" {choice}"), rel=1e-9)
    assert found.n_tokens == (5, 3)


def test_each_metric_divides_by_its_own_length():
    asked = prompts([Question("q", "a", ("ää", "abcd", "abc"), 0)], "plain")[0]
    answered = Answered(asked, (-6.0, -8.0, -7.5), (1, 3, 4))
    assert answered.picks() == {"acc": 0, "acc_norm": 1, "acc_bytes": 0, "acc_tokens": 2}


def test_letters_are_of_one_length_however_long_their_choices_are():
    # the harness divides by the length of what it scores: "A", "B", not the text behind
    asked = prompts([Question("q", "a", ("short", "a much longer choice"), 0)], "letters")[0]
    picks = Answered(asked, (-2.0, -2.5), (1, 1)).picks()
    assert picks == {"acc": 0, "acc_norm": 0, "acc_bytes": 0, "acc_tokens": 0}


def test_ties_go_to_the_first_choice_as_in_lm_eval():
    asked = prompts([Question("q", "a", ("b", "c"), 1)], "plain")[0]
    assert set(Answered(asked, (-1.0, -1.0), (1, 1)).picks().values()) == {0}


def test_shared_contexts_are_decoded_once():
    model = ByteModel(1)
    long = Question("q", "x" * 50, tuple(f"choice {i}" for i in range(4)), 0)
    score_question(model, prompts([long], "plain")[0])
    assert model.n_decoded == 50 + 4 * len(" choice 0")


def test_blank_style_scores_the_text_behind_the_blank_under_each_filling():
    q = Question("w", "Ann asked Bea because _ was late.", ("Ann", "Bea"), 1)
    (asked,) = prompts([q], "blank")
    assert asked.contexts == ("Ann asked Bea because Ann", "Ann asked Bea because Bea")
    assert asked.continuations == (" was late.", " was late.")
    found = score_question(ByteModel(3), asked)
    expected = [by_hand(ByteModel(3), c, " was late.") for c in asked.contexts]
    assert found.logprobs == pytest.approx(expected, rel=1e-9)


def test_prompts_are_worded_as_lm_eval_words_them():
    boolq = Question("b", "is it", ("no", "yes"), 1, None, "Passage")
    assert prompts([boolq], "boolq")[0].contexts[0] == "Passage\nQuestion: is it?\nAnswer:"
    assert prompts([boolq], "boolq")[0].continuations == (" no", " yes")
    assert prompts([Q], "question")[0].contexts[0] == "Question: Up or\nAnswer:"
    few = prompts([MMLU[0]], "letters", shots=2, examples=MMLU)[0]
    assert few.contexts[0] == (
        "The following are multiple choice questions (with answers) about high school law.\n\n"
        "Query 1?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "Query 2?\nA. w\nB. x\nC. y\nD. z\nAnswer: C\n\n"
        "Query 0?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    assert few.continuations == (" A", " B", " C", " D")


def test_too_few_examples_of_the_subject_are_refused():
    with pytest.raises(FormatError, match=r"'art': expected 3, found 2"):
        prompts([MMLU[3]], "letters", shots=3, examples=MMLU)


def test_styles_follow_the_fields():
    assert guess_style(MMLU) == "letters"
    assert guess_style([Q]) == "plain"
    assert guess_style([Question("b", "q", ("no", "yes"), 0, None, "P")]) == "boolq"
    assert guess_style([Question("w", "a _ b", ("x", "y"), 0)]) == "blank"
    with pytest.raises(FormatError, match="does not suit"):
        prompts([Q], "boolq")
    with pytest.raises(FormatError, match="does not suit"):
        prompts([Q], "blank")


def test_examples_have_to_suit_the_style_and_are_left_out_by_content():
    blank = Question("w", "a _ b", ("x", "y"), 0)
    with pytest.raises(FormatError, match="question q1: style 'blank' does not suit"):
        prompts([blank], "blank", shots=1, examples=[Q])
    # ids of files without ids are line numbers: equal ones are not equal questions
    dev = [Question("line-1", "One?", ("a", "b"), 0), Question("line-2", "Two?", ("a", "b"), 0)]
    asked = [Question("line-1", "Other?", ("a", "b"), 1), dev[0]]
    first, second = prompts(asked, "plain", shots=1, examples=dev)
    assert first.contexts[0].startswith("One? a\n\n")
    assert second.contexts[0].startswith("Two? a\n\n")  # never the question itself


def test_what_python_cannot_hold_is_told_with_its_line(tmp_path):
    path = tmp_path / "q.jsonl"
    for answer in ("1" * 5000, '"\\ud800"'):  # half of a surrogate pair is no text either
        path.write_text('{"query": "q", "choices": ["a", "b"], "answer": ' + answer + "}")
        with pytest.raises(FormatError, match=r"q\.jsonl: line 1 is not JSON"):
            load_questions(path)


def test_trailing_blanks_move_to_the_continuation_and_bos_comes_once():
    model = ByteModel(1, add_bos=True)
    assert encode_pair(model, "ab ", "c") == ([BOS, *b"ab"], list(b" c"))
    assert encode_pair(ByteModel(1), "", "c") == ([BOS], list(b"c"))


def test_accuracy_has_items_ids_and_error():
    asked = prompts([Q, Question("q2", "Left or", ("right", "ri"), 1)], "plain")
    scores = accuracy(score_choices(ByteModel(1), asked), {"task": "t"})
    assert [s.metric for s in scores] == ["acc", "acc_norm", "acc_bytes", "acc_tokens"]
    assert scores[0].ids == ("q1", "q2")
    assert scores[0].value == np.mean(scores[0].items)


def test_a_choice_without_tokens_and_a_broken_model_are_named():
    with pytest.raises(EngineError, match=r"q1.*choice 0"):
        score_question(_Empty(1), prompts([Q], "plain")[0])
    broken = ByteModel(1)
    broken.first[:] = np.nan
    with pytest.raises(EngineError, match=r"bytes\.gguf.*q1.*choice 0.*graph node l_out"):
        score_question(broken, prompts([Q], "plain")[0])


class _Empty(ByteModel):
    def tokenize(self, text, *, add_special=True, parse_special=False):
        return [1, 2, 3]


GOOD = {"id": "a", "query": "Q", "choices": ["x", "y"], "answer": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": ""}, "line 2: field query: expected a text, found an empty text"),
        ({"query": 3}, "line 2: field query: expected a text, found 3"),
        ({"choices": ["x"]}, "line 2: field choices: .*at least 2 texts, found a list of 1"),
        ({"choices": None}, "line 2: field choices: .*found nothing"),
        ({"choices": ["x", 4]}, r"line 2: field choices\[1\]: expected a text, found 4"),
        ({"answer": 2}, "line 2: field answer: expected 0 to 1, found 2"),
        ({"answer": -1}, "line 2: field answer: expected 0 to 1, found -1"),
        ({"answer": "1"}, "line 2: field answer: expected a 0-based index, found the text '1'"),
        ({"answer": True}, "line 2: field answer: expected a 0-based index, found true"),
        ({"id": "first"}, "line 2: field id: .*once.*'first' as on line 1"),
        ({"passage": "P", "question": "q"}, "line 2: field answer: expected true or false"),
        ({"subject": 5}, "line 2: field subject: expected a text"),
    ],
)
def test_wrong_fields_name_file_line_and_field(tmp_path, change, message):
    path = tmp_path / "bad.jsonl"
    lines = [{**GOOD, "id": "first"}, {**GOOD, **change}]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(FormatError, match=rf"bad\.jsonl: {message}"):
        load_questions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no questions in it"),
        (b"\n\n", "no questions in it"),
        (b'{"id": 1', "line 1 is not JSON"),
        (b"[1]", "line 1: expected a JSON object, found a list of 1"),
        (b'{"id": "\xff"}', "line 1 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_files_that_are_not_json_lines(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        load_questions(path)


def test_limit_and_byte_order_mark(tmp_path):
    path = tmp_path / "ok.jsonl"
    lines = [json.dumps({**GOOD, "id": i}) for i in range(5)]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert [q.id for q in load_questions(path, limit=3)] == ["0", "1", "2"]
