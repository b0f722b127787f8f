"""Labels of dimensions: planted token classes are found and scored on held-out documents, noise stays unlabelled."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from workbench.dimensions.detectors import (
    N_RESAMPLES,
    N_SHOWN,
    UNLABELLED,
    TokenTable,
    detector_frame,
    document_weights,
    find_detectors,
)
from workbench.records import (
    ENDS,
    SPLITS,
    Detector,
    Dimension,
    DimensionStatistics,
    Prompt,
    Split,
    TokenColumns,
    TopTokens,
)
from workbench.statistics import MAX_BINS, auroc, auroc_interval
from workbench.token_classes import class_members, read_pieces

N_DOCUMENTS, N_TOKENS, N_LAYERS, D_MODEL = 14, 40, 2, 6
LEGAL, NUMBERS, NOISE, BOTH = 0, 1, 2, 3
WORDS = [" court", " plaint", "iff", " zorp", " blick", " 7", " 42", "(", ")", " fribs", " grund", " snell"]
IS_LEGAL = np.array([True, True, True] + [False] * 9)
IS_NUMBER = np.array([False] * 5 + [True, True] + [False] * 5)
IS_BRACKET = np.array([False] * 7 + [True, True] + [False] * 3)


def make_corpus(
    seed: int = 0, *, first: float = 1000.0, held_out_signal: bool = True
) -> tuple[TokenColumns, list[Prompt]]:
    """Documents of one domain; layer 1 carries four dimensions: legal terms, numbers (negative), noise, and two ends.

    Layer 0 is noise. Position 0 is a start token with the activation `first` everywhere.
    """
    rng = np.random.default_rng(seed)
    prompts, texts, index, positions, values = [], [], [], [], []
    for split in SPLITS:
        for document in range(N_DOCUMENTS):
            word = rng.choice(len(WORDS), size=N_TOKENS)
            word[1:][word[:-1] == 1] = 2  # "plaint" goes on with "iff", which stands nowhere else
            word[1:][(word[1:] == 2) & (word[:-1] != 1)] = 0
            rows = rng.normal(size=(N_TOKENS, N_LAYERS * D_MODEL))
            signal = rows[:, D_MODEL:]
            if held_out_signal or split != "test":
                signal[:, LEGAL] += 4 * IS_LEGAL[word]
                signal[:, NUMBERS] -= 4 * IS_NUMBER[word]
                signal[:, BOTH] += 5 * IS_BRACKET[word] - 5 * IS_NUMBER[word]
            rows[0] = first
            texts += ["<s>", *(WORDS[w] for w in word[1:])]
            index += [len(prompts)] * N_TOKENS
            positions += range(N_TOKENS)
            values.append(rows)
            prompts.append(Prompt("text", "law", f"law/{split}{document}", split))
    columns = TokenColumns(
        columns=tuple((layer, dimension) for layer in range(N_LAYERS) for dimension in range(D_MODEL)),
        values=np.concatenate(values).astype(np.float32),
        token_text=tuple(texts),
        prompt_index=np.array(index),
        positions=np.array(positions),
        prompts=tuple(prompt.name for prompt in prompts),
        domains=tuple(prompt.domain for prompt in prompts),
        splits=tuple(prompt.split for prompt in prompts),
    )
    return columns, prompts


def make_statistics(columns: TokenColumns, n_top: int = 20) -> DimensionStatistics:
    """Statistics whose top tokens are sorted out of the columns of the identify documents; the rest is zero."""
    shape = (1, N_LAYERS, 2, n_top, D_MODEL)
    fields = {name: np.full(shape, -1) for name in ("prompt", "position", "token")}
    value = np.zeros(shape, dtype=np.float32)
    rows = np.flatnonzero((np.array(columns.splits) == "identify")[columns.prompt_index] & (columns.positions > 0))
    for number, (layer, dimension) in enumerate(columns.columns):
        order = rows[np.argsort(columns.values[rows, number])]
        for end, best in enumerate((order[::-1][:n_top], order[:n_top])):
            value[0, layer, end, :, dimension] = columns.values[best, number]
            fields["prompt"][0, layer, end, :, dimension] = columns.prompt_index[best]
            fields["position"][0, layer, end, :, dimension] = columns.positions[best]
    zero, count = np.zeros((1, N_LAYERS, D_MODEL)), np.zeros(1, dtype=int)
    moments = {name: zero for name in ("mean", "m2", "mean_magnitude", "max_magnitude")}
    firsts = {"first_mean_magnitude": zero, "first_max_magnitude": zero}
    top = TopTokens(value=value, **fields)
    return DimensionStatistics(("law",), count, count, n_active=zero.astype(int), top=top, **moments, **firsts)


def dcds(*dimensions: int, domain: str = "law") -> list[Dimension]:
    return [
        Dimension(domain, dimension, rank, "magnitude", 1.0, 1.0, 1.0, 1.0, "every domain")
        for rank, dimension in enumerate(dimensions, start=1)
    ]


def find(columns: TokenColumns, prompts: list[Prompt], *dimensions: int, **options: int) -> list[Detector]:
    words = {LEGAL: (("court",), ("zorp",))}
    return find_detectors(make_statistics(columns), columns, dcds(*dimensions), words, prompts, **options)


def test_planted_classes_become_labels_and_noise_does_not() -> None:
    found = find(*make_corpus(), LEGAL, NUMBERS, NOISE, BOTH)
    readings = [(detector.dimension, detector.layer, detector.end, detector.label) for detector in found]
    labelled = [reading for reading in readings if reading[3] != UNLABELLED]
    assert labelled == [
        (LEGAL, 1, "high", "legal terms"),
        (NUMBERS, 1, "low", "numbers"),
        (BOTH, 1, "high", "brackets"),
        (BOTH, 1, "low", "numbers"),
    ]
    assert len(readings) == 9  # one line for every unlabelled reading: four at layer 0, noise at layer 1
    noise = next(detector for detector in found if (detector.dimension, detector.layer) == (NOISE, 1))
    assert np.isnan([noise.auroc, noise.low, noise.high]).all()
    assert noise.n_tokens == 0
    assert found[1].promoted == ("court",)
    assert found[1].suppressed == ("zorp",)


@pytest.mark.parametrize("seed", range(5))
def test_no_label_on_any_dimension_of_noise(seed: int) -> None:
    columns, prompts = make_corpus(seed)
    noise = np.random.default_rng(seed + 100).normal(size=columns.values.shape).astype(np.float32)
    found = find(dataclasses.replace(columns, values=noise), prompts, *range(D_MODEL))
    assert {detector.label for detector in found} == {UNLABELLED}


@pytest.mark.parametrize(("extreme", "end"), [(-50.0, "low"), (50.0, "high")])
def test_without_a_label_the_end_with_the_larger_magnitude_is_reported(extreme: float, end: str) -> None:
    columns, prompts = make_corpus()
    columns.values[7, columns.columns.index((1, NOISE))] = extreme
    columns.values[7, columns.columns.index((0, NOISE))] = -extreme
    other, detector = find(columns, prompts, NOISE)
    assert (detector.label, detector.end) == (UNLABELLED, end)
    assert detector.top_tokens[0].value == extreme
    assert other.end != end


def test_the_score_is_that_of_the_held_out_documents() -> None:
    columns, prompts = make_corpus()
    names, members = class_members(columns.token_text, columns.prompt_index)
    rows = (np.array(columns.splits) == "test")[columns.prompt_index] & (columns.positions > 0)
    high, low = (detector for detector in find(columns, prompts, LEGAL, NUMBERS) if detector.layer == 1)
    for detector, sign in ((high, 1), (low, -1)):
        is_member = members[rows, names.index(detector.label)]
        values = sign * columns.values[rows, columns.columns.index((1, detector.dimension))]
        assert detector.auroc == pytest.approx(roc_auc_score(is_member, values), abs=1e-12)
        assert 0.9 < detector.low < detector.auroc < detector.high
        assert detector.n_tokens == is_member.sum()


@pytest.mark.parametrize("split", ["identify", "test"])
@pytest.mark.parametrize(("n_documents", "expected"), [(3, UNLABELLED), (5, "legal terms")])
def test_a_class_seen_in_too_few_documents_is_no_label(split: Split, n_documents: int, expected: str) -> None:
    columns, prompts = make_corpus()
    last = [index for index, name in enumerate(columns.splits) if name == split][n_documents:]
    hidden = np.isin(columns.prompt_index, last)
    values = columns.values.copy()
    values[hidden, columns.columns.index((1, LEGAL))] = 0.0
    text = tuple(" grund" if h and t in WORDS[:3] else t for t, h in zip(columns.token_text, hidden, strict=True))
    columns = dataclasses.replace(columns, token_text=text, values=values)
    assert find(columns, prompts, LEGAL)[1].label == expected


def test_a_label_that_does_not_hold_outside_the_identify_documents_scores_chance() -> None:
    detector = find(*make_corpus(held_out_signal=False), LEGAL)[1]
    assert detector.label == "legal terms"
    assert detector.low < 0.5 < detector.high


def test_first_positions_change_nothing_and_are_never_shown() -> None:
    dimensions = (LEGAL, NUMBERS, NOISE, BOTH)
    found = find(*make_corpus(), *dimensions)
    quiet = find(*make_corpus(first=0.0), *dimensions)
    assert [repr(detector) for detector in found] == [repr(detector) for detector in quiet]
    for detector in found:
        for context in detector.top_tokens:
            assert context.position > 0
            assert "<s>" not in context.before + context.token + context.after


def test_contexts_show_the_text_around_the_token_of_the_address() -> None:
    columns, prompts = make_corpus()
    for detector in find(columns, prompts, LEGAL, BOTH):
        assert len(detector.top_tokens) == N_SHOWN
        for context in detector.top_tokens:
            start = columns.prompts.index(context.prompt) * N_TOKENS
            text = "".join(columns.token_text[start + 1 : start + N_TOKENS])
            at = len("".join(columns.token_text[start + 1 : start + context.position]))
            assert text[at:].startswith(context.token + context.after)
            assert text[:at].endswith(context.before)
            assert context.before or context.position == 1
            number = columns.columns.index((detector.layer, detector.dimension))
            assert context.value == columns.values[start + context.position, number]
        values = [context.value for context in detector.top_tokens]
        assert values == sorted(values, reverse=detector.end == "high")


def test_the_same_seed_gives_the_same_intervals() -> None:
    columns, prompts = make_corpus()
    once, again, other = (find(columns, prompts, LEGAL, seed=seed)[1] for seed in (1, 1, 2))
    assert once == again
    assert (once.low, once.high) != (other.low, other.high)


def test_auroc_equals_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 20, size=(300, 4)).astype(np.float32)
    members = rng.random((300, 3)) < 0.3
    members[:, 2] = False
    found = auroc(values, members)
    for column, number in np.ndindex(4, 2):
        assert found[column, number] == pytest.approx(roc_auc_score(members[:, number], values[:, column]), abs=1e-12)
    assert np.isnan(found[:, 2]).all()


@pytest.mark.parametrize(("n_tokens", "tolerance"), [(600, 1e-9), (2 * MAX_BINS, 1e-3)])
def test_interval_is_that_of_weighted_scores_over_resampled_documents(n_tokens: int, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    document = np.sort(rng.integers(0, 12, size=n_tokens))
    members = rng.random(n_tokens) < 0.2
    values = (rng.normal(size=n_tokens) + 0.5 * members + 0.8 * rng.normal(size=12)[document]).astype(np.float32)
    values = np.round(values, 2) if n_tokens == 600 else values
    table = TokenTable(values[:, None], members[:, None], document)
    weights = document_weights(table, seed=3)
    assert weights.shape == (N_RESAMPLES, 12)
    assert (weights.sum(axis=1) == 12).all()
    weights = weights[:60]
    scores = [roc_auc_score(members, values, sample_weight=weight[document]) for weight in weights]
    expected = np.quantile(scores, [0.025, 0.975])
    assert auroc_interval(values, members, document, weights) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("tokens", "number", "included", "excluded"),
    [
        (["The", " plaint", "iff", " pays"], 2, ["legal terms", "word continuations"], ["function words"]),
        (["The", " courts", " sat"], 1, ["legal terms"], ["word continuations", "capitalised words"]),
        ([" forty", "-", "eight"], 1, ["hyphens and dashes", "punctuation"], ["operators"]),
        (["x", " -", " 3"], 1, ["operators"], ["quotation marks"]),
        (["x", " -", " 3"], 0, ["single letters"], ["function words", "units of measurement"]),
        (["a", " 3", " m", " rod"], 2, ["units of measurement"], ["operators"]),
        (["so", " m", " is"], 1, ["single letters"], ["units of measurement"]),
        (["add", " ", "9", "0"], 1, ["spaces before numbers"], ["numbers", "indentation"]),
        (["so", " ", "she"], 1, [], ["spaces before numbers"]),
        (["add", " ", "9", "0"], 2, ["numbers"], ["spaces before numbers", "word continuations"]),
        (["three", " times", " two"], 1, ["mathematical terms"], ["names and titles of persons"]),
        (["He", " said", ',"'], 2, ["quotation marks", "commas, colons and semicolons"], ["operators", "brackets"]),
        (["He", " said", ',"'], 1, ["verbs of speech and thought"], ["third-person pronouns"]),
        (
            ["go", ".", " The", " end"],
            2,
            ["first words of sentences and lines"],
            ["capitalised words inside sentences"],
        ),
        (["in", " Lond", "on", " then"], 2, ["capitalised words inside sentences"], ["prepositions"]),
        (
            ["def", " word", "_", "count", "(", "x", "):", "\n   ", " return", " a_b"],
            3,
            ["called names", "identifiers"],
            [],
        ),
        (
            ["def", " word", "_", "count", "(", "x", "):", "\n   ", " return", " a_b"],
            7,
            ["indentation", "line breaks"],
            [],
        ),
        (["def", " word", "_", "count", "(", "x", "):", "\n   ", " return", " a_b"], 8, ["Python keywords"], []),
        (["they", " return", " in", " May"], 1, [], ["Python keywords", "Python built-in names"]),
    ],
)
def test_tokens_belong_to_the_classes_a_reader_would_say(
    tokens: list[str], number: int, included: list[str], excluded: list[str]
) -> None:
    names, members = class_members(tokens, np.zeros(len(tokens), dtype=int))
    found = {name for name, is_member in zip(names, members[number], strict=True) if is_member}
    assert set(included) <= found
    assert not set(excluded) & found


def test_words_do_not_reach_across_documents() -> None:
    names, members = class_members(["plaint", "iff"], np.array([0, 1]))
    assert not members[:, names.index("legal terms")].any()
    assert [piece.word for piece in read_pieces(["plaint", "iff"])] == ["plaintiff"] * 2


def test_frame_has_one_row_per_detector_and_printable_tokens() -> None:
    found = find(*make_corpus(), LEGAL, NUMBERS)
    frame = detector_frame(found)
    assert len(frame) == len(found)
    assert set(frame.end) <= set(ENDS)
    shown = frame[frame.label == "legal terms"].top_tokens.iloc[0].split(" ")
    assert set(shown) <= {"court", "plaint", "iff"}
    assert list(detector_frame([]).columns) == list(frame.columns)


def test_what_cannot_be_read_is_refused_in_one_line() -> None:
    columns, prompts = make_corpus()
    statistics = make_statistics(columns)
    with pytest.raises(ValueError, match=r"dimension 17 was not collected; pass its columns to collect_columns"):
        find(columns, prompts, 17)
    with pytest.raises(ValueError, match="no statistics of domain 'code'; there are law"):
        find_detectors(statistics, columns, dcds(LEGAL, domain="code"), {}, prompts)
    with pytest.raises(ValueError, match="has no tokens in split 'test'"):
        find(dataclasses.replace(columns, splits=("identify",) * len(columns.splits)), prompts, LEGAL)
    with pytest.raises(ValueError, match="was not collected with the columns"):
        find(columns, [dataclasses.replace(prompt, name=prompt.name + "x") for prompt in prompts], LEGAL)
    deeper = dataclasses.replace(columns, columns=tuple((layer + 1, d) for layer, d in columns.columns))
    with pytest.raises(ValueError, match="beyond the 2 layers"):
        find_detectors(statistics, deeper, dcds(LEGAL), {}, prompts)
