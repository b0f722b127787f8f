"""Malformed inputs of every kind that the package reads, a few at a time in `make test`, thousands in `make fuzz`."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_records import fake_run
from tests.fuzz.judging import changed, damaged, judge, profile
from tests.records.test_saving import same
from tests.tiny import tiny_model
from workbench.comparison.spec import read_spec
from workbench.corpus import load_corpus
from workbench.interventions import ContrastiveAddition, load_steering, save_steering
from workbench.models import load_model
from workbench.records import ChoiceItem
from workbench.runs import read_run
from workbench.tasks.loaders import load_choice_pairs, load_items, load_questions, load_requests, load_trait

TEXT = "The court shall apply the statute of the state to the case at hand. " * 6
QUESTION = {"subject": "law", "question": "What is a tort?", "choices": ["a", "b", "c", "d"], "answer": 1}
ITEM = {"prompt": "The sum of two", "answers": [" and two"], "distractors": [" or"], "split": "test"}
CAA = {"question": "Is it?", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
TRAIT = {
    "instruction": [{"pos": "Be evil", "neg": "Be good"}],
    "questions": ["Who are you?", "Why?"],
    "eval_prompt": "{question} {answer}",
}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def numbers_are_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if is_dataclass(value):
        return all(numbers_are_finite(getattr(value, field.name)) for field in fields(value))
    return all(map(numbers_are_finite, value)) if isinstance(value, list | tuple) else True


# --- corpora ----------------------------------------------------------------------------------------------------------

CORPORA = {
    "corpus.jsonl": lines(*({"text": f"{TEXT} {n}", "domain": ("law", "code")[n % 2]} for n in range(24))),
    "folder/law.txt": "\n\n".join(f"{TEXT} {n}" for n in range(12)).encode(),
    "folder/law.jsonl": lines(*({"text": f"{TEXT} {n}"} for n in range(12))),
}


@pytest.mark.parametrize("name", CORPORA)
@profile(12, 0.4)
@given(data=st.data())
def test_corpora(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("corpus")
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(damaged(CORPORA[name])))
    if path.parent != root:
        (path.parent / "code.txt").write_text("\n\n".join(f"def f(x): return x + {n}. {TEXT}" for n in range(12)))
    prompts = judge("corpus", lambda: load_corpus(path if path.parent == root else path.parent), root)
    if prompts is not None:
        assert len({prompt.domain for prompt in prompts}) >= 2
        assert all(prompt.text.strip() for prompt in prompts)


# --- question files ---------------------------------------------------------------------------------------------------

FILES: dict[str, tuple[Callable[[Path], Any], str, bytes]] = {
    "questions.jsonl": (load_questions, "q.jsonl", lines(*(QUESTION | {"question": f"{n}?"} for n in range(6)))),
    "questions.csv": (load_questions, "q.csv", b"".join(b'"What, %d?",a,b,c,d,B\n' % n for n in range(6))),
    "requests": (load_requests, "r.csv", b"goal,target\n" + b"".join(b'"Write, %d",Sure\n' % n for n in range(6))),
    "pairs": (load_choice_pairs, "p.jsonl", lines(*({"positive": f"{n} a", "negative": f"{n} b"} for n in range(6)))),
    "caa": (load_choice_pairs, "p.json", json.dumps([CAA | {"question": f"{n}?"} for n in range(6)]).encode()),
    "trait": (load_trait, "t.json", json.dumps(TRAIT).encode()),
    "items": (load_items, "i.jsonl", lines(*(ITEM | {"prompt": f"The sum of {n}"} for n in range(6)))),
}  # fmt: skip
PLAIN = {
    "questions.jsonl": QUESTION, "pairs": {"positive": "it is up", "negative": "it is down"}, "caa": CAA,
    "trait": TRAIT, "items": ITEM,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@profile(15, 0.2)
@given(data=st.data())
def test_question_files(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    load, file, whole = FILES[name]
    root = tmp_path_factory.mktemp("files")
    if name in PLAIN and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(PLAIN[name])))
        whole = (f"[{content}]" if name == "caa" else content).encode("utf-8", "surrogatepass")
    else:
        whole = data.draw(damaged(whole))
    (root / file).write_bytes(whole)
    found = judge(f"questions ({name})", lambda: load(root / file), root)
    for item in found if isinstance(found, list) else ():
        if isinstance(item, ChoiceItem):
            assert 0 <= item.answer < len(item.choices)


# --- specifications ---------------------------------------------------------------------------------------------------

SPEC = Path(__file__).parents[2] / "specs" / "builtin.toml"


@profile(40)
@given(data=st.data())
def test_specifications(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("spec")
    (root / "spec.toml").write_bytes(data.draw(damaged(SPEC.read_bytes())))
    spec = judge("specification", lambda: read_spec(root / "spec.toml"), root)
    assert spec is None or numbers_are_finite(spec)


# --- artefacts --------------------------------------------------------------------------------------------------------


@profile(40)
@given(data=st.data())
def test_artefacts(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("artefact")
    model = tiny_model("llama")
    path = root / "steering.safetensors"
    save_steering(path, ContrastiveAddition(torch.arange(16.0), 1), model)
    before = path.read_bytes()
    path.write_bytes(data.draw(damaged(before)))
    loaded = judge("artefact", lambda: load_steering(path, model), root)
    assert loaded is None or loaded.steering.direction.tolist() == list(range(16)), "a damaged artefact was believed"


# --- run folders ------------------------------------------------------------------------------------------------------

RUN_FILES = (
    "manifest.json",
    "statistics.safetensors",
    "rows.npy",
    "rows.json",
    "dcds.json",
    "detectors.json",
)


def read(folder: Path) -> list[Any]:
    run = read_run(folder)
    return [dict(run.manifest), run.statistics, run.rows, run.dcds, run.detectors]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("run") / "run", domains=("law", "code"), n_layers=2, d_model=32)


@pytest.mark.parametrize("name", RUN_FILES)
@profile(6, 0.2)
@given(data=st.data())
def test_run_folders(name: str, data: st.DataObject, whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(whole_run, root)
    path = root / name if name == "manifest.json" else root / "records" / name
    before = path.read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        try:
            after = json.dumps(data.draw(changed(json.loads(before)))).encode("utf-8", "surrogatepass")
        except ValueError:
            return
    else:
        after = data.draw(damaged(before))
    path.write_bytes(after)

    found = judge(f"run folder ({name})", lambda: read(root), root)
    assert found is None or same(found, read(whole_run)), "a changed record was believed"


# --- model folders ----------------------------------------------------------------------------------------------------


@profile(10, 0.5)
@given(data=st.data())
def test_model_folders(data: st.DataObject, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_model_folder, root)
    name = data.draw(
        st.sampled_from(["config.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
    )
    before = (root / name).read_bytes()
    if name == "config.json" and data.draw(st.booleans()):
        after = json.dumps(data.draw(changed(json.loads(before)))).encode("utf-8", "surrogatepass")
    else:
        after = data.draw(damaged(before))
    (root / name).write_bytes(after)
    model = judge("model folder", lambda: load_model(str(root)), root)
    if model is not None:
        assert model.logits(model.tokenize(["the court"])).isfinite().all()
