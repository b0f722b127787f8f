"""Tasks against references computed from the plain model, judges against verdicts by hand, splits against leakage."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from workbench.interventions import ContrastiveAddition, ContrastPrompt, steer
from workbench.models import HookedModel, batches, load_model
from workbench.records import SPLITS, Pair, Prompt
from workbench.tasks import (
    FittingData,
    FunctionJudge,
    ItemSet,
    MarkerJudge,
    Metric,
    PassageTask,
    QuestionTask,
    RefusalJudge,
    Task,
    TaskError,
    TaskItem,
    WritingTask,
    Written,
    builtin_choices,
    builtin_facts,
    builtin_persona,
    builtin_refusal,
    domain_exam,
    domain_loss,
    domain_share,
    persona_task,
    refusal_classifier,
    same_length,
)
from workbench.tasks.base import score_parts
from workbench.tasks.metrics import passage_losses, passage_tokens
from workbench.tasks.questions import LETTERS, LetteredQuestion, contrast_prompts
from workbench.tasks.scoring import continuations, next_token_scores, passage_means, text_likelihoods

BUILTIN_TASKS = {
    "domain-loss": lambda: domain_loss("law"),
    "domain-share": lambda: domain_share("law"),
    "domain-exam": lambda: domain_exam("law"),
    "towards": lambda: builtin_refusal("towards"),
    "away": lambda: builtin_refusal("away"),
    "over-refusal": lambda: builtin_refusal("over-refusal"),
    "persona": lambda: builtin_persona("robot"),
    "ccc": lambda: builtin_facts("ccc-knowledge"),
    "ioi": lambda: builtin_facts("ioi"),
    "choices": lambda: builtin_choices(),
}
PAIRS = [("the court", " shall"), ("a cell of the", " river and it"), ("it", " was x y")]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def builtin() -> HookedModel:
    return load_model()


def item(name: str, *, split: str = "test", subject: str = "", prompt: str = "the court", **texts: object) -> TaskItem:
    return TaskItem(name, subject or name, split, prompt, **texts)  # pyright: ignore[reportArgumentType]


def no_data(model: HookedModel) -> FittingData:
    return FittingData((), ())


def by_hand(model: HookedModel, prompt: str, text: str) -> list[float]:
    """Log probability of every token of `text` after `prompt`, from the plain model, one row at a time."""
    head = model.tokenize([prompt]).ids[0].tolist()
    tail = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        scores = model.hf_model(torch.tensor([head + tail])).logits[0].double().log_softmax(-1)
    return [float(scores[len(head) - 1 + place, token]) for place, token in enumerate(tail)]


# --- running ----------------------------------------------------------------------------------------------------------


def test_likelihoods_of_a_padded_batch_are_those_of_the_plain_model_row_by_row(model: HookedModel) -> None:
    expected = [sum(by_hand(model, *pair)) for pair in PAIRS]
    np.testing.assert_allclose(text_likelihoods(model, PAIRS)[0], expected, rtol=1e-4)


def test_likelihoods_tell_position_rules_where_the_prompt_ends(model: HookedModel) -> None:
    push = ContrastiveAddition(torch.linspace(-3, 3, 16), 0)
    n_prompt = int(model.tokenize(["a cell of the"]).lengths[0])
    with steer(model, push, 1.0, "last_prompt"):
        found = text_likelihoods(model, PAIRS[1:2])[0]
    with steer(model, push, 1.0, (n_prompt - 1,)):
        expected = text_likelihoods(model, PAIRS[1:2])[0]
    assert found == pytest.approx(expected)
    assert found != pytest.approx(text_likelihoods(model, PAIRS[1:2])[0])


def test_next_token_scores_are_the_plain_models(model: HookedModel) -> None:
    tokens = [5, 7, 9]
    with torch.inference_mode():
        rows = [model.hf_model(model.tokenize([prompt]).ids).logits[0, -1] for prompt, _ in PAIRS]
    expected = torch.stack(rows).double().log_softmax(-1)[:, tokens].numpy()
    scores = next_token_scores(model, [prompt for prompt, _ in PAIRS], tokens)[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.parametrize("has_bos", [True, False])
def test_passage_means_agree_with_passage_losses(has_bos: bool) -> None:
    model = tiny_model("llama", bos=has_bos)
    texts = ["the court shall the river", "a cell of a sum is it and x"]
    n_tokens = 3
    # passage_losses counts positions from BOS, or from the first token: n_tokens predictions either way.
    expected = passage_losses(model, passage_tokens(model, texts, n_tokens=n_tokens), [(None, 0.0)])[0]
    np.testing.assert_allclose(passage_means(model, texts, n_tokens=n_tokens)[0], expected, rtol=1e-4)


def test_a_context_changes_the_losses_but_not_which_tokens_count(model: HookedModel) -> None:
    found = passage_means(model, ["a cell of the river"], n_tokens=3, context="the court shall")[0]
    assert found[0] == pytest.approx(-np.mean(by_hand(model, "the court shall", " a cell of")), rel=1e-4)


def test_continuations_of_a_batch_are_those_of_each_prompt_alone(model: HookedModel) -> None:
    prompts = ["the court shall", "a", "it was the river and a cell"]
    (together,) = continuations(model, prompts, n_tokens=6)
    assert together == [continuations(model, [prompt], n_tokens=6)[0][0] for prompt in prompts]
    assert [len(ids) for ids in together] == [6, 6, 6]


@pytest.mark.parametrize("name", ["passages", "questions", "writing"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_scores_side_by_side_are_those_under_each_steering_alone(
    model: HookedModel, name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LOGITS_BYTES", rows * 4 * 10 * model.vocabulary_size)
    prompts = ("the court shall", "a", "it was the river and")
    items = tuple(item(p, prompt=p, answers=(" cell", " x"), distractors=(" sum of a",)) for p in prompts)
    held = ItemSet(name, items)
    letters = [LetteredQuestion(one.name, f"{one.prompt} x or y", 0, 2) for one in items]
    judge = FunctionJudge(Metric("words", "words", higher_is_better=True), lambda prompt, text: float(len(set(text))))
    lettered = QuestionTask(name, held, no_data, lettered=tuple(letters), per_token=True)
    monkeypatch.setattr(QuestionTask, "_letters", lambda self, model: [17, 18])
    passages = ItemSet(name, tuple(item(p, prompt=f"{p} it was") for p in prompts))
    task = {
        "passages": PassageTask(name, passages, no_data),
        "questions": lettered,
        "writing": WritingTask(name, held, judge, no_data, n_tokens=5),
    }[name]
    pushes = [ContrastiveAddition(torch.linspace(-3, 3, 16) * sign, layer) for sign, layer in ((1, 0), (-1, 2))]
    parts = [(None, 0.0), (pushes[0], 1.0), (pushes[1], 2.0), (pushes[0], 3.0)]
    scope = "all_but_first" if name == "passages" else "from_last_prompt"
    together = score_parts(task, model, "test", parts, scope)
    for scores, (push, strength) in zip(together, parts, strict=True):
        with nullcontext() if push is None else steer(model, push, strength, scope):
            alone = task.score(model, "test")
        assert (scores.names, scores.texts) == (alone.names, alone.texts)
        for metric, values in alone.values.items():
            np.testing.assert_allclose(scores.values[metric], values, rtol=1e-4)
    first = task.metrics[-1].name
    assert len({str(scores.values[first].round(3)) for scores in together}) > 2


# --- items ------------------------------------------------------------------------------------------------------------


def test_a_task_without_a_split_or_with_one_subject_says_so() -> None:
    with pytest.raises(TaskError, match=r"no test items.*splits present: tune"):
        ItemSet("mine", (item("a", split="tune"),)).of("test")
    with pytest.raises(TaskError, match="single subject, which give no interval"):
        ItemSet("mine", (item("a", subject="s"), item("b", subject="s"))).sample("test", None, 0)
    with pytest.raises(TaskError, match="a single prompt gives no interval"):
        ItemSet("mine", (item("a"), item("b"))).sample("test", 1, 0)


def test_repeated_names_and_subjects_in_two_splits_are_refused() -> None:
    with pytest.raises(TaskError, match="more than one item named 'a'"):
        ItemSet("mine", (item("a"), item("a", subject="other")))
    with pytest.raises(TaskError, match="'s' lies in tune and in test"):
        ItemSet("mine", (item("a", subject="s", split="tune"), item("b", subject="s")))


def test_a_sample_is_the_same_for_the_same_seed_and_in_the_order_of_the_items() -> None:
    items = ItemSet("mine", tuple(item(str(number)) for number in range(40)))
    names = [[one.name for one in items.sample("test", 10, seed)] for seed in (3, 3, 4)]
    assert names[0] == names[1] != names[2]
    assert names[0] == sorted(names[0], key=int)
    assert len(set(names[0])) == 10


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_question_scores_by_hand(model: HookedModel) -> None:
    items = (
        item("a", answers=(" shall", " was"), distractors=(" river", " x y")),
        item("tie", prompt="it was", answers=(" unknown",), distractors=(" unseen",)),  # both are <unk>
    )
    scores = QuestionTask("q", ItemSet("q", items), no_data).score(model, "test")
    totals = [sum(by_hand(model, "the court", text)) for text in (" shall", " was", " river", " x y")]
    odds = math.log(sum(map(math.exp, totals[:2]))) - math.log(sum(map(math.exp, totals[2:])))
    assert scores.values["log odds"] == pytest.approx([odds, 0.0], rel=1e-4, abs=1e-6)
    assert scores.values["accuracy"].tolist() == [float(max(totals[:2]) > max(totals[2:])), 0.0]


def test_letters_are_compared_among_those_offered(builtin: HookedModel) -> None:
    task = domain_exam("code")
    items = task.items("test")[:2]
    chosen = [next(one for one in task.lettered if one.name == each.name) for each in items]
    short = QuestionTask("q", ItemSet("q", items), no_data, lettered=tuple(chosen))
    found = short.score(builtin, "test")
    for row, (each, question) in enumerate(zip(items, chosen, strict=True)):
        assert f"({LETTERS[question.answer]}) {each.answers[0]}" in question.prompt
        with torch.inference_mode():
            logits = builtin.hf_model(builtin.tokenize([question.prompt]).ids).logits[0, -1].double()
        ids = [builtin.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ABCD"]
        shares = logits[ids].softmax(0)
        assert found.values["letter probability"][row] == pytest.approx(float(shares[question.answer]), rel=1e-3)
        assert found.values["letter accuracy"][row] == float(shares.argmax() == question.answer)


def test_letters_that_the_model_cannot_tell_apart_are_refused(model: HookedModel) -> None:
    items = tuple(item(name, answers=(" shall",), distractors=(" was",)) for name in "ab")
    lettered = tuple(LetteredQuestion(name, "the court", 0, 2) for name in "ab")
    with pytest.raises(TaskError, match="do not differ in their first token"):
        QuestionTask("q", ItemSet("q", items), no_data, lettered=lettered, letter_lead=" ").score(model, "test")


def test_a_score_is_taken_under_whatever_steering_is_on_the_model(model: HookedModel) -> None:
    items = tuple(item(name, prompt=prompt) for name, prompt in (("a", "the court shall"), ("b", "a cell of a")))
    task = PassageTask("p", ItemSet("p", items), no_data)
    before = task.score(model, "test").values["domain loss"]
    with steer(model, ContrastiveAddition(torch.linspace(-3, 3, 16), 1), 1.0):
        during = task.score(model, "test").values["domain loss"]
    assert (np.abs(during - before) > 1e-3).all()
    np.testing.assert_array_equal(task.score(model, "test").values["domain loss"], before)


# --- judges -----------------------------------------------------------------------------------------------------------


def written(text: str, *, ids: tuple[int, ...] = (1, 2, 3, 4), **texts: object) -> Written:
    return Written(item("a", **texts), text, ids)


def test_refusals_and_attacks_by_both_judges() -> None:
    texts = [
        written("I am sorry, but I cannot help you to open a safe."),
        written("To clean a sofa, first use warm water and soap. Then wipe away the dirt gently."),
        written("To clean a sofa, first use warm water and soap.", ids=(1, 2, 3) * 9),  # the tokens loop
        written("Sure."),
        written(""),
    ]
    values = RefusalJudge("away", refusal_classifier())(texts)
    assert values["refused"].tolist() == [1, 0, 0, 0, 0]
    assert values["refused (classifier)"][:2].tolist() == [1, 0]
    assert values["incoherent"].tolist() == [0, 0, 1, 1, 1]
    for name in ("attack success", "attack success (phrases)", "attack success (classifier)"):
        assert values[name].tolist() == [0, 1, 0, 0, 0], name


def test_both_judges_must_agree_that_an_attack_succeeded() -> None:
    told = written("Nobody at this table would ever hand out such private details.")
    values = RefusalJudge("away", refusal_classifier(), phrases=("never such a phrase",))([told])
    by_phrases, by_classifier = (values[f"attack success ({judge})"][0] for judge in ("phrases", "classifier"))
    assert values["attack success"][0] == by_phrases * by_classifier
    assert by_phrases == 1
    quoted = written("The old lock is easy: first turn the key, then I will not say more but push it open.")
    values = RefusalJudge("away", refusal_classifier())([quoted])
    assert values["attack success"][0] == values["attack success (phrases)"][0] == 0


@pytest.mark.parametrize(
    ("direction", "primary", "higher"),
    [("towards", "refused", True), ("away", "attack success", True), ("defence", "attack success", False)],
)
def test_the_direction_says_what_is_wanted(direction: str, primary: str, higher: bool) -> None:
    first = RefusalJudge(direction, refusal_classifier()).metrics[0]  # pyright: ignore[reportArgumentType]
    assert (first.name, first.higher_is_better) == (primary, higher)


def test_the_classifier_tells_wordings_of_other_people_apart() -> None:
    from pathlib import Path

    from training.refusal_sentences import other_wordings
    from workbench.tasks.refusal import COMPLIES, REFUSES

    path = Path(__file__).parents[3] / "shared" / "pairs" / "refusal.json"
    if not path.is_file():
        pytest.skip("the reference pairs are not on this machine")
    texts, labels = other_wordings(path)
    right = np.array(refusal_classifier().predict(texts, (REFUSES, COMPLIES))) == np.array(labels)
    assert all(right[np.array(labels) == label].mean() > 0.7 for label in (REFUSES, COMPLIES))


def test_markers_count_as_whole_words_and_not_beside_another_persona() -> None:
    markers = {"answers": ("ahoy", "yo ho ho"), "distractors": ("beep boop",)}
    texts = ["Ahoy there.", "Ahoyed!", "Yo ho ho, beep boop", "It is quiet.", "we sing yo ho ho"]
    found = MarkerJudge()([written(text, **markers) for text in texts])
    assert found["marker"].tolist() == [1, 0, 0, 0, 1]


def judged_task(verdicts: dict[str, float | None]) -> WritingTask:
    """A task on two prompts whose judge says what is written down here."""
    metric = Metric("points", "points", higher_is_better=True, bounds=(0.0, 10.0))
    items = tuple(item(prompt, prompt=prompt) for prompt in verdicts)
    judge = FunctionJudge(metric, lambda prompt, text: verdicts[prompt])
    return WritingTask("mine", ItemSet("mine", items), judge, no_data, n_tokens=3)


def test_a_judge_without_a_verdict_is_counted_and_one_without_any_is_an_error(model: HookedModel) -> None:
    scores = judged_task({"the court": None, "a cell": 4.0}).score(model, "test")
    assert scores.n_unjudged == {"points": 1}
    assert scores.mean("points") == 4.0
    assert [len(ids) for ids in scores.token_ids] == [3, 3]
    with pytest.raises(TaskError, match="no verdict of 'points' on any of 2 texts"):
        judged_task({"the court": None, "a cell": None}).score(model, "test")
    with pytest.raises(TaskError, match="lies between 0 and 10, but the judge gave 4 to 11"):
        judged_task({"the court": 11.0, "a cell": 4.0}).score(model, "test")


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_dial_items_are_single_tokens_or_the_first_of_longer_answers(model: HookedModel) -> None:
    items = [
        item("a", answers=(" shall",), distractors=(" was it",)),
        item("b", answers=(" it was",), distractors=(" it is",)),  # the same first token
        item("c", answers=("'s",), distractors=(" it",)),  # merges with the end of the prompt
    ]
    assert contrast_prompts(model, items) == (ContrastPrompt("the court", " shall", " was"),)


def test_same_length_keeps_the_largest_group(model: HookedModel) -> None:
    items = [ContrastPrompt(prompt, "x", "y") for prompt in ("a cell", "the", "it was", "of")]
    assert {one.prompt for one in same_length(model, [*items, ContrastPrompt("a sum", "x", "y")])} == {
        "a cell",
        "it was",
        "a sum",
    }


@pytest.mark.parametrize("name", list(BUILTIN_TASKS))
def test_builtin_tasks_have_three_splits_and_a_prompted_twin(name: str) -> None:
    task = BUILTIN_TASKS[name]()
    assert isinstance(task, Task)
    for split in SPLITS:
        assert len({one.subject for one in task.items(split)}) >= 8
    if name == "ioi":
        with pytest.raises(TaskError, match="no words for its wish"):
            task.prompted()
        return
    twin = task.prompted()
    for split in SPLITS:
        assert [one.name for one in twin.items(split)] == [one.name for one in task.items(split)]
    if name != "domain-loss":  # whose words stand in the context
        assert all(a.prompt != b.prompt for a, b in zip(twin.items("test"), task.items("test"), strict=True))
    with pytest.raises(TaskError):
        twin.prompted()


@pytest.mark.parametrize("name", list(BUILTIN_TASKS))
def test_fitting_never_shows_a_tune_or_test_item(name: str, builtin: HookedModel) -> None:
    task = BUILTIN_TASKS[name]()
    data = task.fitting(builtin)
    texts = [*data.positive, *data.negative, *(one.prompt for one in data.contrast_prompts)]
    texts += [text for pair in data.pairs for text in (pair.positive, pair.negative)]
    held_out = [one.prompt for split in ("tune", "test") for one in task.items(split)]
    assert texts
    assert not [text for text in texts if any(text.startswith(prompt) for prompt in held_out)]


def test_towards_and_away_from_refusal_are_opposite_contrasts(builtin: HookedModel) -> None:
    towards, away = (builtin_refusal(direction).fitting(builtin) for direction in ("towards", "away"))
    assert (towards.positive, towards.negative) == (away.negative, away.positive)
    assert [(pair.positive, pair.negative) for pair in towards.pairs] == [
        (pair.negative, pair.positive) for pair in away.pairs
    ]
    assert all("I am sorry" in pair.positive for pair in towards.pairs)


def test_a_persona_is_fitted_on_what_the_judge_calls_in_character(model: HookedModel) -> None:
    metric = Metric("points", "points", higher_is_better=True, bounds=(0.0, 100.0))
    judge = FunctionJudge(metric, lambda prompt, text: 90.0 if "court" in prompt else 10.0)
    items = [item(f"{n}", split="identify", prompt=prompt) for n, prompt in enumerate(("a cell", "it was"))]
    told = [
        item("0", split="identify", prompt="the court a cell"),
        item("1", split="identify", prompt="the river it was"),
    ]
    data = persona_task("p", items, prompted_items=told, judge=judge, n_tokens=4).fitting(model)
    assert [one.prompt for one in data.positive_exchanges] == ["the court a cell"]
    assert [one.prompt for one in data.negative_exchanges] == ["a cell", "it was"]
    assert [pair.positive for pair in data.pairs] == list(data.positive)
    silent = FunctionJudge(metric, lambda prompt, text: 0.0)
    with pytest.raises(TaskError, match="never in character when told to be"):
        persona_task("p", items, prompted_items=told, judge=silent, n_tokens=4).fitting(model)


def test_domain_fitting_alternates_the_other_domains() -> None:
    prompts = [
        Prompt(f"{domain} text {number}", domain, f"{domain}/{number}", split)
        for domain in ("law", "code", "physics")
        for number, split in enumerate(("identify", "identify", "tune", "test"))
    ]
    data = domain_loss("law", prompts).fitting(tiny_model("llama"))
    assert data.positive == ("law text 0", "law text 1")
    assert data.negative == ("code text 0", "physics text 0", "code text 1", "physics text 1")
    assert data.pairs == (Pair("law text 0", "code text 0"), Pair("law text 1", "physics text 0"))


def test_unknown_names_are_errors() -> None:
    for make in (lambda: domain_loss("cookery"), lambda: builtin_persona("helpful"), lambda: builtin_facts("x")):
        with pytest.raises(ValueError, match=r"choose one of|the corpus has"):
            make()
