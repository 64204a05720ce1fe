"""A report holds the figures it was given, in three forms, and no markup of strangers."""

from __future__ import annotations

import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

import ggsurgery
from ggsurgery.cli import cli
from ggsurgery.errors import FormatError, OutputError
from ggsurgery.files.installation import MissingExtraError
from ggsurgery.find.figures import figures_of, scan_figure
from ggsurgery.find.plot import check_plot, save_plot
from ggsurgery.measure.results.result_files import load_results, load_with_base, merge_results
from ggsurgery.measure.results.score import Score
from ggsurgery.measure.suite.result import compare_surgery
from ggsurgery.present.figure import Figure, Level, Point, axis, round_step
from ggsurgery.present.svg import draw
from ggsurgery.report.compute import compute_report
from ggsurgery.report.html import render_html
from ggsurgery.report.markdown import render_markdown
from tests._needs import needs_package
from tests.report.samples import HOSTILE, influence, perplexity_scan, scan, search, three_models


class Checker(HTMLParser):
    """Collects what could load something from elsewhere, and checks that tags are closed."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [f"{tag} {k}" for k, _ in attrs if k in ("src", "href", "onload")]
        if tag in ("script", "iframe", "link"):
            self.outside.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_self_contained_and_escapes_names():
    page = render_html(compute_report(three_models(), title=HOSTILE, plots=[scan_figure(scan())]))
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.outside == []
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.S):
        ET.fromstring(drawing)  # well-formed
    assert page.count("<svg") == 2  # quality against size, accuracy against removed layer


def test_figures_errors_and_verdicts_are_on_the_page():
    models = three_models()
    page = render_html(compute_report(models))
    acc = models[1].score("hellaswag acc_norm")
    assert acc is not None and acc.stderr is not None
    assert f"{acc.value:.4f} ± {acc.stderr:.4f}" in page
    assert "n = 400" in page
    assert "Near random" in page
    assert "not distinguishable at n = " in page
    assert models[1].verdict is not None and models[1].verdict in page
    assert "not built: layers lose their phase" in page


def test_markdown_has_the_same_figures_and_no_broken_tables():
    text = render_markdown(compute_report(three_models(), title=HOSTILE))
    assert "\\<script\\>" in text
    acc = three_models()[1].score("hellaswag acc_norm")
    assert acc is not None and f"{acc.value:.4f}" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_scans_leave_gaps_for_candidates_that_failed():
    series = scan_figure(scan())
    assert [p.x for p in series.points] == [i for i in range(30) if i != 12]
    assert [(v.y, v.label) for v in series.levels] == [(0.43, "uncut")]
    with pytest.raises(FormatError, match=r"field base\.value: expected a number, found nothing"):
        scan_figure({**scan(), "base": {}})
    assert series.title == "choices mmlu against the removed layer"


def test_a_scan_is_drawn_by_its_paired_ratio_with_the_error_of_the_pairs():
    document = perplexity_scan()
    figure = scan_figure(document)
    row, point = document["rows"][7], figure.points[7]
    assert point.y == pytest.approx(row["value"] / document["base"]["value"])
    assert point.stderr == pytest.approx(point.y * row["difference_stderr"])
    assert point.stderr < 0.1 * row["stderr"] / document["base"]["value"]
    assert [(v.y, v.stderr) for v in figure.levels] == [(1.0, None)]
    assert figure.y_label == "perplexity ratio to uncut"
    assert figure.note == "Less is better. Bars: one standard error of the pairs."
    rows = [{**row, "difference": -0.1, "difference_stderr": 0.02} for row in scan()["rows"]]
    base = {**scan()["base"], "chance": 0.25}
    figure = scan_figure({**scan(), "rows": rows, "base": base})
    assert {(p.y, p.stderr) for p in figure.points} == {(-0.1, 0.02)}
    assert [(v.y, v.label) for v in figure.levels] == [
        (0.0, "uncut"),
        (pytest.approx(0.25 - 0.43), "guessing"),
    ]


def test_influence_and_search_are_drawn_from_what_they_print():
    block, spans = figures_of(influence()) or ()
    assert [p.marked for p in block.points] == [False, False, True, False, False, False]
    assert block.y_axis().log and "layer 2 makes the attention sink" in block.note
    assert [(p.x, p.label) for p in spans.points if p.named] == [(3, "3-5")]
    assert [p.marked for p in spans.points] == [True, True, True, False]
    (both,) = figures_of(search()) or ()
    assert [(p.x, p.y) for p in both.line()] == [(120, 24.0), (130, 22.0), (140, 21.0)]
    (one,) = figures_of(search(None)) or ()
    assert len(one.points) == 4 and one.line() == []
    assert figures_of({"ggsurgery": "results"}) is None and figures_of([]) is None


def test_one_rule_makes_an_axis_logarithmic():
    """The page, the SVG file and matplotlib ask the figure; from a ratio of 10 on."""
    for top, log in ((9.9, False), (10.1, True)):
        points = (Point(0, 1.0), Point(1, top))
        figure = Figure("t", "x", "y", points, positive=True)
        assert figure.y_axis().log is log
        assert ("log scale" in draw(figure)) is log
        assert not replace(figure, positive=False).y_axis().log
    root = Path(ggsurgery.__file__).parent
    deciding = [p.name for p in root.rglob("*.py") if "set_yscale" in p.read_text("utf-8")]
    assert deciding == ["raster.py"]


def test_only_png_and_pdf_need_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    check_plot(tmp_path / "a.svg")
    with pytest.raises(MissingExtraError, match=r"a plot as \.png needs the package matplotlib"):
        check_plot(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [".svg", ".png", ".pdf"])
def test_pictures_of_every_result(tmp_path, kind):
    if kind != ".svg":
        needs_package("matplotlib", extra="plot")
    for n, document in enumerate((scan(), perplexity_scan(), influence(), search())):
        path = tmp_path / f"{n}{kind}"
        save_plot(document, path)
        data = path.read_bytes()
        assert data.startswith({".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}[kind])
        if kind == ".svg":
            drawn = ET.fromstring(data)
            assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) > 3


def test_drawings_place_points_where_their_figures_are():
    series = Figure("t", "x", "y", (Point(0, 1.0, 0.5, "a"), Point(10, 3.0, None, "b")))
    root = ET.fromstring(draw(series))
    dots = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter("circle")]
    assert dots[0][0] < dots[1][0] and dots[0][1] > dots[1][1]  # right and up
    bars = [p for p in root.iter("path") if p.get("class") == "bar"]
    assert len(bars) == 1  # a figure without error has no bar
    assert [t.text for t in root.iter("title")] == ["t", "a: 1 ± 0.5", "b: 3"]
    assert "no finite figure" in draw(Figure("t", "x", "y", (Point(0, math.nan, None, "a"),)))


def test_one_ruinous_layer_does_not_flatten_the_others():
    points = tuple(Point(i, y, y / 5, str(i)) for i, y in enumerate([50_000.0, 30.0, 90.0, 270.0]))
    figure = Figure("t", "layer", "perplexity", points, (Level(25.0, "uncut"),), positive=True)
    drawing = draw(figure)
    ys = [float(c.get("cy", "")) for c in ET.fromstring(drawing).iter("circle")]
    assert "log scale" in drawing
    # three times as much is one distance everywhere; places are rounded to 0.1
    assert ys[1] - ys[2] == pytest.approx(ys[2] - ys[3], abs=0.11) and ys[1] - ys[2] > 20
    assert "log scale" not in draw(replace(figure, points=points[1:3]))


def test_axes_have_round_ticks_within_their_span():
    found = axis([0.31, 0.47], 0, 100)
    assert found.ticks == pytest.approx([0.35, 0.4, 0.45])
    assert (round_step(0.3), round_step(20), round_step(0.07)) == (0.5, 20.0, 0.1)
    single = axis([5.0], 0, 100)
    assert single.low < 5 < single.high


def write(folder, name, document):
    path = folder / name
    path.write_text(json.dumps(document))
    return str(path)


def test_command_writes_three_forms_and_replaces_only_when_forced(tmp_path):
    files = [write(tmp_path, f"{r.model.name}.json", r.to_json()) for r in three_models()]
    files.append(write(tmp_path, "scan.json", scan()))
    run = CliRunner()
    for name in ("r.html", "r.md", "r.json"):
        done = run.invoke(cli, ["report", *files, "-o", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "r.json").read_text())
    assert [m["name"] for m in document["models"]] == ["base-8b", "cut-5-layers", "cut-15-layers"]
    assert len(document["plots"]) == 2
    for name in ("s.html", "s.md", "s.json"):  # a scan alone
        done = run.invoke(cli, ["report", files[-1], "-o", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        text = (tmp_path / name).read_text()
        assert "choices mmlu against the removed layer" in text and "## Models" not in text
    assert "0.2597 ± 0.0250" in (tmp_path / "s.md").read_text()
    again = run.invoke(cli, ["report", *files, "-o", str(tmp_path / "r.md")])
    assert isinstance(again.exception, OutputError)
    assert run.invoke(cli, ["report", *files, "-o", str(tmp_path / "r.pdf")]).exit_code == 2
    assert run.invoke(cli, ["report", *files, "-o", files[0], "--force"]).exception is not None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not JSON"),
        ("3", "not a result file"),
        ('{"ggsurgery": "results", "version": 9}', "another version: expected 1, found 9"),
        (
            '{"ggsurgery": "results", "version": 1, "model": {}}',
            r"field model\.name: expected a text",
        ),
        (
            '{"ggsurgery": "results", "version": 1, "model": {"name": "a", "file": "a"},'
            '"scores": [{}]}',
            r"field scores\[0\]\.metric: expected a text",
        ),
        ('{"results": {"hellaswag": 3}}', r"field results\.hellaswag: expected an object, found 3"),
        ('{"metric": "acc"}', "field value: expected a number, found nothing"),
    ],
)
def test_broken_result_files_are_named(tmp_path, document, message):
    path = tmp_path / "r.json"
    path.write_text(document)
    with pytest.raises(FormatError, match=rf"r\.json: .*{message}"):
        load_results(path)


def test_lm_eval_files_and_bare_scores_are_read(tmp_path):
    harness = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.1,
                "exact_match_stderr,strict-match": 0.03,
                "exact_match,flexible-extract": 0.2,
                "exact_match_stderr,flexible-extract": "N/A",
            }
        },
        "n-samples": {"gsm8k": {"original": 1319, "effective": 100}},
        "model_name": "m.gguf",
    }
    (found,) = load_results(write(tmp_path, "h.json", harness))
    assert [(s.label, s.value, s.stderr, s.n) for s in found.scores] == [
        ("gsm8k exact_match (strict-match)", 0.1, 0.03, 100),
        ("gsm8k exact_match (flexible-extract)", 0.2, None, 100),
    ]
    bare = Score("perplexity", 23.7, 0.2, 5, {"file": "m.gguf"}).to_json()
    merged = merge_results([found, *load_results(write(tmp_path, "p.json", bare))])
    assert [s.metric for s in merged[0].all_scores][-1] == "perplexity"
    assert len(merged) == 1


def test_a_baseline_comes_along_and_facts_fill_each_other(tmp_path):
    base, cut = three_models()[:2]
    both = write(tmp_path, "cut.json", {**cut.to_json(), "base": base.to_json()})
    found = load_with_base(both)
    assert [r.model.name for r in found] == [base.model.name, cut.model.name]
    assert [r.model.name for r in load_results(both)] == [cut.model.name]
    done = CliRunner().invoke(cli, ["compare", both])
    assert f"{cut.model.name} against {base.model.name}" in done.output
    assert "paired bootstrap" in done.output
    bare = Score("nll", 3.1, 0.2, 5, {"file": cut.model.file}).to_json()
    (merged,) = merge_results([*load_results(write(tmp_path, "p.json", bare)), cut])
    assert merged.model == cut.model


def test_suites_in_a_report_are_compared_by_the_paired_test():
    base, cut = three_models()[:2]
    rows = {r.label: r for r in compute_report([base, cut]).rows}
    wanted = {c.label: c.verdict for c in compare_surgery(base.suite, cut.suite)}
    for label in ("surgery", "surgery_facts"):
        cell = rows[label].cells[1]
        assert cell is not None and cell.verdict == wanted[label]


def test_results_survive_their_file(tmp_path):
    for item in three_models():
        (again,) = load_results(write(tmp_path, "r.json", item.to_json()))
        assert again.all_scores == item.all_scores
        assert again.model == item.model and again.verdict == item.verdict
