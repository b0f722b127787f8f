"""Requests of an evaluation harness, run in batches under a steering and counted.

The tokens that the scope covers in each request, computed from positions alone, are held against the tokens that the
probe log saw edited at every site. A request with no token in scope, or a count that differs, raises instead of giving
an unsteered number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.interventions import ProbeLog, Scope, Steering, steer
from workbench.models import Call, HookedModel
from workbench.records import Tokens
from workbench.tasks.metrics import GENERATION_ROWS, rows_per_pass

N_NEW_TOKENS = 256


class HarnessError(ValueError):
    """A harness evaluation cannot run as asked; the message says what to do."""


@dataclass
class RequestCount:
    """Running totals over the batches of one evaluation."""

    n_requests: int = 0
    n_steered: int = 0
    edited: dict[str, int] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RequestRunner:
    """The model with what is done to it, and the counts."""

    model: HookedModel
    steering: Steering | None
    strength: float
    scope: Scope
    count: RequestCount

    @property
    def prefix(self) -> int:
        """What stands in front of a text without context: BOS, or the end marker where a family has none."""
        tokenizer = self.model.tokenizer
        return tokenizer.bos_token_id if self.model.has_bos else tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def context(self, text: str) -> list[int]:
        """Token ids of a context; BOS first and once where the family has one."""
        ids = self.encode(text)
        if not ids or (self.model.has_bos and ids[0] != self.prefix):
            ids = [self.prefix, *ids]
        return ids

    @contextmanager
    def steered(self, batch: Tokens, heads: Tensor, *, n_generated: int = 0) -> Iterator[None]:
        """Apply the steering to one batch, and check afterwards that it was seen at every request."""
        self.count.n_requests += len(batch.ids)
        if self.steering is None:
            yield
            return
        covered = self.scope.mask(Call(batch.positions, heads))
        if not n_generated and not bool(covered.any(dim=1).all()):
            number = int((~covered.any(dim=1)).nonzero()[0])
            raise HarnessError(
                f"a request of {int(batch.lengths[number])} tokens has none in scope {self.scope.where!r}, so it would "
                "run unsteered; choose another scope"
            )
        with steer(self.model, self.steering, self.strength, self.scope) as handle:
            yield
        self._check(handle.log, covered, is_exact=not n_generated)

    def _check(self, log: ProbeLog, covered: Bool[Tensor, "batch pos"], *, is_exact: bool) -> None:
        expected = int(covered.sum())
        for site, edited in log.edited.items():
            if edited != expected if is_exact else edited < expected:
                raise HarnessError(f"at {site} {edited} tokens were edited, but {expected} are in scope")
            self.count.edited[str(site)] = self.count.edited.get(str(site), 0) + edited
            self.count.passes[str(site)] = self.count.passes.get(str(site), 0) + log.passes[site]
        # A scope of generated tokens covers no prompt; it then takes the edits themselves to know.
        least = min(log.edited.values())
        self.count.n_steered += len(covered) if bool(covered.any(dim=1).all()) or least >= len(covered) else 0

    def score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Log likelihood (nats) of the second part of every row, and whether greedy decoding would have written it."""
        result: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
        cut = [_cut(head, tail, self.model.context_length) for head, tail in rows]
        order = sorted(range(len(rows)), key=lambda index: -sum(map(len, cut[index])))
        while order:
            limit = rows_per_pass(self.model, sum(map(len, cut[order[0]])))
            numbers, order = order[:limit], order[limit:]
            batch = self.model.pad([[*cut[number][0], *cut[number][1]] for number in numbers])
            heads = torch.tensor([len(cut[number][0]) for number in numbers], device=batch.ids.device)
            with self.steered(batch, heads):
                logits = self.model.logits(batch, prompt_lengths=heads)
            for row, number in enumerate(numbers):
                head, tail = cut[number]
                scores = logits[row, len(head) - 1 : len(head) + len(tail) - 1].float().log_softmax(dim=-1)
                target = torch.tensor(tail, device=scores.device)
                total = float(scores.gather(1, target[:, None]).double().sum())
                result[number] = (total, bool((scores.argmax(dim=-1) == target).all()))
        return result

    def write(self, contexts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Continuations up to a stop text; greedy unless the task asks for sampling."""
        n_new = int(options.get("max_gen_toks", N_NEW_TOKENS))
        room = self.model.context_length - n_new
        if room < 1:
            raise HarnessError(
                f"the task generates {n_new} tokens, but the context holds {self.model.context_length}; "
                "set max_gen_toks lower in its generation_kwargs"
            )
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
        stops = options.get("until") or []
        texts = []
        for start in range(0, len(contexts), GENERATION_ROWS):
            rows = [self.context(text)[-room:] for text in contexts[start : start + GENERATION_ROWS]]
            batch = self.model.pad(rows, side="left")
            with self.steered(batch, batch.lengths, n_generated=n_new):
                written = self.model.generate(batch, max_new_tokens=n_new, temperature=temperature)
            texts += [_before(self.model.decode(ids), [stops] if isinstance(stops, str) else stops) for ids in written]
        return texts


def split_pair(runner: RequestRunner, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Context and continuation, tokenised together and split, with blanks between them counted to the continuation."""
    if not context:
        return [runner.prefix], runner.encode(continuation)
    n_blanks = len(context) - len(context.rstrip())
    if n_blanks:
        context, continuation = context[:-n_blanks], context[-n_blanks:] + continuation
    head, whole = runner.context(context), runner.context(context + continuation)
    return head, whole[len(head) :]


def _cut(head: list[int], tail: list[int], context_length: int) -> tuple[list[int], list[int]]:
    """At most a context of tokens, the oldest dropped; the continuation is never cut."""
    if not tail:
        raise HarnessError("a request has an empty continuation; check the task's doc_to_choice or doc_to_target")
    room = context_length - len(tail)
    if room < 1:
        raise HarnessError(f"a continuation of {len(tail)} tokens does not fit the context of {context_length}")
    return head[-room:], tail


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text


def in_groups(
    requests: Sequence[tuple[str, Mapping[str, Any]]], write: Callable[[Sequence[str], Mapping[str, Any]], list[str]]
) -> list[str]:
    """Write the requests of equal options together, and give the texts back in the order asked for."""
    groups: dict[str, list[int]] = {}
    for index, (_, options) in enumerate(requests):
        groups.setdefault(repr(sorted(options.items())), []).append(index)
    texts = [""] * len(requests)
    for numbers in groups.values():
        written = write([requests[index][0] for index in numbers], requests[numbers[0]][1])
        for index, text in zip(numbers, written, strict=True):
            texts[index] = text
    return texts
