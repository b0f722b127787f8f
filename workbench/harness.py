"""The steered model under EleutherAI's lm-evaluation-harness (extra `eval`): any of its tasks, or a task file of yours.

Requests run in batches through the same hooks as everything else, and every one is proven to be steered: the tokens in
scope, computed from positions alone, are compared with the tokens that the probe log saw edited at every site. A
request with no token in scope, or a count that differs, raises instead of giving an unsteered number.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.interventions import ProbeLog, Scope, Steering, Where, steer
from workbench.models import Call, HookedModel
from workbench.models.batches import GENERATION_ROWS, cut, passes, rows_with_logits
from workbench.records import Tokens

N_BOOTSTRAP = 1000  # for standard errors of metrics that are no means
N_NEW_TOKENS = 256
INSTALL = "install it with pip install 'dcd-workbench[eval]'"


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
        bos, eos = self.model.tokenizer.bos_token_id, self.model.tokenizer.eos_token_id
        return eos if bos is None else bos

    def context(self, text: str) -> list[int]:
        """Token ids of a context, with what the BOS rule of the model puts in front; never empty."""
        return self.model.text.encode(text) or [self.prefix]

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
        cuts = [_cut(head, tail, self.model.context_length) for head, tail in rows]
        for numbers, _ in passes([sum(map(len, row)) for row in cuts], rows_with_logits(self.model)):
            batch = self.model.pad([[*cuts[number][0], *cuts[number][1]] for number in numbers])
            heads = torch.tensor([len(cuts[number][0]) for number in numbers], device=batch.ids.device)
            with self.steered(batch, heads):
                logits = self.model.logits(batch, prompt_lengths=heads)
            for row, number in enumerate(numbers):
                head, tail = cuts[number]
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
        for some in cut(len(contexts), GENERATION_ROWS):
            rows = [self.context(text)[-room:] for text in contexts[some]]
            batch = self.model.pad(rows, side="left")
            with self.steered(batch, batch.lengths, n_generated=n_new):
                written = self.model.generate(batch, max_new_tokens=n_new, temperature=temperature)
            texts += [
                _before(self.model.decode(ids, after=text), [stops] if isinstance(stops, str) else stops)
                for text, ids in zip(contexts[some], written, strict=True)
            ]
        return texts


def split_pair(runner: RequestRunner, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Context and continuation, tokenised as one and cut after the context (see `TextCodec.split`)."""
    if not context:
        return [runner.prefix], runner.model.text.ids(continuation)
    head, tail = runner.model.text.split(context, continuation)
    return head or [runner.prefix], tail


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


@dataclass(frozen=True)
class HarnessResult:
    """What the harness measured, and the proof that it was measured steered.

    `metrics[task][metric]` and, where the harness gives one, `errors[task][metric]` (standard error); names such as
    "acc,none" are the harness's. `n_requests` ran, `n_steered` of them with at least one edited token at every site;
    `edited` counts edited tokens and `passes` forward passes per site (empty without a steering).
    """

    metrics: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, Mapping[str, float]]
    n_requests: int
    n_steered: int
    edited: Mapping[str, int]
    passes: Mapping[str, int]


def require_harness() -> None:
    """Raise `HarnessError` where lm_eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise HarnessError(f"lm_eval is not installed; {INSTALL}")


def evaluate_harness(
    model: HookedModel,
    tasks: Sequence[str],
    steering: Steering | None = None,
    strength: float = 1.0,
    scope: Scope | Where = "all_but_first",
    *,
    include: str | Path | None = None,
    n_shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    chat: bool = False,
    allow_download: bool = False,
) -> HarnessResult:
    """Evaluate a model, steered or not, on tasks of the harness by name, or on task files in the folder `include`.

    `limit` bounds the documents per task, `n_shots` the examples in the prompt; `chat` puts prompts into the model's
    chat format. Data sets are read from the local cache unless `allow_download`. Raises `HarnessError` where lm_eval is
    not installed, a task is unknown, or a request would have run unsteered.
    """
    require_harness()
    if not tasks:
        raise HarnessError("no task to evaluate; name at least one, such as arc_easy")
    if chat and not model.tokenizer.chat_template:
        raise HarnessError(f"{model.name} has no chat template; leave chat out")
    from lm_eval import evaluator  # pyright: ignore[reportMissingImports]

    simple_evaluate: Any = evaluator.simple_evaluate
    count = RequestCount()
    runner = RequestRunner(model, steering, strength, scope if isinstance(scope, Scope) else Scope(scope), count)
    manager = _task_manager(tasks, include)
    with _hub(is_allowed=allow_download), torch.random.fork_rng():
        try:
            found = simple_evaluate(
                model=_language_model(runner),
                tasks=list(tasks),
                num_fewshot=n_shots,
                limit=limit,
                bootstrap_iters=N_BOOTSTRAP,
                log_samples=False,
                apply_chat_template=chat,
                task_manager=manager,
                fewshot_random_seed=seed,
            )
        except (FileNotFoundError, ConnectionError) as error:
            remedy = "" if allow_download else "; allow the download (--download) if its data set is on the hub"
            raise HarnessError(f"cannot load a task: {' '.join(str(error).split())[:200]}{remedy}") from error
    assert found is not None
    return _result(found["results"], count)


def _result(results: Mapping[str, Mapping[str, Any]], count: RequestCount) -> HarnessResult:
    metrics: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for task, values in results.items():
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        metrics[task] = {name: value for name, value in numbers.items() if "," in name and "_stderr," not in name}
        errors[task] = {name.replace("_stderr,", ","): value for name, value in numbers.items() if "_stderr," in name}
    return HarnessResult(metrics, errors, count.n_requests, count.n_steered, count.edited, count.passes)


def _task_manager(tasks: Sequence[str], include: str | Path | None) -> Any:
    """The harness's own task index is only read where the folder does not hold every task that is asked for."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    if include is not None:
        if not Path(include).is_dir():
            raise HarnessError(f"{include} is not a folder; give the folder that holds the task files (.yaml)")
        manager = TaskManager(include_path=str(include), include_defaults=False)
        if all(task in manager.all_tasks for task in tasks):
            return manager
    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise HarnessError(f"the harness knows no task {unknown[0]!r}; give a name it lists, or a folder of task files")
    return manager


@contextmanager
def _hub(*, is_allowed: bool) -> Iterator[None]:
    """Keep the hub's clients off the network for the time of one evaluation, unless a download is allowed."""
    import datasets.config
    import huggingface_hub.constants

    places: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or not is_allowed
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _language_model(runner: RequestRunner) -> Any:
    """The harness takes subclasses of its own class only; everything is done by the runner."""
    from lm_eval import utils  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    class Steered(LM):
        """Requests of the harness, answered by a runner."""

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return runner.score([split_pair(runner, *request.args) for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            totals = []
            for request in requests:
                windows = utils.get_rolling_token_windows(
                    runner.model.text.ids(request.args[0]), runner.prefix, runner.model.context_length - 1, 1
                )
                rows = [utils.make_disjoint_window(window) for window in windows]
                totals.append(sum(total for total, _ in runner.score([(list(a), list(b)) for a, b in rows])))
            return totals

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return in_groups([request.args for request in requests], runner.write)

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return runner.model.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )

        @property
        def tokenizer_name(self) -> str:
            return runner.model.name

        def chat_template(self, chat_template: bool | str = False) -> str:
            return str(runner.model.tokenizer.chat_template or "")

    return Steered()
