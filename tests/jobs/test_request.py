"""Requests check themselves, however they are made; options of the command line follow them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from ggsurgery.cli._requests import request_options
from ggsurgery.errors import GGSurgeryError, RequestError
from ggsurgery.jobs.bench import BenchRequest
from ggsurgery.jobs.choices import ChoicesRequest, Style
from ggsurgery.jobs.evaluate import EvaluateRequest
from ggsurgery.jobs.laco import LacoSettings
from ggsurgery.jobs.perplexity import PerplexityRequest
from ggsurgery.measure.questions import STYLES


def test_texts_become_paths():
    request = PerplexityRequest(file="a.gguf", text=Path("t.txt"))
    assert (request.file, request.text, request.ctx) == (Path("a.gguf"), Path("t.txt"), 512)
    with pytest.raises(AttributeError):
        request.ctx = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (PerplexityRequest, {"ctx": 3}, "`ctx`: expected at least 4, found 3"),
        (PerplexityRequest, {"ctx": "3"}, "`ctx`: expected a whole number, found '3'"),
        (PerplexityRequest, {"ctx": True}, "`ctx`: expected a whole number, found True"),
        (PerplexityRequest, {"windows": 0}, "`windows`: expected at least 1, found 0"),
        (PerplexityRequest, {"text": 3}, "`text`: expected a path, found 3"),
        (PerplexityRequest, {"text": None}, "`text`: expected a path, found None"),
        (PerplexityRequest, {"bos": 1}, "`bos`: expected true or false, found 1"),
        (BenchRequest, {"tasks": "piqa"}, "`tasks`: expected a list, found 'piqa'"),
        (BenchRequest, {"tasks": [1]}, "`tasks`: expected a text, found [1]"),
        (BenchRequest, {"tasks": []}, "`tasks` names no task"),
        (ChoicesRequest, {"data": "q", "style": "odd"}, "`style`: expected one of blank, boolq"),
        (ChoicesRequest, {"data": "q", "shots": 2}, "`shots` and `examples` go together"),
        (EvaluateRequest, {"random": 3}, "`controls`, `random` and `seed` need a `baseline`"),
        (LacoSettings, {"threshold": float("nan")}, "`threshold`: expected at"),
        (LacoSettings, {"max_compression": 1.0}, "`max_compression`: expected less than 1"),
    ],
)
def test_wrong_fields_are_refused(cls: Any, fields: dict[str, Any], message: str):
    needed = {"file": "a.gguf"} if "file" in cls.__struct_fields__ else {}
    needed |= {"text": "t"} if "text" in cls.__struct_fields__ else {}
    with pytest.raises(RequestError) as refused:
        cls(**needed | fields)
    assert message in str(refused.value)
    assert isinstance(refused.value, GGSurgeryError)
    assert isinstance(refused.value, ValueError)
    again = pickle.loads(pickle.dumps(refused.value))
    assert str(again) == str(refused.value)


def test_every_field_explains_itself():
    for cls in (PerplexityRequest, ChoicesRequest, BenchRequest, EvaluateRequest, LacoSettings):
        schema = msgspec.json.schema(cls, schema_hook=lambda kind: {"type": "string"})
        for name, field in schema["$defs"][cls.__name__]["properties"].items():
            texts = [field, *field.get("anyOf", ())]
            assert any("description" in text for text in texts), f"{cls.__name__}.{name}"


def test_styles_are_those_of_the_questions():
    assert set(Style.__args__) == set(STYLES)  # type: ignore[attr-defined]


@click.command()
@request_options(PerplexityRequest, arguments=("file",))
def shown(request: PerplexityRequest) -> None:
    click.echo(f"{request.file} {request.windows} {request.bos} {request.ctx}")


def test_options_follow_the_fields():
    def call(*arguments: str) -> Any:
        return CliRunner().invoke(shown, arguments)

    assert call("a.gguf", "-f", "t", "--windows", "3", "--no-bos").output == "a.gguf 3 False 512\n"
    assert call("a.gguf", "-f", "t", "--chunks", "3", "-c", "8").output == "a.gguf 3 None 8\n"
    assert call("a.gguf").exit_code == 2
    refused = call("a.gguf", "-f", "t", "--chunks", "0")
    assert refused.exit_code == 2
    assert "Invalid value for '--windows'" in refused.output
    assert "chunks" not in call("--help").output
