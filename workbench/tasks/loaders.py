"""Reading the files that tasks are made of: exam questions, attack requests, choice pairs, persona traits, plain items.

Formats: MMLU as JSON lines {subject, question, choices, answer}, as CSV (question, A, B, C, D, letter; one file per
subject or a folder of them) or from the hub; AdvBench-style CSV (goal, target); contrast pairs {positive, negative};
CAA's own JSON (question, answer_matching_behavior, answer_not_matching_behavior); traits of persona vectors; JSON lines
of items. Sources that carry no splits get them by a draw that depends on the seed and on the texts alone, 40/20/40 per
domain; texts that stand twice are taken once.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.corpus import draw_splits, load_pairs
from workbench.corpus.rows import (
    Row,
    csv_records,
    hub_dataset,
    json_lines,
    parse_json,
    read_rows,
    read_text,
    split_of,
    table_rows,
    text_of,
    texts_of,
)
from workbench.records import ChoiceItem, Pair, Split
from workbench.tasks.base import TaskError, TaskItem

_log = logging.getLogger(__name__)

LETTERS = "ABCDEFGHIJ"
SUFFIXES = ("_test", "_val", "_dev")
N_CSV_COLUMNS = 6


@dataclass(frozen=True)
class Request:
    """A request that a model should decline, and how a compliant answer would begin (AdvBench's goal and target)."""

    name: str
    split: Split
    goal: str
    target: str


@dataclass(frozen=True)
class Trait:
    """A persona: pairs of instructions that ask for it and against it, questions, and a prompt for a judge.

    The judge's prompt holds {question} and {answer}, and asks for a number from 0 to 100; it may be "". `markers` are
    words that give the trait away, for judging without a language model; the published files have none.
    """

    name: str
    instructions: tuple[tuple[str, str], ...]
    questions: tuple[str, ...]
    judge_prompt: str
    markers: tuple[str, ...] = ()


def load_questions(
    source: str | Path, *, subjects: Sequence[str] | None = None, seed: int = 0, allow_download: bool = False
) -> list[ChoiceItem]:
    """Multiple-choice questions, subject by subject; `prompt` is the bare question, `domain` the subject.

    `source` is a .jsonl file, a .csv file, a folder of .csv files, or "hf:owner/name[:configuration]", which is read
    from the local cache unless `allow_download`. `subjects` chooses; an unknown one raises. Questions that offer the
    same choice twice (MMLU has some) are left out, and counted in a logged warning.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        name, _, configuration = source.removeprefix("hf:").partition(":")
        found = hub_dataset(name, configuration or None, None, "test", allow_download)
        rows = [(dict(row), f"row {index} of {name}") for index, row in enumerate(found)]
    else:
        path = Path(source)
        if path.is_dir():
            files = sorted(path.glob("*.csv"))
            if not files:
                raise TaskError(f"folder {path} holds no .csv files of questions; give a .jsonl or .csv file instead")
            rows = [row for file in files for row in csv_questions(file)]
        elif path.suffix == ".csv":
            rows = csv_questions(path)
        else:
            rows = read_rows(path)
    usable = [(row, place) for row, place in rows if not _repeats_a_choice(row)]
    if len(usable) < len(rows):
        _log.warning("%s: left out %d questions that offer a choice twice", source, len(rows) - len(usable))
    items = _distinct(_question(row, place) for row, place in usable)
    known = list(dict.fromkeys(item.domain for item in items))
    unknown = [subject for subject in subjects or () if subject not in known]
    if unknown:
        raise TaskError(f"{source} has no subject {unknown[0]!r}; it has {', '.join(known[:8])} ... ({len(known)})")
    chosen = [item for item in items if subjects is None or item.domain in subjects]
    if not chosen:
        raise TaskError(f"{source} holds no questions")
    return _with_splits(chosen, seed)


def load_requests(path: str | Path, *, seed: int = 0) -> list[Request]:
    """Requests of an AdvBench-style CSV file: a header with `goal` and `target` (other columns are ignored)."""
    rows = table_rows(Path(path))
    if not rows:
        raise TaskError(f"{path} holds no requests; expected a header goal,target and one request per line")
    missing = [name for name in ("goal", "target") if name not in rows[0][0]]
    if missing:
        given = ", ".join(rows[0][0])
        raise TaskError(f"{path} has no column {missing[0]!r} in its header ({given}); expected goal,target")
    found: dict[str, str] = {}
    for row, place in rows:
        found.setdefault(text_of(row, "goal", place).strip(), text_of(row, "target", place).strip())
    splits = draw_splits(list(found), seed)
    return [Request(f"request/{n}", splits[goal], goal, target) for n, (goal, target) in enumerate(found.items())]


def load_choice_pairs(path: str | Path, *, seed: int = 0) -> list[ChoiceItem]:
    """Items with a wanted and an unwanted end: contrast pairs {positive, negative}, or CAA's own JSON.

    The prompt is what both texts share (cut after the last word or bracket they share), or the question; choice 0 is
    the wanted one. Texts that already differ in their first character cannot be items and raise.
    """
    path = Path(path)
    rows = read_rows(path)
    if rows and "answer_matching_behavior" in rows[0][0]:
        items = [_caa_item(entry, place) for entry, place in rows]
    else:
        items = [_pair_item(pair, index, path) for index, pair in enumerate(load_pairs(path))]
    return _with_splits(_distinct(items), seed)


def load_trait(path: str | Path) -> Trait:
    """A trait in the JSON of persona vectors: {instruction: [{pos, neg}], questions: [...], eval_prompt[, markers]}."""
    path = Path(path)
    content = parse_json(read_text(path), str(path))
    if not isinstance(content, dict):
        raise TaskError(f"{path} is not a JSON object; expected instruction, questions and eval_prompt")
    instructions = content.get("instruction")
    if not isinstance(instructions, list) or not instructions:
        raise TaskError(f"{path} has no list 'instruction' of {{pos, neg}}")
    pairs = tuple(
        (
            text_of(entry, "pos", f"instruction {index} of {path}"),
            text_of(entry, "neg", f"instruction {index} of {path}"),
        )
        for index, entry in enumerate(instructions)
    )
    questions = content.get("questions")
    if not isinstance(questions, list) or not all(isinstance(one, str) and one.strip() for one in questions or [0]):
        raise TaskError(f"{path} has no list 'questions' of texts")
    markers = texts_of(content, "markers", str(path))
    return Trait(path.stem, pairs, tuple(dict.fromkeys(questions)), str(content.get("eval_prompt") or ""), markers)


def load_items(path: str | Path, *, seed: int = 0) -> list[TaskItem]:
    """Plain items as JSON lines: {prompt, answers, distractors[, name, subject, split, domain]}.

    `answers` and `distractors` are lists of texts, written as they would follow the prompt. Splits are stated for all
    items or for none.
    """
    path = Path(path)
    rows = list(json_lines(path))
    stated = [row.get("split") for row, _ in rows]
    if any(stated) and not all(stated):
        place = rows[stated.index(None)][1]
        raise TaskError(f"{place} has no split, other items have; state it for all or for none")
    subjects = [str(row.get("subject") or f"item {index}") for index, (row, _) in enumerate(rows)]
    drawn = {} if any(stated) else draw_splits(subjects, seed)
    return [
        TaskItem(
            str(row.get("name") or f"item/{index}"),
            subject,
            split_of(row["split"], place) if any(stated) else drawn[subject],
            text_of(row, "prompt", place),
            texts_of(row, "answers", place),
            texts_of(row, "distractors", place),
            str(row.get("domain") or ""),
        )
        for index, ((row, place), subject) in enumerate(zip(rows, subjects, strict=True))
    ]


# --- entries ----------------------------------------------------------------------------------------------------------


def csv_questions(path: Path) -> list[Row]:
    """Rows of question, choices A to D and the letter of the right one, without header (one is skipped if there)."""
    stem = path.stem
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    rows = []
    for number, (row, place) in enumerate(csv_records(path)):
        if number == 0 and len(row) == N_CSV_COLUMNS and row[0].strip().lower() == "question":
            continue
        if len(row) != N_CSV_COLUMNS or row[5].strip().upper() not in ("A", "B", "C", "D"):
            raise TaskError(f"{place}: expected question,A,B,C,D,letter, given {len(row)} columns")
        rows.append(({"subject": stem, "question": row[0], "choices": row[1:5], "answer": row[5]}, place))
    if not rows:
        raise TaskError(f"{path} is empty; expected lines of question,A,B,C,D,letter")
    return rows


def _repeats_a_choice(row: Mapping[str, Any]) -> bool:
    choices = row.get("choices")
    return isinstance(choices, list) and len(set(map(str, choices))) < len(choices)


def _question(row: Mapping[str, Any], place: str) -> ChoiceItem:
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
        raise TaskError(f"{place} has no list 'choices' of texts")
    if isinstance(answer, str) and answer.strip().upper() in tuple(LETTERS):
        answer = LETTERS.index(answer.strip().upper())
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise TaskError(f"{place} has answer {row.get('answer')!r}; expected a number from 0 to {len(choices) - 1}")
    subject = str(row.get("subject") or "questions")
    return ChoiceItem(place, subject, "test", text_of(row, "question", place), tuple(choices), answer)


def _caa_item(entry: Any, place: str) -> ChoiceItem:
    fields = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    question, wanted, other = (text_of(entry, key, place) for key in fields)
    return ChoiceItem(place, "", "test", question, (wanted, other), 0)


def _pair_item(pair: Pair, index: int, path: Path) -> ChoiceItem:
    shared = 0
    for one, other in zip(pair.positive, pair.negative, strict=False):
        if one != other:
            break
        shared += 1
    while shared and pair.positive[shared - 1].isalnum():  # never cut a word
        shared -= 1
    if shared and pair.positive[shared - 1] == " ":  # a blank belongs to the word after it
        shared -= 1
    ends = (pair.positive[shared:], pair.negative[shared:])
    if not pair.positive[:shared].strip() or not all(ends):
        raise TaskError(f"pair {index} of {path} shares no beginning; an item needs one prompt with two different ends")
    return ChoiceItem(f"pair {index} of {path}", "", "test", pair.positive[:shared], ends, 0)


def _distinct(items: Iterable[ChoiceItem]) -> list[ChoiceItem]:
    """The items without repetitions of a question (white space does not count)."""
    found: dict[tuple[str, str, tuple[str, ...]], ChoiceItem] = {}
    for item in items:
        found.setdefault((item.domain, " ".join(item.prompt.split()), tuple(sorted(item.choices))), item)
    return list(found.values())


def _with_splits(items: Sequence[ChoiceItem], seed: int) -> list[ChoiceItem]:
    """Names and splits, per domain; items of the same question stay together."""
    splits: dict[tuple[str, str], Split] = {}
    numbers: dict[str, int] = {}
    for domain in dict.fromkeys(item.domain for item in items):
        drawn = draw_splits([item.prompt for item in items if item.domain == domain], seed)
        splits |= {(domain, prompt): split for prompt, split in drawn.items()}
    result = []
    for item in items:
        number = numbers[item.domain] = numbers.get(item.domain, -1) + 1
        split = splits[item.domain, item.prompt]
        result.append(replace(item, name=f"{item.domain or 'item'}/{number}", split=split))
    return result
