"""Text to token ids of one model and back: what stands first, where a prompt ends, and what is only quoted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from workbench.models.errors import ModelError

N_DECODED = 16  # tokens of a prompt that a continuation is decoded with
BOS_RULES = ("auto", "always", "never")
BYTES = {sign: byte for byte, sign in bytes_to_unicode().items()}  # of the signs that byte-level tokenizers write


@dataclass(frozen=True, eq=False)
class TextCodec:
    """A tokenizer with the rule for what it puts in front of a text.

    `bos`: "auto" does what the model's own tokenizer does (Llama and Gemma put one token there, GPT-2, Pythia, Qwen and
    SmolLM2 none, GLM two), "always" puts the BOS token there, "never" nothing. `n_rows` is the size of the embedding.
    """

    tokenizer: Any
    n_rows: int
    bos: str = "auto"

    def __post_init__(self) -> None:
        if self.bos not in BOS_RULES:
            raise ModelError(f"unknown BOS rule {self.bos!r}; choose one of {', '.join(BOS_RULES)}")
        if self.bos == "always" and self.tokenizer.bos_token_id is None:
            raise ModelError("this tokenizer has no BOS token; load the model with bos='auto' or 'never'")

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The token ids in front of every text."""
        if self.bos == "never":
            return ()
        if self.bos == "always":
            return (self.tokenizer.bos_token_id,)
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        starts = [n for n in range(len(full) - len(plain) + 1) if full[n : n + len(plain)] == plain]
        return tuple(full[: starts[0]]) if starts and plain else ()

    def ids(self, text: str, *, literal: bool = False) -> list[int]:
        """Ids of a text without what is put in front; `literal` reads control tokens quoted in it as plain text."""
        options = {"split_special_tokens": True} if literal and self.count_control_tokens(text) else {}
        found = list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])
        if found and max(found) >= self.n_rows:
            token = self.tokenizer.convert_ids_to_tokens(max(found))
            raise ModelError(f"{token!r} has id {max(found)}, but the embedding has {self.n_rows} rows")
        return found

    def encode(self, text: str, *, literal: bool = False) -> list[int]:
        """Ids of a whole text, the prefix in front; a text that is written with its prefix does not get it twice."""
        ids, prefix = self.ids(text, literal=literal), list(self.prefix)
        return ids if not literal and prefix and ids[: len(prefix)] == prefix else [*prefix, *ids]

    def split(self, prompt: str, text: str) -> tuple[list[int], list[int]]:
        """Ids of prompt and text tokenised as one, cut where the prompt ends.

        A token that stands over the cut counts to the text, as in " time" after "Once upon a " whose blank belongs to
        the next token. Raises where the text adds no token.
        """
        alone, whole = self.encode(prompt), self.encode(prompt + text)
        n = next((index for index, pair in enumerate(zip(alone, whole, strict=False)) if pair[0] != pair[1]), None)
        n = min(len(alone), len(whole)) if n is None else n
        if n == len(whole):
            raise ModelError(f"the text {text[:40]!r} has no tokens; change or remove it")
        return whole[:n], whole[n:]

    def after(self, prompt: str, text: str) -> list[int]:
        """Ids of a text where it stands right after a prompt; raises where both share a token."""
        head, tail = self.split(prompt, text)
        if head != self.encode(prompt):
            raise ModelError(
                f"{text[:40]!r} merges with the end of the prompt {prompt[-20:]!r}; move the blank between"
            )
        return tail

    def count_control_tokens(self, text: str) -> int:
        """How many control tokens of the model a text quotes."""
        return len(self._control.findall(text)) if self._control is not None else 0

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        tokens = {str(token) for token in self.tokenizer.all_special_tokens}
        tokens |= {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        ordered = sorted(filter(None, tokens), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def decode_after(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text that ids add to a prompt: tokens read alone lose the blank before a first word."""
        prompt = prompt[-N_DECODED:]
        before, whole = self.decode(prompt), self.decode([*prompt, *ids])
        # A prompt that ends inside a character shows a replacement sign that the next token mends.
        n = next((n for n, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]), len(before))
        return whole[n:]

    def token_text(self, index: int) -> str:
        """The text of one token with its blanks and newlines."""
        text = self.decode([index])
        piece = self.tokenizer.convert_ids_to_tokens(index)
        # SentencePiece decoders drop the blank of a first token, and a token alone is always first.
        return f" {text}" if str(piece).startswith("▁") and not text.startswith(" ") else text

    def whole_text(self, index: int) -> str:
        """The text of a token; where it is but a part of a character its bytes, such as ⟨e2 88⟩."""
        text, piece = self.token_text(index), str(self.tokenizer.convert_ids_to_tokens(index))
        if "\ufffd" not in text:
            return text
        if piece.startswith("<0x"):  # SentencePiece
            return f"⟨{piece[3:-1].lower()}⟩"
        return f"⟨{bytes(BYTES.get(sign, 0xFF) for sign in piece).hex(' ')}⟩"
