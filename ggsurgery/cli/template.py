"""template show|set|render|lint|families: the chat template in a GGUF's header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..chat.conversations import BY_ID, CONVERSATIONS, Conversation
from ..chat.families import families, family
from ..chat.lint import Report, lint
from ..chat.render import TemplateError, compile_template, render
from ..chat.vocabulary import Vocabulary, chat_template, template_names
from ..errors import FormatError
from ..files.fields import read_json
from ..files.text import MAX_SMALL, read_text
from ..ggufio.header import read_header
from ..jobs import cautions
from ..plan.recipe import step
from ._files import FILE
from ._output import echo, echo_exact, json_option, note, print_json, table, warn
from ._surgery import Surgery, in_out, operate, surgery_options

KEY = "tokenizer.chat_template"


@click.group()
def template() -> None:
    """Show, change, try and check the chat template.

    \b
    Example:
      ggsurgery template lint model.gguf
      ggsurgery template render model.gguf --user "Hi" --thinking off
      ggsurgery template set --family qwen3 in.gguf out.gguf
    """


@template.command()
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--name", help="A further template of the file, such as tool_use.")
def show(file: Path, name: str | None) -> None:
    """Print the template exactly as stored in the file.

    \b
    Example:
      ggsurgery template show model.gguf > model.jinja
    """
    source, _ = _load(file, name)
    echo_exact(source)
    others = template_names(read_header(file)) if _is_gguf(file) else ()
    if others and name is None:
        note(f"further templates (--name): {', '.join(others)}")


@template.command("set")
@click.option(
    "--from", "source_file", type=FILE, metavar="FILE", help="A file with the Jinja text."
)
@click.option("--family", "family_name", metavar="NAME", help="A built-in family; see `families`.")
@surgery_options()
@in_out
def set_(
    surgery: Surgery, source_file: Path | None, family_name: str | None, source: Path, out: Path
) -> None:
    """Write a copy with another template. It must compile; `lint` checks whether it fits.

    \b
    Example:
      ggsurgery template set --from fixed.jinja in.gguf out.gguf
      ggsurgery template set --family qwen3 in.gguf out.gguf
    """
    if (source_file is None) == (family_name is None):
        raise click.UsageError("Name either --from FILE or --family NAME.")
    text = _read(source_file) if source_file is not None else family(str(family_name)).jinja
    with _named(source_file):
        compile_template(text)
    warn(*cautions.of_template(text, read_header(source)))
    one = step("set", key=KEY, value=text, type="string")
    operate(surgery, [one], [source], out, spared=(source_file,))


@template.command("families")
@json_option
def families_(as_json: bool) -> None:
    """List the built-in chat families.

    \b
    Example:
      ggsurgery template families
    """
    rows = [(f.name, f.title, ", ".join(f.stop)) for f in families().values()]
    if as_json:
        print_json([dict(zip(("name", "title", "stop"), row, strict=True)) for row in rows])
    else:
        echo(table(rows, ("family", "for", "ends with")))


@template.command("render")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--conversation", metavar="ID", help="A trial conversation: single, tools, prefix …")
@click.option("--messages", metavar="FILE", type=FILE, help="JSON: a list of role and content.")
@click.option("--system", metavar="TEXT", help="A system prompt.")
@click.option("--user", metavar="TEXT", help="A question.")
@click.option("--tools", metavar="FILE", type=FILE, help="JSON: a list of function descriptions.")
@click.option("--thinking", type=click.Choice(["on", "off"]), help="enable_thinking.")
@click.option("--continue", "go_on", is_flag=True, help="Leave the last message open.")
@click.option("--no-generation-prompt", is_flag=True, help="Do not open the assistant's turn.")
@click.option("--name", help="A further template of the file, such as tool_use.")
@json_option
def render_(
    file: Path,
    conversation: str | None,
    messages: Path | None,
    system: str | None,
    user: str | None,
    tools: Path | None,
    thinking: str | None,
    go_on: bool,
    no_generation_prompt: bool,
    name: str | None,
    as_json: bool,
) -> None:
    """Print the prompt for a conversation. FILE is a GGUF or a Jinja file.

    \b
    Example:
      ggsurgery template render model.gguf --system "Be brief." --user "Hi" --thinking off
      ggsurgery template render model.gguf --conversation tool-result
      ggsurgery template render model.jinja --messages chat.json --tools tools.json
    """
    talk = _conversation(conversation, messages, system, user)
    source, vocabulary = _load(file, name)
    wanted = talk.thinking if thinking is None else thinking == "on"
    with _named(file):
        prompt = render(
            source,
            talk.messages,
            tools=(_json_list(tools) if tools else None) or talk.tools or None,
            add_generation_prompt=not no_generation_prompt,
            continue_final_message=go_on or talk.continue_final,
            bos_token=vocabulary.bos if vocabulary else "",
            eos_token=vocabulary.eos if vocabulary else "",
            enable_thinking=wanted,
        )
    if as_json:
        print_json({"prompt": prompt})
    else:
        echo_exact(prompt)


def _conversation(
    trial: str | None, messages: Path | None, system: str | None, user: str | None
) -> Conversation:
    """A trial conversation or one from a file, with an optional system prompt and question."""
    if trial is not None and messages is not None:
        raise click.UsageError("Give either --conversation ID or --messages FILE.")
    if trial is not None and trial not in BY_ID:
        raise click.BadParameter(f"one of {', '.join(BY_ID)}", param_hint="--conversation")
    found = Conversation("", "", ()) if trial is None else BY_ID[trial]
    talk = list(found.messages) if messages is None else _json_list(messages)
    if system is not None:
        talk = [{"role": "system", "content": system}, *talk]
    if user is not None:
        talk = [*talk, {"role": "user", "content": user}]
    if not talk:
        raise click.UsageError("Give --user TEXT, --messages FILE or --conversation ID.")
    return replace(found, messages=tuple(talk))


@template.command("lint")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--name", help="A further template of the file, such as tool_use.")
@json_option
@click.pass_context
def lint_(ctx: click.Context, file: Path, name: str | None, as_json: bool) -> None:
    """Try the template on conversations and list what fails. FILE is a GGUF or a Jinja file.

    System prompts, several turns, tools and their results, thinking on and off, prefixes,
    special tokens that the vocabulary lacks, missing end-of-turn tokens, and what Ollama will
    report. Exit code 1 if there is an error.

    \b
    Example:
      ggsurgery template lint model.gguf
    """
    source, vocabulary = _load(file, name)
    with _named(file):
        report = lint(source, vocabulary)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    if not report.ok:
        ctx.exit(1)


def _show(report: Report) -> None:
    rendered = sum(text is not None for text in report.prompts.values())
    echo(f"{rendered} of {len(CONVERSATIONS)} conversations rendered")
    if report.match is not None:
        how = "the same prompts as" if report.match.exact else "most like"
        echo(f"family: {how} {report.match.family.name} ({report.match.family.title})")
    echo(f"Ollama will report: {', '.join(report.ollama.names)}")
    if report.findings:
        rows = [(f.level, f.check, f.message, f.conversation or "") for f in report.findings]
        echo("\n" + table(rows, ("", "check", "finding", "shown by")))
    echo("\n" + ("no errors" if report.ok else "errors found"))


def _is_gguf(file: Path) -> bool:
    if file.exists() and not file.is_file():  # a pipe can be read only once
        return False
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=file) from None


def _read(file: Path) -> str:
    return read_text(file, MAX_SMALL)


@contextmanager
def _named(file: Path | None) -> Iterator[None]:
    """Add the file to errors of its template."""
    try:
        yield
    except TemplateError as error:
        raise error.at(file=file) from error


def _load(file: Path, name: str | None) -> tuple[str, Vocabulary | None]:
    """The template of a GGUF with its vocabulary, or a file of Jinja text."""
    if not _is_gguf(file):
        return _read(file), None
    header = read_header(file)
    found = chat_template(header, name)
    if found is None:
        others = template_names(header)
        raise FormatError(
            "no chat template",
            file=file,
            tensor=KEY if name is None else f"{KEY}.{name}",
            found=f"templates {', '.join(others)}" if others else None,
            hint="A base model has none; `ggsurgery template set --family NAME` writes one."
            if name is None
            else "Without --name it is the default template.",
        )
    return found, Vocabulary.find(header)


def _json_list(file: Path) -> list[dict[str, Any]]:
    found = read_json(file)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise FormatError("not a list of objects", file=file, expected='[{"role": …}]')
    return found
