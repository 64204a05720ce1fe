"""merge, interpolate, bridge, blend and prune from the command line, on tiny models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants

from ggsurgery.cli import main
from tests._gguf import Raw, kv_text, kv_u32, tiny_llama
from tests._gguf import tensor as gguf_tensor
from tests._needs import ROOT

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; gives its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "a.gguf", 6, kind=T.F16)


def tensors(path: Path) -> dict[str, np.ndarray]:
    """float64 values by name, as gguf-py reads them."""
    return {
        t.name: quants.dequantize(t.data, t.tensor_type).astype(np.float64)
        for t in GGUFReader(path).tensors
    }


def test_merge(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    code, _, err = run("merge", "--layers", "1-3", model, out)
    assert code == 0, err
    assert "layers 6 → 4" in err
    before, after = tensors(model), tensors(out)
    for name in ("attn_q.weight", "ffn_norm.weight", "ffn_down.weight"):
        a, b, c = (before[f"blk.{n}.{name}"] for n in (1, 2, 3))
        np.testing.assert_allclose(after[f"blk.1.{name}"], -a + b + c, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(after[f"blk.2.{name}"], before[f"blk.4.{name}"])


def test_replay_makes_the_same_bytes(run: Run, model: Path, tmp_path: Path) -> None:
    for number, command in enumerate(
        (
            ("merge", "--layers", "1-2", "--method", "damped", "--factor", "0.4"),
            ("interpolate", "--layers", "2,4", "--method", "slerp", "--weight", "0.3"),
            ("bridge", "--layer", "1", "--at", "5", "--scale", "0.5"),
            ("duplicate", "--layer", "1-2", "--scale", "0.5"),
            ("prune", "--sparsity", "0.37"),
            ("prune", "--pattern", "2:4", "--only", "ffn_up"),
        )
    ):
        out, again = tmp_path / f"{number}.gguf", tmp_path / f"{number}-again.gguf"
        assert run(*command, model, out)[0] == 0
        code, _, err = run("replay", out, model, again)
        assert code == 0, err
        assert out.read_bytes() == again.read_bytes()


def test_out_type(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert run("merge", "--layers", "1-3", "--out-type", "q8_0", model, out)[0] == 0
    kinds = {t.name: t.tensor_type for t in GGUFReader(out).tensors}
    assert kinds["blk.1.attn_q.weight"] == T.Q8_0
    assert kinds["blk.1.attn_norm.weight"] == T.F32
    assert kinds["blk.2.attn_q.weight"] == T.F16


def test_the_other_byte_order_is_refused_before_anything_is_done(run: Run, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "be.gguf", 4, big_endian=True)
    for command in (("merge", "--layers", "1-3"), ("prune", "--sparsity", "0.3")):
        code, _, err = run(*command, "--dry-run", source, tmp_path / "out.gguf")
        assert code == 1 and "other byte order" in err


def test_out_types_that_cannot_be_written(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    for kind in ("iq2_xxs", "i32"):
        code, _, err = run("merge", "--layers", "1-3", "--out-type", kind, model, out)
        assert code == 1 and f"cannot be written as {kind}: expected f32, f16" in err
    assert (
        "Did you mean q4_k?"
        in run("merge", "--layers", "1-3", "--out-type", "Q4_K_M", model, out)[2]
    )
    assert not out.exists()


def test_rows_that_do_not_fit_are_said_in_one_line(run: Run, model: Path, tmp_path: Path) -> None:
    code, text, err = run(
        "prune", "--sparsity", "0.5", "--out-type", "q4_k", "--json", model, tmp_path / "out.gguf"
    )
    assert code == 0
    lines = sorted(line for line in err.splitlines() if "do not fit" in line)
    assert "rows of 64 do not fit q4_k: 36 computed tensors become f16: attn_k.weight" in lines[0]
    assert "rows of 96 do not fit q4_k: 6 computed tensors" in lines[1] and len(lines) == 2
    assert json.loads(text)["computed"] == {"f16": 42}


def test_dry_run_of_a_merge(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    code, text, _ = run("merge", "--layers", "1-3", "--out-type", "q8_0", "--dry-run", model, out)
    assert code == 0 and not out.exists()
    assert "rdsc(1, 2, 3)" in text and "left out" not in text
    assert "computed tensors: 7 q8_0, 2 f32; all others are copied" in text


def test_duplicate_takes_an_out_type(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    arguments = ("--layer", "1", "--scale", "0.5", "--out-type", "f32")
    assert run("duplicate", *arguments, model, out)[0] == 0
    kinds = {t.name: t.tensor_type for t in GGUFReader(out).tensors}
    assert kinds["blk.2.ffn_down.weight"] == T.F32
    assert kinds["blk.2.ffn_up.weight"] == kinds["blk.1.ffn_down.weight"] == T.F16


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_blend(run: Run, model: Path, tmp_path: Path, method: str) -> None:
    other = tiny_llama(tmp_path / "b.gguf", 6, kind=T.F16, seed=1)
    weights = "0.75,0.25" if method == "linear" else "0.25"
    out = tmp_path / "out.gguf"
    code, _, err = run("blend", "--method", method, "--weights", weights, model, other, out)
    assert code == 0, err
    a, b, found = tensors(model), tensors(other), tensors(out)
    assert list(found) == sorted(found, key=list(found).index)
    for name, values in a.items():
        first, second = 0.75, 0.25
        if method == "slerp":
            cosine = (values * b[name]).sum() / np.sqrt((values**2).sum() * (b[name] ** 2).sum())
            if cosine < 0.9995:
                angle = np.arccos(cosine)
                first, second = np.sin(np.array([0.75, 0.25]) * angle) / np.sin(angle)
        np.testing.assert_allclose(
            found[name], first * values + second * b[name], rtol=1e-3, atol=1e-6
        )


def test_task_arithmetic_restores_a_model(run: Run, model: Path, tmp_path: Path) -> None:
    other, out = tiny_llama(tmp_path / "b.gguf", 6, kind=T.F16, seed=1), tmp_path / "out.gguf"
    arguments = ("--method", "task-arithmetic", "--base", model, "--weights", "1")
    assert run("blend", *arguments, other, out)[0] == 0
    for name, values in tensors(out).items():
        np.testing.assert_array_equal(values, tensors(other)[name])


def test_blend_of_some_layers(run: Run, model: Path, tmp_path: Path) -> None:
    other, out = tiny_llama(tmp_path / "b.gguf", 6, kind=T.F16, seed=1), tmp_path / "out.gguf"
    assert run("blend", "--layers", "2-3", model, other, out)[0] == 0
    before, after = tensors(model), tensors(out)
    changed = {n for n in before if (before[n] != after[n]).any()}
    assert {n.split(".")[1] for n in changed} == {"2", "3"}


def tokens(*names: str) -> Callable[[GGUFWriter], None]:
    return lambda writer: writer.add_token_list(list(names))


def test_unlike_models_are_refused(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    longer = tiny_llama(tmp_path / "longer.gguf", 7, kind=T.F16)
    code, _, err = run("blend", model, longer, out)
    assert code == 1
    assert "longer.gguf: blk.6" in err.replace("\n", " ") and "different shapes" in err
    words = [tiny_llama(tmp_path / f"{w}.gguf", 6, kind=T.F16, meta=tokens("a", w)) for w in "bc"]
    code, _, err = run("blend", *words, out)
    assert code == 1
    assert "different tokenizers: expected entry 1 'b', found entry 1 'c'" in err
    assert not out.exists()


def test_models_of_other_architectures(run: Run, model: Path, tmp_path: Path) -> None:
    """Also where the first has more layers, which the second then lacks."""
    longer = ROOT / "models" / "tiny-qwen3" / "tiny-qwen3.gguf"
    _, _, err = run("blend", longer, model, tmp_path / "out.gguf")
    assert "different architectures: expected qwen3, found llama" in err


def test_a_recipe_that_blends_takes_all_its_models(run: Run, model: Path, tmp_path: Path) -> None:
    other, recipe = tiny_llama(tmp_path / "b.gguf", 6, kind=T.F16, seed=1), tmp_path / "r.yaml"
    recipe.write_text("- blend: {models: 2, method: slerp, weights: 0.3}\n- delete: 3\n")
    out, again = tmp_path / "out.gguf", tmp_path / "again.gguf"
    assert run("apply", recipe, model, other, out)[0] == 0
    assert run("replay", out, model, other, again)[0] == 0
    for wrong in ((model,), (model, other, other)):
        code, _, err = run("apply", recipe, *wrong, tmp_path / "x.gguf")
        assert code == 1 and f"recipe takes: expected 2, found {len(wrong)}" in err


def test_equal_weights_give_the_mean(run: Run, model: Path, tmp_path: Path) -> None:
    other, recipe = tiny_llama(tmp_path / "b.gguf", 6, kind=T.F16, seed=1), tmp_path / "r.yaml"
    mean, given, summed, again = (tmp_path / f"{n}.gguf" for n in range(4))
    recipe.write_text("- blend: {models: 2, method: linear, weights: [1, 1], normalize: false}\n")
    assert run("blend", model, other, mean)[0] == 0
    assert run("blend", "--weights", "1,1", model, other, given)[0] == 0
    assert run("blend", "--weights", "1,1", "--no-normalize", model, other, summed)[0] == 0
    assert run("apply", recipe, model, other, again)[0] == 0
    a, b = tensors(model), tensors(other)
    for name, values in tensors(given).items():
        np.testing.assert_array_equal(values, tensors(mean)[name])
        np.testing.assert_allclose(values, (a[name] + b[name]) / 2, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(tensors(summed)[name], a[name] + b[name], rtol=1e-3, atol=1e-7)
        np.testing.assert_array_equal(tensors(summed)[name], tensors(again)[name])
    code, _, err = run("blend", "--weights", "1,-1", model, other, tmp_path / "x.gguf")
    assert code == 1 and "--no-normalize" in err and not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(("kind", "version"), [(T.Q8_0, 2), (T.F16, None)])
def test_computed_quantized_tensors_get_a_version(
    run: Run, tmp_path: Path, kind: T, version: int | None
) -> None:
    """The value that ggml's quantizer writes: GGML_QNT_VERSION."""
    source = tiny_llama(tmp_path / "in.gguf", 3, kind=kind)
    for number, command in enumerate(
        (("merge", "--layers", "1-2", "--method", "mean"), ("delete", "--layer", "1"))
    ):
        out = tmp_path / f"{number}.gguf"
        assert run(*command, source, out)[0] == 0
        field = GGUFReader(out).fields.get("general.quantization_version")
        computes = command[0] == "merge" and version is not None
        assert (field is None) != computes
        if field is not None:
            assert field.contents() == version and field.types == [GGUFValueType.UINT32]


def test_wrong_bases(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert "ties needs --base" in run("blend", "--method", "ties", model, model, out)[2]
    assert "linear takes no --base" in run("blend", "--base", model, model, model, out)[2]
    assert run("blend", model)[0] == 2
    assert run("blend", "--weights", "a,b", model, model, out)[0] == 2


def test_prune_counts_exactly(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    code, text, err = run("prune", "--sparsity", "0.3", "--json", model, out)
    assert code == 0, err
    result = json.loads(text)
    found, before = tensors(out), tensors(model)
    chosen = [t["tensor"] for t in result["tensors"]]
    assert {n.rsplit(".", 2)[1] for n in chosen} == {
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    }
    weights = np.concatenate([before[n].ravel() for n in chosen])
    zeros = np.concatenate([found[n].ravel() == 0 for n in chosen])
    assert zeros.sum() == round(0.3 * weights.size) == sum(t["zeros"] for t in result["tensors"])
    assert np.abs(weights[zeros]).max() <= np.abs(weights[~zeros]).min()
    for name in set(before) - set(chosen):
        np.testing.assert_array_equal(found[name], before[name])
    assert result["sparsity"] == pytest.approx(0.3, abs=1e-5)


def test_prune_in_a_recipe_is_the_command(run: Run, model: Path, tmp_path: Path) -> None:
    one, same, again, recipe = (tmp_path / n for n in ("1.gguf", "2.gguf", "3.gguf", "r.yaml"))
    recipe.write_text("- prune: {sparsity: 0.3}\n")
    assert run("prune", "--sparsity", "0.3", model, one)[0] == 0
    code, _, err = run("apply", recipe, model, same)
    assert code == 0 and "30.00% of the weights of 42 pruned tensors are zero" in err
    assert run("replay", same, model, again)[0] == 0
    assert one.read_bytes() == same.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("largest", [False, True])
def test_prune_counts_over_the_new_stack(
    run: Run, model: Path, tmp_path: Path, largest: bool
) -> None:
    """Deleted layers do not count, copies do, and a second prune sees what the first left."""
    recipe, before, out = tmp_path / "r.yaml", tmp_path / "before.gguf", tmp_path / "out.gguf"
    steps = [
        "- delete: 0",
        "- duplicate: {layer: 1, times: 2}",
        "- bridge: {layer: 4, at: 1, scale: 0.5}",
    ]
    recipe.write_text("\n".join(steps))
    assert run("apply", recipe, model, before)[0] == 0
    flag = str(largest).lower()
    steps.append(f"- prune: {{sparsity: 0.37, only: ffn_, largest: {flag}}}")
    steps.append("- prune: {sparsity: 0.2, only: 'ffn_(up|down).weight'}")
    recipe.write_text("\n".join(steps))
    code, _, err = run("apply", recipe, model, out)
    assert code == 0, err
    want, found = tensors(before), tensors(out)
    for pattern, share, most in (("ffn_", 0.37, largest), ("ffn_up|ffn_down", 0.2, False)):
        names = [n for n in want if re.search(f"({pattern}).*weight", n)]
        score = np.concatenate([np.abs(want[n]).ravel() for n in names])
        order = np.argsort(-score if most else score, kind="stable")[: round(share * score.size)]
        score[order] = 0
        parts = np.split(score, np.cumsum([want[n].size for n in names])[:-1])
        for name, part in zip(names, parts, strict=True):
            want[name] = np.where(part.reshape(want[name].shape) == 0, 0, want[name])
    for name, values in want.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_prune_says_what_it_weighs(run: Run, model: Path, tmp_path: Path) -> None:
    err = run("prune", "--sparsity", "0.3", model, tmp_path / "same.gguf")[2]
    assert re.search(r"same.gguf: threshold 0\.\d+; .* as before; zeros do not shrink", err)
    err = run("prune", "--pattern", "2:4", "--out-type", "f32", model, tmp_path / "f32.gguf")[2]
    assert "threshold" not in err and " → " in err


def test_prune_table_and_warning(run: Run, model: Path, tmp_path: Path) -> None:
    code, text, err = run(
        "prune", "--sparsity", "0.5", "--largest", "--scope", "row", model, tmp_path / "o.gguf"
    )
    assert code == 0, err
    assert "blk.*.ffn_down.weight" in text
    assert "0.5000" in text.splitlines()[-1]
    assert "zeros do not shrink a GGUF" in err
    code, text, _ = run(
        "prune", "--sparsity", "0.5", "--list", "--only", "attn_q", model, tmp_path / "p.gguf"
    )
    assert code == 0
    assert sum("blk." in line for line in text.splitlines()) == 6


def test_prune_measures_what_the_type_can_hold(run: Run, tmp_path: Path) -> None:
    """q4_1 stores a minimum and a step: what was zero is rarely so after encoding."""
    source = tiny_llama(tmp_path / "q.gguf", 3, kind=T.Q4_1)
    code, text, err = run(
        "prune", "--sparsity", "0.4", "--scope", "tensor", "--json", source, tmp_path / "o.gguf"
    )
    assert code == 0, err
    result = json.loads(text)
    found = tensors(tmp_path / "o.gguf")
    for row in result["tensors"]:
        assert row["zeros"] == (found[row["tensor"]] == 0).sum()
    assert result["sparsity"] < 0.39
    assert "asked for 0.4, but q4_1 has few exact zeros" in err


def test_prune_refuses(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert "no tensor to prune" in run("prune", "--sparsity", "0.5", "--only", "xyz", model, out)[2]
    assert (
        "not a regular expression" in run("prune", "--sparsity", ".5", "--only", "(", model, out)[2]
    )
    assert (
        "needs an imatrix"
        in run("prune", "--sparsity", ".5", "--score", "wanda", "--scope", "row", model, out)[2]
    )
    assert run("prune", "--sparsity", "50", model, out)[0] == 2
    assert "either a sparsity or a pattern" in run("prune", model, out)[2]
    assert "groups of 7" in run("prune", "--pattern", "3:7", "--dry-run", model, out)[2]
    wanda = ("--score", "wanda", "--imatrix", tmp_path / "none.gguf")
    assert (
        "none.gguf: cannot be read"
        in run("prune", "--sparsity", ".5", "--dry-run", *wanda, model, out)[2]
    )
    assert "needs an imatrix" in run("prune", "--sparsity", ".5", *wanda[:2], model, out)[2]
    assert not out.exists()


def test_wanda_weighs_by_the_inputs(run: Run, model: Path, tmp_path: Path) -> None:
    from ggsurgery.ggufio.imatrix import Entry, Imatrix, write_imatrix

    rng, before = np.random.default_rng(0), tensors(model)
    names = [n for n in before if n.endswith("ffn_up.weight")]
    sums = {n: rng.uniform(0.01, 9, (1, 64)).astype(np.float32) for n in names}
    entries = {n: Entry(s, np.array([7])) for n, s in sums.items()}
    write_imatrix(Imatrix(entries), tmp_path / "i.gguf")
    wanda = ("--score", "wanda", "--imatrix", tmp_path / "i.gguf", "--only", "ffn_up")
    for scope in ("row", "tensor", "global"):
        out = tmp_path / f"{scope}.gguf"
        code, _, err = run("prune", "--sparsity", "0.5", "--scope", scope, *wanda, model, out)
        assert code == 0, err
        found = tensors(out)
        norms = {n: np.sqrt(sums[n] / np.float32(7)) for n in names}
        scores = {n: np.abs(before[n]).astype(np.float32) * norms[n] for n in names}
        if scope == "row":
            for n in names:
                assert ((found[n] == 0).sum(axis=1) == 32).all()
                limit = np.sort(scores[n], axis=1)[:, 31:32]
                assert (
                    scores[n][found[n] == 0]
                    <= np.broadcast_to(limit, scores[n].shape)[found[n] == 0]
                ).all()
        groups = [[n] for n in names] if scope != "global" else [names]
        for group in groups if scope != "row" else []:
            score = np.concatenate([scores[n].ravel() for n in group])
            gone = np.concatenate([found[n].ravel() == 0 for n in group])
            assert gone.sum() == score.size // 2
            assert score[gone].max() <= score[~gone].min()


def test_the_imatrix_is_recorded_by_its_name(run: Run, model: Path, tmp_path: Path) -> None:
    from ggsurgery.ggufio.imatrix import Entry, Imatrix, write_imatrix

    entry = Entry(np.ones((1, 64), np.float32), np.array([1]))
    (tmp_path / "folder").mkdir()
    out, again, norms = (tmp_path / "folder" / n for n in ("out.gguf", "again.gguf", "i.gguf"))
    write_imatrix(Imatrix({"blk.0.ffn_up.weight": entry}), norms)
    wanda = ("--scope", "row", "--score", "wanda", "--imatrix", norms, "--only", r"\.0\.ffn_up")
    assert run("prune", "--sparsity", "0.5", *wanda, model, out)[0] == 0
    assert str(tmp_path).encode() not in out.read_bytes()
    assert '"imatrix":"i.gguf"' in run("meta", "get", "ggsurgery.recipe", out)[1]
    code, _, err = run("replay", out, model, again)  # found beside the file
    assert code == 0, err
    assert out.read_bytes() == again.read_bytes()


def test_blends_refused_without_a_traceback(run: Run, tmp_path: Path) -> None:
    """Token types may be written as int32 or uint32: with equal values it is one tokenizer."""

    def tokens(kind: GGUFValueType, big: bool = False, last: int = 1) -> Path:
        def meta(writer: GGUFWriter) -> None:
            writer.add_key_value(
                "tokenizer.ggml.token_type", [1] * 63 + [last], GGUFValueType.ARRAY, kind
            )

        name = f"{kind.name}{big}{last}.gguf"
        return tiny_llama(tmp_path / name, 2, big_endian=big, meta=meta)

    ours, out = tokens(GGUFValueType.INT32), tmp_path / "out.gguf"
    err = run("blend", ours, tokens(GGUFValueType.INT32, big=True), out)[2]
    assert "INT32True1.gguf: byte order differs from the other source" in err
    err = run("blend", ours, tokens(GGUFValueType.UINT32, last=2), out)[2]
    assert "different tokenizers: expected entry 63 1, found entry 63 2" in err
    code, _, err = run("blend", ours, tokens(GGUFValueType.UINT32), out)
    assert code == 0, err


def test_the_file_type_is_that_of_most_weights(run: Run, tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        out = tmp_path / "out.gguf"
        code, _, err = run(*arguments, "--force", source, out)
        assert code == 0, err
        return run("meta", "get", "general.file_type", out)[1].strip()

    kind = LlamaFileType.MOSTLY_Q8_0
    source = tiny_llama(tmp_path / "in.gguf", 4, kind=T.Q8_0, meta=lambda w: w.add_file_type(kind))
    prune = ("prune", "--sparsity", "0.5")
    assert said(*prune) == said("delete", "--layer", "1") == str(int(LlamaFileType.MOSTLY_Q8_0))
    assert said(*prune, "--out-type", "f16") == str(int(LlamaFileType.MOSTLY_F16))
    assert said(*prune, "--out-type", "f32") == str(int(LlamaFileType.ALL_F32))
    assert said(*prune, "--out-type", "q4_0") == str(int(LlamaFileType.MOSTLY_Q4_0))
    one = ("merge", "--layers", "1-3", "--out-type", "f16")
    assert said(*one) == str(int(LlamaFileType.MOSTLY_Q8_0))  # one layer of two


def test_only_index_tensors_to_prune(run: Run, tmp_path: Path) -> None:
    raw = Raw(
        [kv_text("general.architecture", "llama"), kv_u32("llama.block_count", 1)],
        [gguf_tensor("blk.0.table", (8,), T.I32, 0)],
        bytes(32),
    )
    model, out = raw.write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    code, _, err = run("prune", "--sparsity", "0.5", "--only", "table", model, out)
    assert (code, "no tensor to prune" in err) == (1, True)
    assert not out.exists()


def test_an_out_type_without_a_computed_tensor_is_said(
    run: Run, model: Path, tmp_path: Path
) -> None:
    said = "warning: --out-type: nothing is computed; the tensors keep their types"
    plain = ("duplicate", "--layer", "1", "--out-type", "f32", model)
    assert said in run(*plain, tmp_path / "a.gguf")[2]
    assert said not in run(*plain[:-1], "--scale", "0.5", model, tmp_path / "b.gguf")[2]


def test_wanda_with_the_imatrix_of_another_model(run: Run, model: Path, tmp_path: Path) -> None:
    from ggsurgery.ggufio.imatrix import Entry, Imatrix, write_imatrix

    entry = Entry(np.ones((1, 32), np.float32), np.array([1]))
    write_imatrix(Imatrix({"blk.0.ffn_up.weight": entry}), tmp_path / "i.gguf")
    wanda = ("--scope", "row", "--score", "wanda", "--imatrix", tmp_path / "i.gguf")
    out = tmp_path / "out.gguf"
    text = run("prune", "--sparsity", "0.5", *wanda, "--only", r"0\.ffn_up", model, out)[2]
    assert "model of other shapes" in text
    text = run("prune", "--sparsity", "0.5", *wanda, "--only", r"1\.ffn_up", model, out)[2]
    assert "the imatrix does not know the tensor" in text
    assert not out.exists()
