"""Corpora: what ships, what is promised of splits, limits and cuts, and every wrong input."""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hub import offline_hub
from workbench.corpus import (
    BUILTIN_DOMAINS,
    CorpusError,
    corpus_hash,
    cut_passages,
    load_corpus,
    load_hf_dataset,
    load_pairs,
    neutral_prompts,
)
from workbench.records import SPLITS, Prompt

SHIPPED = [*load_corpus(), *neutral_prompts()]


def rows(domain: str, texts: Iterable[str], **more: str) -> list[dict[str, str]]:
    return [{"text": text, "domain": domain, **more} for text in texts]


def numbered(domain: str, n: int) -> list[dict[str, str]]:
    return rows(domain, (f"{domain} passage number {i}" for i in range(n)))


def write_lines(path: Path, entries: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def splits_of(prompts: Iterable[Prompt], domain: str) -> dict[str, str]:
    return {" ".join(p.text.split()): p.split for p in prompts if p.domain == domain}


def texts_of(domain: str) -> st.SearchStrategy[list[str]]:
    """Six or more texts that differ in more than white space and belong to one domain only."""
    text = st.text(max_size=30).map(lambda words: f"{domain}: {words}")
    return st.lists(text, min_size=6, max_size=40, unique_by=lambda words: " ".join(words.split()))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus") / "corpus.jsonl"


# --- what ships -------------------------------------------------------------------------------------------------------


def test_every_builtin_domain_has_48_24_48_passages_and_the_neutral_text_half_as_many() -> None:
    counts = Counter((prompt.domain, prompt.split) for prompt in SHIPPED)
    expected = {(d, s): 24 if s == "tune" else 48 for d in BUILTIN_DOMAINS for s in SPLITS}
    assert counts == expected | {("neutral", "identify"): 24, ("neutral", "tune"): 12, ("neutral", "test"): 24}


def test_splits_are_spread_evenly_over_the_shipped_files() -> None:
    for start in range(0, len(SHIPPED), 5):
        assert Counter(p.split for p in SHIPPED[start : start + 5]) == {"identify": 2, "tune": 1, "test": 2}


def test_no_two_shipped_passages_share_eight_words_in_a_row() -> None:
    home: dict[tuple[str, ...], str] = {}
    for prompt in SHIPPED:
        words = re.findall(r"\w+", prompt.text.lower())
        for start in range(len(words) - 7):
            assert home.setdefault(tuple(words[start : start + 8]), prompt.name) == prompt.name


def test_shipped_passages_have_30_to_80_tokens() -> None:
    found = list(Path(str(resources.files("workbench"))).glob("builtin/**/tokenizer.json"))
    if not found:
        pytest.skip("the tokenizer of the built-in model is not here")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(found[0]))
    lengths = {p.name: len(tokenizer.encode(p.text, add_special_tokens=False).ids) for p in SHIPPED}
    assert {name: n for name, n in lengths.items() if not 30 <= n <= 80} == {}


# --- splits, limits, order --------------------------------------------------------------------------------------------


@given(law=texts_of("law"), code=texts_of("code"), seed=st.integers(0, 2**32))
def test_splits_partition_every_domain_in_the_shares_40_20_40(
    path: Path, law: list[str], code: list[str], seed: int
) -> None:
    prompts = load_corpus(write_lines(path, rows("law", law) + rows("code", code)), seed=seed)
    assert len({p.name for p in prompts}) == len(prompts) == len(law) + len(code)
    for domain, texts in (("law", law), ("code", code)):
        splits = splits_of(prompts, domain)
        assert set(splits) == {" ".join(text.split()) for text in texts}
        counts = Counter(splits.values())
        for split, share in (("identify", 0.4), ("tune", 0.2), ("test", 0.4)):
            assert abs(counts[split] - share * len(texts)) <= 1
            assert counts[split] >= 1


@given(law=texts_of("law"), code=texts_of("code"), art=texts_of("art"), shuffled=st.randoms())
def test_splits_do_not_depend_on_order_on_repetitions_or_on_other_domains(
    path: Path, law: list[str], code: list[str], art: list[str], shuffled: random.Random
) -> None:
    plain = rows("law", law) + rows("code", code)
    more = plain + rows("art", art) + rows("law", (f" {text}\n\n" for text in law[:3])) + plain[-2:]
    shuffled.shuffle(more)
    before, after = load_corpus(write_lines(path, plain)), load_corpus(write_lines(path, more))
    assert splits_of(after, "law") == splits_of(before, "law")
    assert splits_of(after, "code") == splits_of(before, "code")
    assert len(after) == len(before) + len(art)


def test_the_seed_decides_the_splits(path: Path) -> None:
    write_lines(path, numbered("law", 40) + numbered("code", 40))
    assert load_corpus(path, seed=1) == load_corpus(path, seed=1)
    assert splits_of(load_corpus(path, seed=1), "law") != splits_of(load_corpus(path, seed=2), "law")


def test_domains_draw_their_splits_independently(path: Path) -> None:
    """Equal splits at all 40 places would mean one draw used twice."""
    prompts = load_corpus(write_lines(path, numbered("law", 40) + numbered("code", 40)))
    assert [p.split for p in prompts[:40]] != [p.split for p in prompts[40:]]


def test_stated_splits_are_kept(path: Path) -> None:
    stated = ["identify", "test", "test", "tune", "identify", "test", "test"]
    entries = [row | {"split": s} for row, s in zip(numbered("law", 7), stated, strict=True)]
    prompts = load_corpus(write_lines(path, entries + numbered("code", 9)))
    assert [p.split for p in prompts if p.domain == "law"] == stated


def test_limit_keeps_the_proportions_of_the_splits() -> None:
    counts = Counter((p.domain, p.split) for p in load_corpus(limit=30))
    assert counts == {(d, s): 6 if s == "tune" else 12 for d in BUILTIN_DOMAINS for s in SPLITS}


@given(texts=texts_of("law"), seed=st.integers(0, 99), small=st.integers(6, 45), more=st.integers(0, 9))
def test_a_larger_limit_only_adds_and_changes_no_split(
    path: Path, texts: list[str], seed: int, small: int, more: int
) -> None:
    write_lines(path, rows("law", texts) + numbered("code", 6))
    few = load_corpus(path, seed=seed, limit=small)
    many = load_corpus(path, seed=seed, limit=small + more)
    everything = load_corpus(path, seed=seed)
    assert [p for p in many if p in few] == few
    assert [p for p in everything if p in many] == many
    assert len(few) == min(small, len(texts)) + 6


def test_limit_is_drawn_and_does_not_take_the_first() -> None:
    first, second = (load_corpus(limit=10, seed=seed) for seed in (1, 2))
    assert {p.name for p in first} != {p.name for p in second}


def test_domains_choose_and_order() -> None:
    prompts = load_corpus(domains=["law", "biology"])
    assert [p.domain for p in prompts] == ["law"] * 120 + ["biology"] * 120
    assert set(prompts) < set(load_corpus())


def test_a_name_counts_the_passages_of_the_domain_as_read(path: Path) -> None:
    repeated = [*numbered("law", 2), *numbered("law", 7), *numbered("code", 6)]
    names = [p.name for p in load_corpus(write_lines(path, repeated)) if p.domain == "law"]
    assert names == ["law/0", "law/1", "law/4", "law/5", "law/6", "law/7", "law/8"]


def test_the_hash_ignores_order_and_sees_every_field() -> None:
    prompts = load_corpus(domains=["law", "code"])
    assert corpus_hash(prompts[::-1]) == corpus_hash(prompts)
    other = "tune" if prompts[0].split != "tune" else "test"
    for change in ({"text": "x"}, {"domain": "x"}, {"name": "x"}, {"split": other}):
        assert corpus_hash([replace(prompts[0], **change), *prompts[1:]]) != corpus_hash(prompts)
    assert corpus_hash(prompts[1:]) != corpus_hash(prompts)


# --- cutting ----------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(["word", "a", "Mr. ", ". ", " ", "\n", "\n\n", "  \n", "\t", "longestword", "\u2028", "é"])


@given(text=st.lists(PIECES, max_size=60).map("".join), limit=st.integers(1, 40))
def test_cutting_loses_white_space_only_and_respects_the_limit(text: str, limit: int) -> None:
    passages = cut_passages(text, limit)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(len(passage) <= limit and passage.strip() for passage in passages)


@given(text=st.text(min_size=1, max_size=50))
def test_a_short_document_stays_whole(text: str) -> None:
    assert len(cut_passages(text, 50)) == (1 if text.strip() else 0)


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        ("one two\n\nthree\nfour five. six", ["one two", "three\nfour", "five. six"]),
        ("one two three\nfour. five six", ["one two three", "four. five six"]),
        ("one two. three four", ["one two.", "three four"]),
        ("one two three four", ["one two three", "four"]),
        ("onetwothreefourfive", ["onetwothreefou", "rfive"]),
        ("def f():\n    x = 1\n\n    return x", ["def f():", "    x = 1", "    return x"]),
    ],
    ids=["blank line", "line end", "sentence end", "space", "anywhere", "indentation"],
)
def test_cuts_prefer_blank_lines_then_lines_then_sentences(text: str, passages: list[str]) -> None:
    assert cut_passages(text, 14) == passages


# --- sources ----------------------------------------------------------------------------------------------------------


def test_a_folder_and_the_same_texts_as_json_lines_give_the_same_prompts(
    tiny_corpus_folder: Path, tiny_jsonl: Path
) -> None:
    assert load_corpus(tiny_corpus_folder, seed=3) == load_corpus(str(tiny_jsonl), seed=3)


def test_a_folder_may_mix_files_and_sub_folders(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i} of the long file, with some words in it." for i in range(8)]
    (tmp_path / "law.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(paragraphs).encode())
    (tmp_path / "code/deep").mkdir(parents=True)
    for i in range(6):
        (tmp_path / f"code/{'deep/' if i % 2 else ''}{i}.py").write_bytes(b"x = %d\r\ny = 2\n" % i)
    write_lines(tmp_path / "art.jsonl", [{"text": f"line {i}"} for i in range(6)])
    (tmp_path / ".git").mkdir()
    (tmp_path / "code/.DS_Store").write_bytes(b"\0\1")
    prompts = load_corpus(tmp_path, max_characters=70)
    assert [p.text for p in prompts if p.domain == "law"] == paragraphs
    assert {p.text for p in prompts if p.domain == "code"} == {f"x = {i}\ny = 2" for i in range(6)}
    assert sorted({p.domain for p in prompts}) == ["art", "code", "law"]


def test_files_of_domains_that_were_not_asked_for_are_not_read(tiny_corpus_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_corpus_folder, tmp_path / "corpus")
    (tmp_path / "corpus/photos").mkdir()
    (tmp_path / "corpus/photos/cat.jpg").write_bytes(b"\0\xff")
    assert load_corpus(tmp_path / "corpus", domains=["law", "science"]) == load_corpus(tiny_corpus_folder)


def test_a_json_line_may_hold_unicode_line_separators(path: Path) -> None:
    entries = rows("law", (f"one\u2028two\x85 {i}" for i in range(6))) + numbered("code", 6)
    text = "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    path.write_bytes(text.encode())
    assert [p.text for p in load_corpus(path)][:6] == [f"one\u2028two\x85 {i}" for i in range(6)]


@pytest.fixture
def hub_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset in a Hugging Face cache of its own, on a machine whose network refuses every connection."""
    datasets = pytest.importorskip("datasets")
    snapshot = offline_hub(tmp_path, monkeypatch)("datasets--somebody--exams")
    labels = datasets.Features(
        {
            "question": datasets.Value("string"),
            "subject": datasets.ClassLabel(names=["law", "code"]),
            "part": datasets.Value("string"),
        }
    )
    columns = {
        "question": [f"question {i}" for i in range(12)] + ["", None],
        "subject": [0, 1] * 7,
        "part": ["identify", "identify", "tune", "tune", "test", "test"] * 2 + ["test", "test"],
    }
    datasets.Dataset.from_dict(columns, features=labels).to_parquet(snapshot / "train.parquet")
    plain = {"text": columns["question"][:12], "domain": [7, 8] * 6}
    (snapshot / "small").mkdir()
    datasets.Dataset.from_dict(plain).to_parquet(snapshot / "small/train.parquet")
    configurations = [("exams", "train.parquet"), ("small", "small/train.parquet")]
    listing = "".join(f"- config_name: {name}\n  data_files: {file}\n" for name, file in configurations)
    (snapshot / "README.md").write_text(f"---\nconfigs:\n{listing}---\n", encoding="utf-8")
    return "somebody/exams"


def test_a_cached_hub_dataset_is_read_without_network(hub_dataset: str) -> None:
    def read(**options: Any) -> list[Prompt]:
        return load_hf_dataset(
            hub_dataset, configuration="exams", text_column="question", domain_column="subject", **options
        )

    prompts = read(split_column="part")
    assert {p.text: p.domain for p in prompts} == {f"question {i}": ["law", "code"][i % 2] for i in range(12)}
    assert [p.split for p in prompts] == ["identify", "tune", "test"] * 4
    assert len(read()) == 12
    assert {p.domain for p in load_corpus(f"hf:{hub_dataset}:small")} == {"7", "8"}


def test_what_a_hub_dataset_lacks_is_said(hub_dataset: str) -> None:
    def refuse(message: str, name: str, **options: Any) -> None:
        with pytest.raises(CorpusError, match=message) as caught:
            load_hf_dataset(name, **options)
        assert "\n" not in str(caught.value)

    refuse("not.*in the Hugging Face cache.*allow_download=True", "somebody/else")
    refuse("'exams', 'small'", hub_dataset)
    refuse("no column 'text', only question, subject, part; .*text_column", hub_dataset, configuration="exams")
    refuse("Unknown split", hub_dataset, configuration="small", dataset_split="validation")
    refuse("Repo id", "not//a name")


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs_are_read_from_a_list_and_from_lines(tmp_path: Path) -> None:
    entries = [{"positive": f"yes {i}", "negative": f"no {i}", "note": "kept out"} for i in range(3)]
    (tmp_path / "list.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    pairs = load_pairs(tmp_path / "list.json")
    assert pairs == load_pairs(str(write_lines(tmp_path / "pairs.jsonl", entries)))
    assert [(p.positive, p.negative) for p in pairs] == [(f"yes {i}", f"no {i}") for i in range(3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no pairs"),
        (b"[]", "holds no pairs"),
        (b'{"positive": "a", "negative": "b"}\n{"positive": "a"}', "line 2 .* has no negative"),
        (b'[{"positive": "a", "negative": "b"}, {"positive": 1, "negative": "b"}]', "entry 1 .* has no positive"),
        (b'{"positive": "a", "negative": "a"}', "line 1 .*same text"),
        (b'{"positive": "a"', "line 1 .*not valid JSON"),
        (b'["a"]', "entry 0 .*not a JSON object"),
        (b'{"positive": "caf\xe9", "negative": "b"}', "not UTF-8 text .*0xe9 at offset 17"),
        (None, "cannot read .*pairs.json"),
    ],
)
def test_unusable_pairs_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "pairs.json").write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_pairs(tmp_path / "pairs.json")
    assert "\n" not in str(caught.value)


# --- bad input --------------------------------------------------------------------------------------------------------

GOOD = numbered("law", 6) + numbered("code", 6)
SPLIT_LAW = [row | {"split": split} for row, split in zip(GOOD[:6], SPLITS * 2, strict=True)]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "is empty; give 'builtin'"),
        (numbered("law", 9), "only the domain 'law'.*at least two"),
        (GOOD + numbered("art", 5), "'art' has 5 different passages, at least 6 .*max_characters below 1500"),
        (GOOD + numbered("art", 1) * 9, "'art' has 1 different passages"),
        ([*GOOD, {"domain": "law"}], "line 13 of .*corpus.jsonl has no text"),
        ([*GOOD, {"text": "  \n", "domain": "law"}], "line 13 .*has no text"),
        ([{"text": "a passage"}, *GOOD], "line 1 .*has no domain"),
        ([*GOOD, {"text": "a", "domain": ["law"]}], "line 13 .*has no domain"),
        ([*GOOD, "a text"], "line 13 .*not a JSON object"),
        ([*GOOD, {"text": "a \ud800", "domain": "law"}], "line 13 .*surrogate"),
        ([*GOOD, {"text": "a", "domain": "law", "split": "train"}], "line 13 .*'train'; expected identify, tune, test"),
        ([*SPLIT_LAW, *GOOD[6:], {"text": "a", "domain": "law"}], "line 13 .*no split, others of domain 'law' have"),
        ([row | {"split": "tune"} for row in GOOD], "'law' has no passage in split 'identify'"),
        ([*SPLIT_LAW, SPLIT_LAW[0] | {"split": "test"}, *GOOD[6:]], "line 1 .*line 7 .*in different splits"),
        ([*GOOD, GOOD[0] | {"domain": "code"}], "line 1 .*line 13 .*'law' and 'code'; .*remove one"),
        (GOOD + numbered("neutral", 6), "'neutral'.*rename"),
    ],
)
def test_unusable_json_lines_are_refused(tmp_path: Path, entries: list[object], message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(write_lines(tmp_path / "corpus.jsonl", entries))
    assert "\n" not in str(caught.value)


def test_broken_json_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "corpus.jsonl", GOOD)
    path.write_text(path.read_text(encoding="utf-8") + "\n{text: no}\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"line 14 of .*not valid JSON"):
        load_corpus(path)


def text_file(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (text_file("law/photo.jpg", b"\xff\xd8\0\1"), r"photo.jpg is not text \(it holds NUL bytes\)"),
        (text_file("law/old.txt", b"caf\xe9 au lait"), "old.txt is not UTF-8 text .*byte 0xe9 at offset 3"),
        (text_file("empty.txt", b" \n\n"), "'empty' has no text"),
        (lambda folder: (folder / "hollow").mkdir(), "'hollow' has no text"),
        (text_file("short.txt", b"one\n\ntwo"), "'short' has 1 different passages"),
        (text_file("law.md", b"more"), "more than one entry for domain 'law'"),
        (text_file("law/x.jsonl", b'{"text": "a", "domain": "art"}'), "line 1 .*'art', but its file says 'law'"),
        (shutil.rmtree, "there is no file or folder .*corpus'; give 'builtin'"),
        (lambda folder: shutil.rmtree(folder / "law"), "only the domain 'science'"),
        (lambda folder: [shutil.rmtree(entry) for entry in folder.iterdir()], "is empty; give 'builtin'"),
    ],
)
def test_unusable_folders_are_refused(
    tiny_corpus_folder: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = shutil.copytree(tiny_corpus_folder, tmp_path / "corpus")
    spoil(folder)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ["law", "cooking"]}, "unknown domain 'cooking'; builtin has mathematics, biology, .*humanities"),
        ({"domains": ["law", "neutral"]}, "unknown domain 'neutral'"),
        ({"domains": ["law", "law"]}, "asked for only the domain 'law'"),
        ({"domains": []}, "asked for no domain"),
        ({"domains": "law"}, r"give a list, such as \['law', ...\]"),
        ({"limit": 5}, "limit is 5; at least 6"),
        ({"max_characters": 0}, "max_characters is 0"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_corpus(**options)


def test_a_single_text_file_is_refused(tmp_path: Path) -> None:
    text_file("law.txt", b"one domain")(tmp_path)
    with pytest.raises(CorpusError, match=r"law.txt is a single file, and a corpus needs two domains"):
        load_corpus(tmp_path / "law.txt")
