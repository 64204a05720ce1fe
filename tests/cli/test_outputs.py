"""What the commands print: JSON with the same figures, dry runs that write nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ggsurgery.cli._output import print_json
from ggsurgery.ggufio.header import read_header

from .._command import call
from .._gguf import peer_metadata, peer_tensors, tiny_llama

OPERATIONS = [
    (["delete", "--layer", "1,3"], [0, 2, 4, 5]),
    (["swap", "--layers", "1,4"], [0, 4, 2, 3, 1, 5]),
    (["move", "--layer", "0", "--to", "5"], [1, 2, 3, 4, 5, 0]),
    (["duplicate", "--layer", "2", "--times", "2"], [0, 1, 2, 2, 2, 3, 4, 5]),
    (["keep", "--layers", "5,0-2,5"], [5, 0, 1, 2, 5]),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "in.gguf", 6)


@pytest.mark.parametrize(("operation", "order"), OPERATIONS)
def test_the_dry_run_tells_what_the_run_does(tmp_path, model, operation, order):
    out = tmp_path / "out.gguf"
    dry = call(*operation, "--dry-run", "--json", model, out).json
    assert not out.exists()
    done = call(*operation, "--json", model, out).json
    assert [row["layer"] for row in dry["layer_map"]] == order
    assert {k: v for k, v in done.items() if k != "out"} == {
        k: v for k, v in dry.items() if k != "metadata"
    }
    header = read_header(out)
    assert done["layers"] == [6, len(order)]
    assert done["parameters"] == [read_header(model).n_parameters, header.n_parameters]
    assert done["bytes"] == [model.stat().st_size, out.stat().st_size]
    changed = {c["key"]: c["after"] for c in dry["metadata"]}
    assert changed.get("llama.block_count", 6) == len(order)
    assert changed["ggsurgery.checksums"] == peer_metadata(out)["ggsurgery.checksums"]  # whole
    assert changed["general.name"] == peer_metadata(out)["general.name"]


@pytest.mark.parametrize(("operation", "order"), OPERATIONS)
def test_the_dry_run_for_people(tmp_path, model, operation, order):
    said = call(*operation, "--dry-run", model, tmp_path / "out.gguf")
    assert f"{read_header(model).n_parameters:,}" in said.out
    assert said.err == "dry run: nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_would_be_refused(tmp_path, model):
    (tmp_path / "old.gguf").write_bytes(b"old")
    made = tmp_path / "made.gguf"
    call("delete", "--layer", "1", model, made)
    refused = "warning: without --dry-run this is refused: "
    for command in (["delete", "--layer", "1"], ["prune", "--sparsity", ".5"], ["replay", made]):
        said = call(*command, "--dry-run", model, tmp_path / "old.gguf").err
        assert f"{refused}{tmp_path}/old.gguf: the output exists" in said
        assert refused not in call(*command, "--dry-run", model, tmp_path / "new.gguf").err
    said = call("delete", "--layer", "1", "--dry-run", "--force", "--json", model, model)
    assert "input and output are the same file" in said.json["warnings"][0]


def test_other_files_that_were_read_are_inputs_too(tmp_path, model):
    recipe, template = tmp_path / "r.yaml", tmp_path / "t.jinja"
    recipe.write_text("- delete: 1")
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    for command, file in (
        (["apply", recipe], recipe),
        (["template", "set", "--from", template], template),
    ):
        text = file.read_text()
        said = call(*command, "--force", model, file, code=1).err
        assert "input and output are the same file" in said
        assert file.read_text() == text


def test_folded_runs_and_what_is_left_out(tmp_path, model):
    said = call("delete", "--layer", "2-3", "--dry-run", model, tmp_path / "out.gguf").out
    rows = [line.split() for line in said.splitlines()]
    assert ["0-1", "0-1", "full,", "dense"] in rows
    assert ["2-3", "4-5", "full,", "dense"] in rows
    assert "left out: 2-3" in said


def test_layers_named_one_by_one(tmp_path, model):
    said = call("delete", "--layer", "1", "--layer", "3-4", model, tmp_path / "a.gguf").err
    assert "layers 6 → 3" in said
    call("swap", "--layers", "1", "--layers", "3", model, tmp_path / "b.gguf")
    assert peer_metadata(tmp_path / "b.gguf")["general.name"].endswith("(swap 1,3)")


def test_name_and_force(tmp_path, model):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    call("delete", "--layer", "1", "--name", "Mine", "--force", "--sync", model, out)
    assert peer_metadata(out)["general.name"] == "Mine"


def test_apply_and_replay(tmp_path, model):
    recipe = tmp_path / "r.yaml"
    recipe.write_text('name: From file\noperations:\n- delete: 0\n- swap: "0,1"\n')
    out, new = tmp_path / "out.gguf", tmp_path / "new.gguf"
    call("apply", recipe, model, out)
    assert peer_metadata(out)["general.name"] == "From file"
    said = call("replay", "--json", out, model, new).json
    assert said["identical"] is True
    assert new.read_bytes() == out.read_bytes()
    assert call("diff", out, new).out == "same metadata, same tensors\n"
    call("apply", "--name", "Given", recipe, model, tmp_path / "b.gguf")
    assert peer_metadata(tmp_path / "b.gguf")["general.name"] == "Given"


def test_replay_shows_first_what_it_would_do(tmp_path, model):
    out, again = tmp_path / "out.gguf", tmp_path / "again.gguf"
    call("delete", "--layer", "1", model, out)
    shown = call("replay", "--dry-run", out, model, again)
    assert "left out: 1" in shown.out
    assert "nothing was written" in shown.err
    assert not again.exists()


def test_what_a_recipe_leaves_to_run_is_said(tmp_path, model):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("operations: [{delete: 0}]\nheader: {general.license: mit}\n")
    said = call("apply", recipe, model, tmp_path / "out.gguf").err
    assert f"warning: {recipe}: header: for `ggsurgery run`; apply does the operations" in said


def test_an_edit_of_the_header_as_json(tmp_path, model):
    out = tmp_path / "out.gguf"
    said = call("meta", "set", "general.license", "mit", "--json", model, out).json
    change = {"key": "general.license", "before": None, "after": "mit"}
    assert change in said["metadata"]


def test_the_type_of_an_unknown_entry_is_named(tmp_path, model):
    def said(key, value, *more):
        return call("meta", "set", key, value, *more, "--force", model, tmp_path / "o.gguf").err

    assert "warning: x.y is not a known key: written as string; --type uint32" in said("x.y", "3")
    assert "--type bool" in said("x.y", "true")
    assert "written as int32" in said("x.y", "3", "--as-json")
    assert "written as string" in said("x.y", "mit")
    for quiet in (
        ("x.y", "3", "--type", "string"),
        ("llama.context_length", "64"),
        ("llama.rope.freq_base", "5e6"),
    ):
        assert "warning" not in said(*quiet)


def test_a_negative_number_is_a_value(tmp_path, model):
    out = tmp_path / "out.gguf"
    call("meta", "set", "x.y", "-3", "--type", "int32", model, out)
    assert read_header(out).metadata["x.y"].value == -3
    call("meta", "set", "--type", "float32", "x.y", "-.5e1", model, out, "--force")
    assert read_header(out).metadata["x.y"].value == -5


def test_replay_of_an_edited_file_says_that_it_differs(tmp_path, model):
    out = tmp_path / "out.gguf"
    call("delete", "--layer", "0", model, out)
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    said = call("replay", out, model, tmp_path / "new.gguf", code=1)
    assert "the replayed file differs" in said.err
    assert (
        "would replace the one to compare with"
        in call("replay", "--force", out, model, out, code=1).err
    )


def test_inspect(model):
    facts = call("inspect", "--json", "--tensors", "--ctx", "100", model).json
    header = read_header(model)
    assert facts["parameters"] == header.n_parameters
    assert (facts["layers"], facts["context"], facts["vocabulary"]) == (6, 100, 64)
    assert facts["bits_per_weight"] == 32
    # 6 layers, keys and values, 2 heads of 16, 100 tokens, 2 bytes
    assert facts["kv_bytes"] == 6 * 2 * 2 * 16 * 100 * 2
    assert [t["name"] for t in facts["tensors"]] == list(peer_tensors(model))
    assert {t["type_name"] for t in facts["tensors"]} == {"f32"}
    said = call("inspect", "--tensors", model).out
    assert "6 (no" not in said
    assert "blk.5.ffn_down.weight" in said


def test_diff_finds_moved_layers(tmp_path, model):
    out = tmp_path / "out.gguf"
    call("delete", "--layer", "2", model, out)
    found = call("diff", "--json", model, out, code=1).json
    assert [row["same_as"] for row in found["layers"]] == [[0], [1], [3], [4], [5]]
    said = call("diff", model, out, code=1).out
    assert any(line.split() == ["2-4", "3-5"] for line in said.splitlines())


def test_meta(tmp_path, model):
    out = tmp_path / "out.gguf"
    call("meta", "set", "general.tags", '["a", "b"]', "--as-json", model, out)
    assert call("meta", "get", "general.tags", out).json == ["a", "b"]
    assert call("meta", "get", "{arch}.block_count", out).out == "6\n"
    shown = call("meta", "show", "--json", out).json
    assert shown["general.tags"] == {"type": "array[string]", "value": ["a", "b"]}
    call("meta", "unset", "general.tags", out, tmp_path / "b.gguf")
    assert "general.tags" not in peer_metadata(tmp_path / "b.gguf")
    assert peer_tensors(tmp_path / "b.gguf") == peer_tensors(model)
    text = tmp_path / "value.txt"
    text.write_text("from a file")
    call("meta", "set", "general.name", f"@{text}", model, tmp_path / "c.gguf")
    assert peer_metadata(tmp_path / "c.gguf")["general.name"] == "from a file"


def test_meta_says_what_changed_and_what_it_broke(tmp_path, model):
    def put(*arguments: str) -> str:
        return call("meta", *arguments, "--force", model, tmp_path / "out.gguf").err

    name = f"{tmp_path}/out.gguf"
    label = "general.size_label 300K → 189K"  # the truth, counted
    assert put("set", "general.license", "mit") == (
        f"{name}: {label}, general.license – → mit; the weights are those of in.gguf\n"
    )
    assert put("unset", "general.name") == (
        f"{name}: {label}, general.name Tiny 300K → –; the weights are those of in.gguf\n"
    )
    assert 'general.name Tiny 300K → ""' in put("set", "general.name", "")
    tokens = put("set", "tokenizer.ggml.tokens", '["a"]', "--as-json")
    assert "warning: token_embd.weight: has 64 rows for 1 tokens" in tokens
    assert "warning" not in put("set", "general.name", "Mine")


def test_a_damaged_input_is_named_once(tmp_path, model):
    first = tmp_path / "a.gguf"
    call("meta", "set", "tokenizer.ggml.tokens", '["a"]', "--as-json", model, first)
    said = call("delete", "--layer", "1", first, tmp_path / "b.gguf").err
    assert f"warning: {first} has 1 error(s) already; `ggsurgery verify` names them\n" in said
    assert "error: token_embd.weight: has 64 rows for 1 tokens. Embedding and vocabulary" in (
        call("verify", first, code=1).out
    )


def test_a_template_that_says_nothing_is_written_with_a_warning(tmp_path, model):
    template = tmp_path / "t.jinja"
    template.write_text("always the same")
    said = call("template", "set", "--from", template, model, tmp_path / "out.gguf").err
    assert "warning: the template drops a message of the user" in said
    assert "`ggsurgery template lint` shows all" in said


def test_drop_mtp_without_a_tail_is_said(tmp_path, model):
    said = call("delete", "--layer", "1", "--drop-mtp", model, tmp_path / "out.gguf").err
    assert said.startswith("warning: --drop-mtp: the file has no layers behind the trunk\n")


def test_verify(tmp_path, model):
    assert call("verify", "--json", model).json["ok"] is True
    assert "whole and consistent" in call("verify", model).out
    broken = tmp_path / "broken.gguf"
    data = model.read_bytes()
    key = b"llama.block_count"
    at = data.index(key) + len(key) + 4
    broken.write_bytes(data[:at] + (5).to_bytes(4, "little") + data[at + 4 :])
    found = call("verify", "--json", broken, code=1).json
    assert found["findings"][0]["where"] == "blk.5.*"
    assert "behind the last layer: block_count is 5" in call("verify", broken, code=1).out


def test_bytes_that_are_no_text_become_valid_json(tmp_path):
    from .._command import run
    from .._gguf import Raw, kv_array, kv_text, text

    raw = Raw([kv_text("general.architecture", "llama"), kv_array("t", 8, 1, text(b"\xff"))])
    path = raw.write(tmp_path / "a.gguf")
    assert json.loads(run("meta", "get", "t", path).stdout) == ["\udcff"]


def test_plain_copying_loads_none_of_the_arithmetic(tmp_path, model):
    """A cut of a small file should take no longer than starting Python and copying."""
    code = (
        "import sys; from ggsurgery.cli import cli; "
        f"cli(['delete', '--layer', '1', {str(model)!r}, {str(tmp_path / 'out.gguf')!r}], "
        "standalone_mode=False); "
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ggsurgery.surgery.write" in done.stderr
    for module in ("blend", "compute", "kernels", "prune", "runtime"):
        assert f"'ggsurgery.{module}" not in done.stderr
    for package in ("numpy", "yaml", "sentencepiece", "urllib.request"):
        assert f"'{package}'" not in done.stderr


def test_json_has_no_word_for_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    print_json({"a": float("inf"), "b": [float("nan"), 1.5], "c": (2, "x", None)})
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"a": None, "b": [None, 1.5], "c": [2, "x", None]}
