"""The steered model under EleutherAI's lm-evaluation-harness (extra `eval`): any of its tasks, or a task file of yours.

Requests run in batches through the same hooks as everything else, and every one is proven to be steered
(`workbench.harness_requests`).
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.harness_requests import HarnessError, RequestCount, RequestRunner, in_groups, split_pair
from workbench.interventions import Scope, Steering, Where
from workbench.models import HookedModel

N_BOOTSTRAP = 1000  # for standard errors of metrics that are no means
INSTALL = "install it with pip install 'dcd-workbench[eval]'"


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
                    runner.encode(request.args[0]), runner.prefix, runner.model.context_length - 1, 1
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
