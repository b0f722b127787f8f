"""Token classes: the vocabulary in which detectors are labelled, from the surface of a token and word lists.

A word list applies to the whole word that a token is a piece of, so that every piece of "plaint|iff" is a legal term.
Words match in their inflected forms ("courts", "pleaded"). The lists (`builtin/token_classes.json`) are short and
general on purpose: a class that fits is a readable label, not a complete account of what fires a dimension.
"""

import bisect
import json
import keyword
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

_WORDS = json.loads(resources.files("workbench").joinpath("builtin", "token_classes.json").read_text(encoding="utf-8"))
TOPICS: dict[str, str] = _WORDS["topics"]
QUOTES = "\"'“”‘’«»`"
BRACKETS = "()[]{}⟨⟩"
OPERATORS = "+-−*×·÷/=<>≤≥≠≈^√±∑∫∂→⇒|&~@"
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?\n][\"'”’)]*\s*|\n\s*[\"'“‘(]*)[\"'“‘(]*$")
_CAMEL_CASE = re.compile(r"[a-z][A-Z]")
# A text counts as code where at least three of these marks are found.
_CODE_MARKS = re.compile(r"\w\(|\w_\w|==|\w\[|^\s*(?:def|class|import|from|return|for|if|else|try)\b|:\n\s+|^>>>", re.M)


class Piece(NamedTuple):
    """A token in its text: `core` is its text without outer spaces, `word` the whole word it is a piece of, if any.

    `following` is the character after the word, or after the token where there is no word.
    """

    text: str
    core: str
    word: str
    following: str
    is_continuation: bool
    is_sentence_start: bool
    is_after_number: bool
    is_code: bool


TokenClass = Callable[[Piece], bool]


def visible(text: str) -> str:
    """Text with its spaces, line breaks and tabs as signs."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")


def read_pieces(token_text: Sequence[str]) -> list[Piece]:
    """The tokens of one text, in reading order, each with the word it belongs to."""
    text = "".join(token_text)
    words = list(_WORD.finditer(text))
    word_starts = [word.start() for word in words]
    is_code = sum(1 for _ in _CODE_MARKS.finditer(text)) >= 3
    pieces, end = [], 0
    for token in token_text:
        start, end = end, end + len(token)
        core = token.strip()
        at = start + (token.find(core[0]) if core else 0)
        # The word that covers the first character, or else the first word that starts within the token.
        number = bisect.bisect_right(word_starts, at) - 1
        if number < 0 or words[number].end() <= at:
            number += 1
        inside = bool(core) and number < len(words) and words[number].start() < at + len(core)
        word = words[number] if inside else None
        stop = word.end() if word else end
        before = text[max(0, word.start() - 24) : word.start()] if word else ""
        pieces.append(
            Piece(
                text=token,
                core=core,
                word=word.group() if word else "",
                following=text[stop : stop + 1],
                is_continuation=word is not None and word.start() < at,
                is_sentence_start=word is not None and _SENTENCE_START.search(before) is not None,
                is_after_number=before.rstrip()[-1:].isdigit(),
                is_code=is_code,
            )
        )
    return pieces


def class_members(
    token_text: Sequence[str], prompt_index: Int[np.ndarray, "token"]
) -> tuple[tuple[str, ...], Bool[np.ndarray, "token class"]]:
    """Names of all token classes, and for every token to which of them it belongs; a prompt's tokens stand together."""
    classes = token_classes()
    starts = np.flatnonzero(np.diff(prompt_index, prepend=-1)) if len(prompt_index) else np.zeros(0, dtype=int)
    known: dict[Piece, int] = {}
    rows: list[list[bool]] = []
    of_token = np.empty(len(token_text), dtype=np.int64)
    bounds = [*starts.tolist(), len(token_text)]
    for start, stop in pairwise(bounds):
        for offset, piece in enumerate(read_pieces(token_text[start:stop])):
            if piece not in known:
                known[piece] = len(rows)
                rows.append([is_member(piece) for is_member in classes.values()])
            of_token[start + offset] = known[piece]
    members = np.array(rows, dtype=bool).reshape(len(rows), len(classes))
    return tuple(classes), members[of_token]


def token_classes() -> dict[str, TokenClass]:
    """All token classes by name; a class says whether a token in its text belongs to it."""
    lexicons = {name: _lexicon(words) for name, words in {**_GRAMMAR, **TOPICS}.items()}
    return {**_SURFACE, **_WORD_SHAPE, **_QUANTITY, **lexicons, **_CODE}


def _lexicon(words: str) -> TokenClass:
    known = frozenset(words.split())

    def is_member(piece: Piece) -> bool:
        return bool(piece.word) and not known.isdisjoint(_base_forms(piece.word))

    return is_member


@lru_cache(maxsize=100_000)
def _base_forms(word: str) -> tuple[str, ...]:
    """The word in lower case and what it may be an inflection of."""
    word = re.sub(r"['’]s?$", "", word.lower())
    forms = [word]
    if re.search(r"(?:s|x|z|ch|sh|o)es$", word):
        forms.append(word[:-2])
    for ending, base_endings in (("ies", ["y"]), ("s", [""]), ("ed", ["", "e"]), ("ing", ["", "e"])):
        if len(word) >= len(ending) + 3 and word.endswith(ending):
            forms += [word.removesuffix(ending) + base_ending for base_ending in base_endings]
    return tuple(forms)


def _is_mark(piece: Piece) -> bool:
    return bool(piece.core) and not any(character.isalnum() for character in piece.core) and not piece.word


def _has_mark(characters: str) -> TokenClass:
    return lambda piece: _is_mark(piece) and any(character in characters for character in piece.core)


def _is_operator(piece: Piece) -> bool:
    is_hyphen = piece.core == "-" and (piece.following.isalpha() or not piece.following)
    return _is_mark(piece) and all(character in OPERATORS for character in piece.core) and not is_hyphen


def _is_capitalised(piece: Piece) -> bool:
    return piece.word[:1].isupper() and piece.word[1:2].islower()


_SURFACE: dict[str, TokenClass] = {
    "numbers": lambda piece: piece.core[:1].isdigit() and not any(character.isalpha() for character in piece.core),
    "spaces before numbers": lambda piece: not piece.core and "\n" not in piece.text and piece.following.isdigit(),
    "operators": _is_operator,
    "brackets": _has_mark(BRACKETS),
    "full stops, question and exclamation marks": _has_mark(".!?"),
    "commas, colons and semicolons": _has_mark(",:;"),
    "hyphens and dashes": lambda piece: bool(piece.core) and all(character in "-–—" for character in piece.core),
    "quotation marks": _has_mark(QUOTES),
    "punctuation": lambda piece: _is_mark(piece) and not _is_operator(piece),
    "line breaks": lambda piece: "\n" in piece.text,
    "indentation": lambda piece: not piece.core and re.search(r"\n[ \t]+$|^[ \t]{2,}$|\t", piece.text) is not None,
}

_WORD_SHAPE: dict[str, TokenClass] = {
    "capitalised words": _is_capitalised,
    "capitalised words inside sentences": lambda piece: _is_capitalised(piece) and not piece.is_sentence_start,
    "words in capitals": lambda piece: len(piece.word) > 1 and piece.word.isalpha() and piece.word.isupper(),
    "first words of sentences and lines": lambda piece: piece.is_sentence_start,
    "word continuations": lambda piece: piece.is_continuation and piece.core.isalpha(),
    "single letters": lambda piece: len(piece.word) == 1 and piece.word.isalpha() and piece.word not in "aAI",
}

_is_unit_word = _lexicon(_WORDS["units"]["words"])
_UNIT_SYMBOLS = frozenset(_WORDS["units"]["symbols"].split())
_QUANTITY: dict[str, TokenClass] = {
    "units of measurement": lambda piece: (
        _is_unit_word(piece) or (piece.is_after_number and piece.word.lower() in _UNIT_SYMBOLS)
    ),
}

# Pronouns are no class of their own: those of the first two persons and of the third are, among the topics.
_GRAMMAR: dict[str, str] = {
    "function words": " ".join(_WORDS["grammar"].values()),
    **{name: words for name, words in _WORDS["grammar"].items() if name != "pronouns"},
}

_PYTHON_BUILTINS = frozenset(_WORDS["python"]["built-in names"].split())
_PYTHON_KEYWORDS = frozenset(keyword.kwlist)
_CODE: dict[str, TokenClass] = {
    "Python keywords": lambda piece: piece.is_code and piece.word in _PYTHON_KEYWORDS,
    "Python built-in names": lambda piece: piece.is_code and piece.word in _PYTHON_BUILTINS,
    "identifiers": lambda piece: "_" in piece.word or _CAMEL_CASE.search(piece.word) is not None,
    "called names": lambda piece: piece.following == "(" and piece.core.replace("_", "").isalnum() and piece.is_code,
}
