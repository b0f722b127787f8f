"""Running a model on the items of a task: likelihoods of texts, next-token scores, losses, continuations.

All of it runs the model under several steerings at once (`parts`, one row of results each), by default as it stands,
and tells position rules where prompts end.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int
from jinja2 import TemplateError

from workbench.interventions import Scope, Where
from workbench.interventions.stacked import PLAIN, Part, Variants, stacked
from workbench.models import HookedModel, ModelError
from workbench.models.batches import GENERATION_ROWS, cut, passes, rows_without_logits
from workbench.records import Tokens
from workbench.tasks.base import TaskError
from workbench.tasks.metrics import generate_stacked, weighted_losses


def chat_prompt(model: HookedModel, user: str, *, system: str | None = None) -> str:
    """The text of one exchange up to the answer, in the model's chat format; plain text where it has none.

    Formats without a system role (Gemma) get the system text in front of the user's.
    """
    if not model.tokenizer.chat_template:
        return f"{user}\n" if system is None else f"{system}\n\n{user}\n"
    if system is None:
        return model.tokenize_chat(user)
    try:
        return model.tokenize_chat(user, system=system)
    except TemplateError:  # a template that refuses the role
        return model.tokenize_chat(f"{system}\n\n{user}")


def prompt_ids(model: HookedModel, prompt: str) -> list[int]:
    """Token ids of a prompt, with what the BOS rule of the model puts in front."""
    return model.tokenize([prompt]).ids[0].tolist()


def text_likelihoods(
    model: HookedModel,
    pairs: Sequence[tuple[str, str]],
    parts: Variants = PLAIN,
    scope: Scope | Where = "all",
    *,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "part pair"]:
    """Log likelihood in nats of each text after its prompt, summed over its tokens (see `pair_rows`)."""
    return _summed(model, pair_rows(model, pairs), parts, scope, progress=progress)


def pair_rows(model: HookedModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of the texts after them, tokenised as one and cut after the prompt."""
    return [model.text.split(prompt, text) for prompt, text in pairs]


def passage_means(
    model: HookedModel,
    passages: Sequence[str],
    parts: Sequence[Part] = PLAIN,
    scope: Scope | Where = "all",
    *,
    n_tokens: int,
    context: str = "",
) -> Float64[np.ndarray, "part passage"]:
    """Mean loss in nats per token of the first `n_tokens` tokens of every passage, after `context` where one is given.

    The same tokens count with and without a context: all but, in families without BOS, the passage's first.
    """
    skipped = 0 if model.has_bos else 1
    lead = prompt_ids(model, context) if context else list(model.text.prefix)
    rows, counts = [], []
    for passage in passages:
        ids = model.text.ids(passage, literal=True)[: n_tokens + skipped]
        if len(ids) <= skipped:
            raise TaskError(f"a passage of one token has no loss; remove {passage[:40]!r}")
        rows.append(([*lead, *ids[:skipped]], ids[skipped:]))
        counts.append(len(ids) - skipped)
    return -_summed(model, rows, parts, scope, is_prompt=False) / np.array(counts)


def continued_losses(model: HookedModel, written: Sequence[tuple[str, Sequence[int]]]) -> Float64[np.ndarray, "text"]:
    """Mean loss in nats per token of generated ids after their prompts; every text has at least one token."""
    rows = [(prompt_ids(model, prompt), list(ids)) for prompt, ids in written]
    return -_summed(model, rows)[0] / np.array([len(ids) for _, ids in rows])


def _summed(
    model: HookedModel,
    rows: Sequence[tuple[list[int], list[int]]],
    parts: Variants = PLAIN,
    scope: Scope | Where = "all",
    *,
    is_prompt: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "part row"]:
    """Summed log likelihood of the tail of every row; `is_prompt`: its head is the prompt of the row."""
    if not rows:
        return np.empty((len(parts), 0))
    longest = max(len(head) + len(tail) for head, tail in rows)
    if longest > model.context_length:
        raise TaskError(f"an item has {longest} tokens but the context holds {model.context_length}; leave it out")
    tokens = model.pad([[*head, *tail] for head, tail in rows])
    lengths = torch.tensor([len(head) for head, _ in rows], device=tokens.ids.device)
    weight = (tokens.positions >= lengths[:, None])[:, 1:].float()
    ends = lengths if is_prompt else None
    return -weighted_losses(model, tokens, weight, parts, scope, prompt_lengths=ends, progress=progress)


def next_token_scores(
    model: HookedModel,
    prompts: Sequence[str],
    tokens: Sequence[int],
    parts: Variants = PLAIN,
    scope: Scope | Where = "all",
    *,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "part prompt token"]:
    """Log probability in nats of the given tokens right after each prompt."""
    rows = [prompt_ids(model, prompt) for prompt in prompts]
    scores = np.empty((len(parts), len(rows), len(tokens)))
    for numbers, some in passes([len(row) for row in rows], rows_without_logits, len(parts)):
        plain = model.pad([rows[number] for number in numbers], side="left")
        with stacked(model, plain, numbers, parts, some, scope) as batch:
            logits = model.logits(batch, last_only=True)[:, 0].double().log_softmax(dim=-1)
        scores[some, numbers] = logits[:, list(tokens)].unflatten(0, (-1, len(numbers))).cpu().numpy()
        if progress is not None:
            progress(len(batch.ids))
    return scores


def first_tokens(model: HookedModel, texts: Sequence[str], *, after: str) -> Int[np.ndarray, "text"]:
    """The first token of each text after a prompt; raises where two share it, since it could not tell them apart."""
    ids = [model.text.after(after, text)[0] for text in texts]
    if len(set(ids)) < len(ids):
        raise TaskError(f"the texts {list(texts)} do not differ in their first token; use likelihoods of whole texts")
    return np.array(ids)


def continuations(
    model: HookedModel,
    prompts: Sequence[str],
    parts: Sequence[Part] = PLAIN,
    scope: Scope | Where = "all",
    *,
    n_tokens: int,
    seed: int = 0,
    temperature: float = 0.0,
) -> list[list[list[int]]]:
    """At most `n_tokens` new tokens after every prompt, `result[part][prompt]`; greedy at temperature 0.

    Noise differs from part to part, and is the same whenever the same parts are passed in the same order.
    """
    rows = [prompt_ids(model, prompt) for prompt in prompts]
    longest = max(map(len, rows))
    if longest + n_tokens > model.context_length:
        raise ModelError(
            f"a prompt of {longest} tokens and {n_tokens} new ones do not fit the context of {model.context_length}; "
            "leave it out, or generate fewer tokens"
        )
    result: list[list[list[int]]] = [[[] for _ in rows] for _ in parts]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for some in cut(len(order), GENERATION_ROWS):
        numbers = order[some]
        batch: Tokens = model.pad([rows[number] for number in numbers], side="left")
        options = {"max_new_tokens": n_tokens, "temperature": temperature, "seed": seed}
        for texts, written in zip(result, generate_stacked(model, batch, parts, scope, **options), strict=True):
            for number, ids in zip(numbers, written, strict=True):
                texts[number] = ids
    return result
