# pyright: strict
"""What a user writes, as a strict type checker sees it: `make check` reads this file, nobody runs it."""

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import workbench as wb
from workbench.records import Dimension, DimensionStatistics, PooledRows


def find(folder: str) -> list[Dimension]:
    model: wb.HookedModel = wb.load_model(folder, device="cpu", dtype="float32")
    prompts: list[wb.Prompt] = wb.load_corpus("builtin", domains=["law", "code"], seed=0)
    statistics, rows = wb.collect(model, prompts)
    kept: tuple[DimensionStatistics, PooledRows] = (statistics, rows)
    print(kept[0].domains, rows.where(split="test", domain="law").sum())
    return wb.find_dcds(rows, k=8, selection="discrimination")


def steer(model: wb.HookedModel, path: Path) -> list[str]:
    cds = wb.CDS.fit(model, ["the court"], ["the river"], layers=[1], dimensions=[3, 5])
    with wb.steer(model, cds, strength=2.0, scope="generated"):
        text: str = model.generate("The owner of the house", max_new_tokens=30)
    artefact = wb.load_steering(path, model)
    with wb.steer(model, artefact.steering, scope=artefact.scope):
        texts: list[str] = model.generate([text, "The court"], max_new_tokens=30)
    ids: list[list[int]] = model.generate(model.tokenize(texts, side="left"), max_new_tokens=3)
    logits, _ = model.run_with_cache("The court", names_filter="blocks.0.hook_resid_post")
    return [model.decode(row) for row in ids] + [str(logits.shape[-1])]


def own_model(name: str) -> wb.HookedModel:
    return wb.wrap(AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name))  # pyright: ignore


def figures(rows: PooledRows, statistics: DimensionStatistics) -> None:
    print(wb.dimensions.dcd_frame(wb.find_dcds(rows)).shape)  # pyright: ignore[reportUnknownMemberType]
    wb.figures.magnitude_figure(statistics)
