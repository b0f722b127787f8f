"""Two scores of a label on held-out passages: each sees what it should, and permutations have their level."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from workbench.dimensions.labels import control_dimensions, label_curve, label_frame, label_summary, score_labels
from workbench.records import SPLITS, Dimension, LabelScore, PooledRows, TokenColumns

DOMAINS = ("law", "code")
WORDS = np.array([" court", " judge", " zorp", " blick", " fribs", " grund", " snell", " 7"])
IS_LEGAL = np.array([True, True] + [False] * 6)
CLASS, IN_DOMAIN, NOISE, AT_START = 0, 1, 2, 3


def make_columns(seed: int = 0, n_passages: int = 12, n_tokens: int = 30) -> TokenColumns:
    """Dimension 0 fires on legal words everywhere, 1 on legal words in law alone, 2 on nothing, 3 early in a passage.

    All of it in both splits; position 0 is a start token with a giant value.
    """
    rng = np.random.default_rng(seed)
    texts, values, index, positions, names, domains, splits = [], [], [], [], [], [], []
    for domain in DOMAINS:
        for split in SPLITS:
            for _ in range(n_passages):
                word = rng.choice(len(WORDS), size=n_tokens)
                rows = rng.normal(size=(n_tokens, 4))
                rows[:, CLASS] += 3 * IS_LEGAL[word]
                rows[:, IN_DOMAIN] += 4 * IS_LEGAL[word] * (domain == "law")
                rows[:, AT_START] += 5 * (np.arange(n_tokens) < 8)
                rows[0] = 99.0
                texts += ["<s>", *WORDS[word[1:]].tolist()]
                values.append(rows)
                index += [len(names)] * n_tokens
                positions += range(n_tokens)
                names.append(f"{domain}/{len(names)}")
                domains.append(domain)
                splits.append(split)
    return TokenColumns(
        columns=tuple((0, dimension) for dimension in range(4)),
        values=np.concatenate(values).astype(np.float32),
        token_text=tuple(texts),
        prompt_index=np.array(index),
        positions=np.array(positions),
        prompts=tuple(names),
        domains=tuple(domains),
        splits=tuple(splits),
    )


def dcds(*dimensions: int, domain: str = "law") -> list[Dimension]:
    return [Dimension(domain, d, 1, "magnitude", 1.0, 1.0, 1.0, 1.0, "this domain") for d in dimensions]


def scored(columns: TokenColumns, *dimensions: int) -> dict[int, LabelScore]:
    return {item.dimension: item for item in score_labels(columns, dcds(*dimensions), n_permutations=199)}


def test_the_scores_tell_a_class_detector_from_one_that_also_knows_the_domain() -> None:
    found = scored(make_columns(), CLASS, IN_DOMAIN)
    assert {item.label for item in found.values()} == {"legal terms"}
    for item in found.values():
        assert item.within > 0.95
        assert item.within_p == pytest.approx(1 / 200)
    assert found[CLASS].across_low < 0.5 < found[CLASS].across_high
    assert found[CLASS].across_p > 0.05
    assert found[IN_DOMAIN].across > 0.95
    assert found[IN_DOMAIN].across_p < 0.01


def test_scores_are_those_of_scikit_learn() -> None:
    columns = make_columns(1)
    item = scored(columns, CLASS)[CLASS]
    of = np.array([SPLITS.index(columns.splits[q]) == 2 for q in columns.prompt_index]) & (columns.positions > 0)
    law = np.array([columns.domains[q] == "law" for q in columns.prompt_index])
    legal = np.isin(columns.token_text, WORDS[IS_LEGAL])
    sign = 1 if item.end == "high" else -1
    x = sign * columns.values[:, CLASS]
    assert item.within == pytest.approx(roc_auc_score(legal[of & law], x[of & law]))
    assert item.across == pytest.approx(roc_auc_score(law[of & legal], x[of & legal]))
    assert (item.n_inside, item.n_outside) == ((of & legal & law).sum(), (of & legal & ~law).sum())


def test_permutations_have_their_level_also_where_position_explains_all() -> None:
    """Legal words only early, and a dimension that fires early: patterns of other passages explain it as well."""
    p_values = []
    for seed in range(20):
        columns = make_columns(seed, n_passages=8)
        legal = np.isin(columns.token_text, WORDS[IS_LEGAL])
        text = np.where(legal & (columns.positions >= 8), " zorp", columns.token_text)
        early = TokenColumns(**{**vars(columns), "token_text": tuple(text.tolist())})
        item = scored(early, AT_START)[AT_START]
        assert item.within > 0.8 or item.label != "legal terms"
        p_values.append(item.within_p)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15


def test_controls_are_no_dcds_and_the_curve_puts_them_beside() -> None:
    rows = PooledRows(("a",), ("law",), ("identify",), ("mean_abs",), np.ones((1, 1, 1, 4), dtype=np.float32))
    controls = control_dimensions(rows, dcds(CLASS, IN_DOMAIN), 2)
    assert [item.dimension for item in controls] == [NOISE, AT_START]
    found = score_labels(make_columns(), dcds(CLASS, IN_DOMAIN), controls, n_permutations=9)
    assert [item.is_dcd for item in found] == [True, True, False, False]
    curve = label_curve(found)
    all_labelled = curve[curve["n"] == 2].drop_duplicates(["group", "score"]).set_index(["group", "score"])["mean"]
    assert all_labelled["DCDs", "within"] == pytest.approx(np.mean([found[0].within, found[1].within]))
    assert all_labelled["DCDs", "within"] > all_labelled["other dimensions", "within"] + 0.2
    assert label_frame(found)["dimension"].tolist() == [0, 1, 2, 3]
    facts = label_summary(found)
    assert (facts["DCDs"]["labels"], facts["other dimensions"]["labels"]) == (2, 2)
    assert facts["DCDs"]["within"] == pytest.approx(np.mean([found[0].within, found[1].within]))
    assert facts["DCDs"]["within_measured"] == 2
    with pytest.raises(ValueError, match="3 controls asked for, but 2"):
        control_dimensions(rows, dcds(CLASS, IN_DOMAIN), 3)


def test_what_cannot_be_scored_is_said() -> None:
    with pytest.raises(ValueError, match="dimension 9 was not collected"):
        score_labels(make_columns(), dcds(9))
    columns = make_columns()
    only_law = TokenColumns(**{**vars(columns), "domains": tuple("law" for _ in columns.domains)})
    item = scored(only_law, CLASS)[CLASS]
    assert np.isnan(item.across)
    assert item.n_outside == 0
