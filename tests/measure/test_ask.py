"""ask: the answer, how it is shown, and what is refused."""

from __future__ import annotations

import itertools
import json
import subprocess

import pytest

from ggsurgery.jobs.ask import AskRequest
from ggsurgery.measure.suite.ask import Answer

from .._command import call, command, environment, run
from .._needs import ROOT, needs_smollm2

MODEL = ROOT / "models/tiny-qwen3/tiny-qwen3.gguf"
PROMPT = "What does a list hold?"


def test_answers_are_those_of_llama_cpp_python(capfd):
    llama_cpp = pytest.importorskip("llama_cpp", reason="the oracle of this test")
    model = llama_cpp.Llama(str(MODEL), n_ctx=512, verbose=False, n_threads=1)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    reply = model.create_chat_completion(messages, temperature=0.0, max_tokens=24)
    expected = reply["choices"][0]["message"]["content"]
    model.close()
    (answer,) = (
        AskRequest(files=[MODEL], prompt=PROMPT, system="Be brief.", max_tokens=24, threads=1)
        .run()
        .answers
    )
    assert answer.text == expected
    assert answer.n_prompt == reply["usage"]["prompt_tokens"]
    assert answer.chat
    assert (answer.thought, answer.answer) == ("", expected.partition("</think>")[2].strip())


def test_what_is_streamed_is_the_answer():
    seen: list[tuple[str, bool]] = []
    request = AskRequest(files=[MODEL], prompt=PROMPT, max_tokens=12, threads=1)
    (answer,) = request.run(lambda _file, text, complete: seen.append((text, complete))).answers
    assert seen[-1] == (answer.text, True)
    for (before, _), (after, _) in itertools.pairwise(seen):
        assert after.startswith(before)
    shown = call("ask", MODEL, PROMPT, "-n", "12", "-t", "1")
    assert shown.out == answer.text + "\n"
    assert f"{answer.n_generated} tokens at " in shown.err


def test_several_files_answer_below_their_names(tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(MODEL.read_bytes())
    out = call("ask", MODEL, copy, PROMPT, "-n", "6", "-t", "1").out
    first, second = (part.splitlines() for part in out.split("── ")[1:])
    assert (first[0], second[0]) == (str(MODEL), str(copy))
    assert first[1:] == second[1:]


def test_json_has_the_answers_and_nothing_is_streamed():
    (found,) = json.loads(run("ask", MODEL, PROMPT, "-n", "6", "-t", "1", "--json").stdout)
    assert found["file"] == str(MODEL)
    assert found["n_generated"] <= 6 and found["tokens_per_second"] > 0


def test_the_prompt_may_come_from_standard_input():
    typed = run("ask", MODEL, PROMPT, "-n", "6", "-t", "1")
    piped = subprocess.run(
        command("ask", MODEL, "-", "-n", "6", "-t", "1"),
        input=PROMPT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert piped.stdout == typed.stdout


def test_a_switch_that_the_template_lacks_is_said():
    err = call("ask", needs_smollm2(), "Hi.", "-n", "1", "-t", "1", "--thinking", "on").err
    assert "has no switch for thinking" in err


def test_a_prompt_without_room_is_refused():
    err = call("ask", MODEL, PROMPT, "-c", "8", code=1).err
    assert "the prompt does not fit the context" in err
    assert "Ask for a larger context (--ctx)" in err


def test_an_empty_prompt_is_refused():
    assert "--prompt: expected a text" in call("ask", MODEL, " ", code=2).err


def test_one_token_has_no_speed():
    answer = Answer(MODEL, "a", "a", None, "length", True, 3, 1, 0.1, 0.0)
    assert answer.speed is None
