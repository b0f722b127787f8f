"""Tables by their format, every error with its line; which files of a folder are text of a domain."""

import csv
import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.hub import offline_hub
from workbench.corpus import CorpusError, draw_some, draw_splits, load_corpus, load_hf_dataset
from workbench.corpus.rows import parquet_rows, read_rows, table_rows
from workbench.records import SPLITS

ENTRIES = [{"text": f"{domain} passage {n}", "domain": domain} for domain in ("law", "code") for n in range(8)]
FRAME = pd.DataFrame(ENTRIES)


def texts(prompts: list) -> set[tuple[str, str]]:
    return {(prompt.domain, prompt.text) for prompt in prompts}


EXPECTED = {(entry["domain"], entry["text"]) for entry in ENTRIES}


def test_every_table_gives_the_same_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ENTRIES)))
    (tmp_path / "a.ndjson").write_text("\n".join(map(json.dumps, ENTRIES)))
    (tmp_path / "a.json").write_text(json.dumps(ENTRIES, indent=1))
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME.to_csv(tmp_path / "a.TSV", index=False, sep="\t")
    FRAME.to_parquet(tmp_path / "a.parquet")
    first = load_corpus(FRAME)
    assert texts(first) == EXPECTED
    for path in tmp_path.iterdir():
        assert load_corpus(path) == first, path.name
    by_domain = {
        domain: [entry["text"] for entry in ENTRIES if entry["domain"] == domain] for domain in ("law", "code")
    }
    assert load_corpus(by_domain) == first
    renamed = FRAME.rename(columns={"text": "body", "domain": "label"})
    renamed.to_csv(tmp_path / "b.csv", index=False)
    assert load_corpus(tmp_path / "b.csv", text_column="body", domain_column="label") == first
    assert load_corpus(renamed, text_column="body", domain_column="label") == first


def test_a_list_of_texts_has_no_domains() -> None:
    with pytest.raises(CorpusError, match="a list says no domain"):
        load_corpus(["one", "two"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("goal,target\na,b\nwrite it, please,Sure\n", "line 3 of .* has 3 fields for 2 columns"),
        ("goal,target\na\n", "line 2 of .* has 1 fields for 2 columns"),
        ('goal,target\n"two\nlines",b\n"never closed,c\nd,e\n', "line 4 of .* is no CSV .*not closed"),
        ('goal,target\n"a"b,c\n', "line 2 of .* is no CSV"),
    ],
)
def test_rows_that_do_not_fit_are_named_by_their_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(CorpusError, match=message) as caught:
        table_rows(tmp_path / "x.csv")
    assert "\n" not in str(caught.value)


def test_cells_may_be_long_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "x.csv").write_text(f"goal,target\n{'x' * 200_000},b\n")
    assert len(table_rows(tmp_path / "x.csv")[0][0]["goal"]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_deep_nesting_is_one_line(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text(text)
    with pytest.raises(CorpusError, match="nested too deeply"):
        read_rows(path)


def test_what_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("PAR1 not really")
    with pytest.raises(CorpusError, match=r"cannot read .*x\.parquet as Parquet"):
        parquet_rows(tmp_path / "x.parquet")


# --- folders ----------------------------------------------------------------------------------------------------------


def folder_of(path: Path, names: tuple[str, ...]) -> Path:
    path.mkdir()
    for name in names:
        passages = [f"{name} passage {n} is long enough to stand alone" for n in range(8)]
        (path / name).write_text("\n\n".join(passages))
    return path


@pytest.mark.parametrize("name", ["law.json", "law.csv", "law.tsv"])
def test_tables_in_a_folder_are_not_read_as_prose(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "f", ("code.txt",))
    rows = FRAME[FRAME["domain"] == "law"][["text"]]
    if name.endswith("json"):
        (folder / name).write_text(json.dumps(rows.to_dict("records"), indent=1))
    else:
        rows.to_csv(folder / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    found = load_corpus(folder, max_characters=60)
    assert {prompt.text for prompt in found if prompt.domain == "law"} == set(rows["text"])


@pytest.mark.parametrize("name", ["law.html", "law.rtf", "law.XML"])
def test_markup_is_refused(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "f", ("code.txt", name))
    with pytest.raises(CorpusError, match="markup would be read as text"):
        load_corpus(folder, max_characters=60)
    (folder / name).rename(folder / "law.txt")
    (folder / "law").mkdir()
    (folder / "law.txt").rename(folder / "law" / name)
    with pytest.raises(CorpusError, match="markup would be read as text"):
        load_corpus(folder, max_characters=60)


def test_a_readme_is_no_domain_unless_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path / "f", ("code.txt", "README.md", "LICENSE"))
    folder_of(folder / "law", ("a.txt", "ReadMe.txt"))
    with caplog.at_level(logging.WARNING):
        found = load_corpus(folder, max_characters=60)
    assert {prompt.domain for prompt in found} == {"code", "law"}
    assert not any("ReadMe" in prompt.text for prompt in found)
    assert "left out LICENSE, README.md, law/ReadMe.txt" in caplog.text
    assert {p.domain for p in load_corpus(folder, domains=["README", "code"], max_characters=60)} == {"README", "code"}


@pytest.mark.parametrize("asked", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_names_of_domains_are_the_same_however_they_are_composed(tmp_path: Path, asked: str, stored: str) -> None:
    name = unicodedata.normalize(stored, "économie")  # pyright: ignore[reportArgumentType]
    wanted = unicodedata.normalize(asked, "économie")  # pyright: ignore[reportArgumentType]
    folder = folder_of(tmp_path / "f", (f"{name}.txt", "law.txt"))
    for source in (folder, FRAME.replace("code", name), {name: list("ijklmnop"), "law": list("abcdefgh")}):
        found = load_corpus(source, domains=[wanted, "law"], max_characters=60)
        assert {prompt.domain for prompt in found} == {unicodedata.normalize("NFC", name), "law"}


def test_a_published_text_of_two_domains_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    doubled = [*ENTRIES, {"text": "law  passage 3", "domain": "code"}]
    snapshot = offline_hub(tmp_path, monkeypatch)("datasets--somebody--texts")
    (snapshot / "train.jsonl").write_text("\n".join(map(json.dumps, doubled)))
    with caplog.at_level(logging.WARNING):
        found = load_hf_dataset("somebody/texts")
    assert texts(found) == EXPECTED - {("law", "law passage 3")}
    assert "left out 1 passages" in caplog.text
    with pytest.raises(CorpusError, match="a passage belongs to one domain"):
        load_corpus(pd.DataFrame(doubled))


# --- draws ------------------------------------------------------------------------------------------------------------


def test_splits_depend_on_the_seed_and_the_texts_alone() -> None:
    names = [f"text {n}" for n in range(20)]
    drawn = draw_splits(names, 3)
    assert [list(drawn.values()).count(split) for split in SPLITS] == [8, 4, 8]
    assert draw_splits(names[::-1] + names, 3) == drawn
    assert draw_splits(names, 4) != drawn
    assert draw_splits(names, 3, "law") != drawn


def test_some_of_many() -> None:
    assert draw_some(5, None, 0) == draw_some(5, 7, 0) == [0, 1, 2, 3, 4]
    counts = np.bincount([index for seed in range(300) for index in draw_some(6, 2, seed)], minlength=6)
    assert counts.sum() == 600
    assert counts.min() > 60
    assert draw_some(100, 5, [1, 2]) == sorted(draw_some(100, 5, [1, 2]))
