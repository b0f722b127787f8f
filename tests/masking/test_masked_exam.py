"""The masking table of an exam: against the plain model with hooks of its own, against sums by hand, and planned."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from tests.command import Command, command_line
from tests.conftest import WORDS
from workbench.comparison.spec import MaskingSpec, SpecError, read_masking_spec
from workbench.masking.exam import MaskedAccuracy, letter_items, masked_exam_table, measure_masked_exam, n_questions
from workbench.masking.measure import mask_choices
from workbench.models import HookedModel, load_model
from workbench.records import ChoiceItem, Split
from workbench.tasks.files import exam_task
from workbench.tasks.loaders import load_questions
from workbench.tasks.questions import QuestionTask

SPEC = Path(__file__).parents[2] / "specs" / "gemma-2-2b-it-masking.toml"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def gemma(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of Gemma-2's shape in a folder, two layers and width 16, with a chat format."""
    folder = tmp_path_factory.mktemp("models") / "tiny-gemma"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        query_pre_attn_scalar=6,
        sliding_window=8,
        max_position_embeddings=160,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(gemma: Path) -> HookedModel:
    return load_model(str(gemma))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    rows = []
    for subject in ("law", "cells"):
        for index in range(10):
            words = generator.choice(WORDS, size=6, replace=False).tolist()
            rows.append(
                {"subject": subject, "question": " ".join(words[:2]), "choices": words[2:], "answer": index % 4}
            )
    path = tmp_path_factory.mktemp("questions") / "exam.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tasks(model: HookedModel, questions: Path) -> dict[str, QuestionTask]:
    loaded = load_questions(questions)
    return {subject: exam_task(model, loaded, subject) for subject in ("law", "cells")}


def lettered(model: HookedModel, questions: Path, subject: str, split: Split) -> list[ChoiceItem]:
    return letter_items(exam_task(model, load_questions(questions), subject), subject, split)


def letter_scores(model: HookedModel, asked: list[ChoiceItem], dimensions: list[int]) -> np.ndarray:
    return mask_choices(model, asked, dimensions, letter_lead="").masked


def by_hand(folder: Path, prompt: str, dimension: int | None = None) -> list[float]:
    """Logits of the letters from the plain model, one question at a time, with the dimension zero after every block."""
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def zero(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, :, dimension] = 0
        return output

    for layer in plain.model.layers if dimension is not None else ():
        layer.register_forward_hook(zero)
    ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        logits = plain(torch.tensor([ids])).logits[0, -1]
    return [float(logits[tokenizer.convert_tokens_to_ids(letter)]) for letter in "ABCD"]


def test_letters_under_a_mask_are_those_of_the_plain_model(model: HookedModel, gemma: Path, questions: Path) -> None:
    asked = lettered(model, questions, "law", "test")[:2]
    scores = letter_scores(model, asked, [3, 11])
    expected = np.array([[by_hand(gemma, item.prompt, dimension) for item in asked] for dimension in (3, 11)])
    differences, wanted = (values[..., 1:] - values[..., :1] for values in (scores, expected))
    np.testing.assert_allclose(differences, wanted, rtol=1e-3, atol=1e-4)  # log-probabilities against logits
    assert np.abs(scores[0] - scores[1]).max() > 0.1


def test_an_exam_is_scored_by_the_letter_that_the_plain_model_prefers(
    model: HookedModel, gemma: Path, questions: Path
) -> None:
    task = exam_task(model, load_questions(questions), "cells")
    best = [int(np.argmax(by_hand(gemma, one.prompt))) for one in lettered(model, questions, "cells", "test")]
    answers = [one.answer for one in lettered(model, questions, "cells", "test")]
    scores = task.score(model, "test")
    assert scores.values["letter accuracy"].tolist() == [float(a == b) for a, b in zip(best, answers, strict=True)]


def test_dimensions_are_ranked_on_identify_and_reported_on_test(
    model: HookedModel, questions: Path, tasks: dict[str, QuestionTask]
) -> None:
    rows = measure_masked_exam(model, tasks, ranks=(1, 4), dimensions=(3,), n_random=2)
    assert [row.role for row in rows if row.subject == "law"] == ["rank", "rank", "named", "random", "random"]

    def accuracies(subject: str, split: Split) -> np.ndarray:
        asked = lettered(model, questions, subject, split)
        best = letter_scores(model, asked, list(range(model.d_model))).argmax(axis=2)
        return (best == [item.answer for item in asked]).mean(axis=1)

    for subject in ("law", "cells"):
        identify, test = accuracies(subject, "identify"), accuracies(subject, "test")
        of_subject = [row for row in rows if row.subject == subject]
        ranks = {row.rank: row.dimension for row in of_subject if row.role == "rank"}
        assert [identify[ranks[rank]] for rank in (1, 4)] == [np.sort(identify)[rank - 1] for rank in (1, 4)]
        assert [row.masked for row in of_subject] == [test[row.dimension] for row in of_subject]


def test_finished_subjects_are_not_run_again(model: HookedModel, tasks: dict[str, QuestionTask]) -> None:
    known = [MaskedAccuracy("law", "rank", 1, 7, 10, 0.8, 0.5, 0.4)]
    heard = []
    options = {"ranks": (1,), "n_random": 1, "on_subject": lambda subject, rows: heard.append(subject)}
    rows = measure_masked_exam(model, tasks, finished={"law": known}, **options)
    assert rows[:1] == known
    assert heard == ["cells"]


def test_screening_keeps_the_largest_dimensions(
    model: HookedModel, questions: Path, tasks: dict[str, QuestionTask]
) -> None:
    rows = measure_masked_exam(model, tasks, ranks=(1, 4), n_candidates=4, n_random=1)
    ranked = {row.dimension for row in rows if row.role == "rank"}
    magnitude = np.zeros(model.d_model)
    for subject in tasks:
        for item in lettered(model, questions, subject, "identify"):
            _, cache = model.run_with_cache(model.tokenize([item.prompt]))
            layers = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0, 1:] for layer in range(model.n_layers)])
            magnitude += layers.abs().mean(dim=(0, 1)).numpy()
    assert ranked <= set(np.argsort(-magnitude)[:4].tolist())


def test_letters_that_a_question_does_not_offer_are_never_its_answer(model: HookedModel) -> None:
    items = [
        ChoiceItem("q0", "law", "test", "the court", ("A", "B", "C", "D"), 3),
        ChoiceItem("q1", "law", "test", "a cell", ("A", "B"), 0),
    ]
    both = mask_choices(model, items, [3], letter_lead="")
    assert np.isneginf(both.masked[0, 1, 2:]).all()
    assert np.isneginf(both.baseline[1, 2:]).all()
    alone = mask_choices(model, items[1:], [3], letter_lead="")
    np.testing.assert_allclose(both.masked[0, 1, :2], alone.masked[0, 0], atol=1e-5)


def test_the_table_averages_subjects_alike_and_random_dimensions_first() -> None:
    rows = [
        MaskedAccuracy("a", "rank", 1, 7, 10, 0.8, 0.5, 0.4),
        MaskedAccuracy("b", "rank", 1, 9, 40, 0.6, 0.1, 0.9),
        MaskedAccuracy("a", "random", 0, 1, 10, 0.8, 0.8, 0.4),
        MaskedAccuracy("a", "random", 0, 2, 10, 0.8, 0.6, 0.4),
        MaskedAccuracy("b", "random", 0, 1, 40, 0.6, 0.6, 0.4),
    ]
    table = masked_exam_table(rows).set_index("masked")
    assert table.loc["rank 1", ["unmasked", "accuracy", "same_letter", "accuracy_drop"]].tolist() == pytest.approx(
        [0.7, 0.3, 0.65, 0.4]
    )
    assert table.loc["random", "accuracy_drop"] == pytest.approx(0.05)  # (0.1 + 0.0) / 2
    assert (table.low <= table["accuracy_drop"]).all()
    assert np.isnan(masked_exam_table(rows[:1]).low).all()  # one subject has no interval


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dimensions": (16,)}, r"dimensions \[16\] are out of range"), ({"ranks": (17,)}, "rank 17 is out of range")],
)
def test_what_the_model_does_not_have_is_said_first(
    model: HookedModel, tasks: dict[str, QuestionTask], options: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_masked_exam(model, tasks, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_test": 1}, "n_test = 1 should be"),
        ({"ranks": (0,)}, "should be greater than or equal to 1"),
        ({"n_candidates": 3, "ranks": (4,)}, "no rank 4"),
        ({"dimensions": (3, 3)}, "dimensions has 3 twice"),
    ],
)
def test_what_a_masking_specification_may_not_hold(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        MaskingSpec("mine", "exam.jsonl", **changes)  # pyright: ignore[reportArgumentType]


def test_both_shipped_tables_can_be_planned() -> None:
    sizes = {"n_candidates": 256, "n_identify": 50, "n_test": 50}
    for name, n_masked in (("qwen3-8b-masking.toml", 8), ("gemma-2-2b-it-masking.toml", 11)):
        spec = read_masking_spec(SPEC.with_name(name))
        assert spec.model.shape is not None
        assert len(spec.subjects) == 57
        assert n_questions(4096, 57, n_masked=n_masked, **sizes) == 57 * (50 * 258 + 50 * (1 + n_masked))
    # as in the paper: all dimensions, nothing to screen
    assert n_questions(4096, 1, n_masked=8, **(sizes | {"n_candidates": 0})) == 50 * 4097 + 50 * 9


def test_the_shipped_plan_prints_without_weights_and_the_same_path_runs_on_a_model_of_that_shape(
    capsys: pytest.CaptureFixture[str], gemma: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command: Command = command_line(capsys)
    planned = command("mask-exam", SPEC, "--plan")
    assert planned.code == 0, planned.err
    # 57 subjects: 50 questions unmasked, screened and under 256 masks, 50 unmasked and under 3 ranks, 3 named, 5 random
    assert f"plan: {57 * (50 * 258 + 50 * 12):,} questions in 57 subjects" in planned.out
    assert "2.61 B weights, bfloat16, cuda" in planned.out
    assert "time: about" in planned.out
    assert not list(tmp_path.iterdir())
    small = tmp_path / "small.toml"
    small.write_text('name = "small"\ndata = "x"\nranks = [1]\ndimensions = [3]\n', encoding="utf-8")
    outcome = command("mask-exam", small, "--model", gemma, "--data", questions, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "dimension 3" in outcome.out
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "subjects", "subjects.csv", "table.csv"}
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "subjects").iterdir()}
    sorted(stamps)[1].unlink()
    again = command("mask-exam", small, "--model", gemma, "--data", questions, "--out", tmp_path / "run")
    assert again.code == 0, again.err
    assert again.out.splitlines()[-8:] == outcome.out.splitlines()[-8:]
    kept = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns == stamp]
    assert kept == sorted(stamps)[:1]
    refused = command("mask-exam", SPEC, "--out", tmp_path / "run")
    assert (refused.code, refused.out) == (2, "")
    assert "another specification" in refused.err
