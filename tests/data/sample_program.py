"""A program of a user, checked by mypy --strict: every main job, without Any."""

from __future__ import annotations

from pathlib import Path

from ggsurgery import (
    BenchRequest,
    ChoicesRequest,
    DistilRequest,
    EvaluateRequest,
    GGSurgeryError,
    HealRequest,
    ImatrixRequest,
    InfluenceRequest,
    KlRequest,
    LacoRequest,
    PerplexityRequest,
    PruneDepthRequest,
    QuantizeRequest,
    ReleaseRequest,
    ScanRequest,
    SearchRequest,
    SurgeryRequest,
)


def show(done: int, total: int) -> None:
    print(f"{done} of {total}")


def main(model: str, text: Path) -> None:
    surgery = SurgeryRequest(files=[model], out="cut.gguf", operations=[{"delete": {"layer": "1"}}])
    warnings: list[str] = surgery.check()
    cut: Path = surgery.run(show).path
    value: float = PerplexityRequest(file=cut, text=text, windows=2).run().value
    kl: float = KlRequest(base=model, file=cut, text=text).run(show).scores[0].value
    chance: float = ChoicesRequest(file=cut, data="q.jsonl").run().chance
    bench: int = len(BenchRequest(file=cut, tasks=["piqa"]).run().scores)
    score: float = EvaluateRequest(file=cut, baseline=model).run().score.total
    entries: int = len(ImatrixRequest(file=cut, out="m.dat", text=text).run().matrix.entries)
    made = QuantizeRequest(file=cut, out="q8.gguf", type="Q8_0").run().results[0]
    size: int = made.n_bytes
    first: int = InfluenceRequest(file=model, text=text).run().influence.ranked()[0]
    layers: int = LacoRequest(file=model, text=text).run().laco.n_layers
    chosen: tuple[int, ...] = PruneDepthRequest(file=model, text=text, layers=2).run().choice.layers
    trials: int = len(ScanRequest(file=model, text=text, metric="kl").run().scan.trials)
    tried: int = SearchRequest(file=model, study="s", text=text).run().outcome.tried
    files: tuple[Path, ...] = ReleaseRequest(files=["q8.gguf"], out="bundle").run().bundle.files
    print(warnings, value, kl, chance, bench, score, entries, size, first, layers, chosen)
    healed = HealRequest(file=model, text=text, layer="1").run(show).healed
    steps: str = healed.recipe.describe()
    trained = DistilRequest(base=model, cut=cut, text=text).run(show).trained
    after: float = trained.after
    print(trials, tried, files, steps, after)


try:
    main("in.gguf", Path("text.txt"))
except GGSurgeryError as error:
    print(error)
