"""Hooks leave nothing behind at an interrupt, act in one thread only, and read without changing anything."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import transformer_lens
from torch.nn.modules import module as torch_module

import workbench
from tests.interventions import laws
from tests.tiny import tiny_model
from workbench.interventions import ContrastiveAddition, steer
from workbench.interventions.base import Combination, Steering, SteeringHandle
from workbench.models import HookedModel, ModelError, wrap
from workbench.records import Site

SITES = [Site("resid_post", 0), Site("mlp_out", 1)]
# Every file whose lines run while hooks are set or removed.
TRACED = (
    str(Path(workbench.__file__).parent),
    str(Path(transformer_lens.__file__).parent / "hook_points.py"),
    str(torch_module.__file__),
    str(Path(torch.utils.__path__[0]) / "hooks.py"),
)


def reading(values: torch.Tensor, site: Site, call: Any) -> None: ...


def with_hooks(model: HookedModel) -> None:
    with model.hooked(dict.fromkeys(SITES, reading)):
        pass


def with_steering(model: HookedModel) -> None:
    with steer(model, ContrastiveAddition(torch.ones(16), 1)):
        pass


def with_names(model: HookedModel) -> None:
    with model.hooks([("blocks.1.hook_resid_post", lambda tensor, hook: tensor)]):
        pass


# Python cannot defend the moments in which a `with` statement takes over or hands back: a handle that `steer` has
# returned and nobody has entered, and the first line of an exit. Everything else is tried, every return too.
UNDEFENDED = {"line": ("__exit__", "remove", "__enter__ of handle"), "return": ("steer", "__enter__", "__exit__")}


def interrupt_at(number: int, job: Callable[[], None]) -> str | None:
    """Run a job with a KeyboardInterrupt at its n-th line or return in the traced files; where it was, if it was."""
    seen = 0

    def trace(frame: FrameType, kind: str, argument: Any) -> Any:
        nonlocal seen
        code = frame.f_code
        is_torch = code.co_filename == torch_module.__file__
        if not code.co_filename.startswith(TRACED) or (is_torch and not code.co_name.startswith("register")):
            return None
        name = code.co_name + (" of handle" if isinstance(frame.f_locals.get("self"), SteeringHandle) else "")
        if kind in UNDEFENDED and name not in UNDEFENDED[kind] and code.co_name not in UNDEFENDED[kind][:2]:
            seen += 1
            if seen == number:
                raise KeyboardInterrupt(f"{kind} {code.co_name} {code.co_filename}:{frame.f_lineno}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        job()
    except KeyboardInterrupt as interrupt:
        return str(interrupt)
    finally:
        sys.settrace(before)
    return None


@pytest.mark.parametrize("job", [with_hooks, with_steering, with_names])
def test_an_interrupt_at_any_line_leaves_no_hook(job: Callable[[HookedModel], None]) -> None:
    model = tiny_model("llama")
    before = laws.snapshot(model)
    places = []
    while place := interrupt_at(len(places) + 1, lambda: job(model)):
        hooks = sum(len(point.fwd_hooks) + len(point._forward_hooks) for point in model.bridge.hook_dict.values())
        assert hooks + len(model.hf_model.base_model._forward_pre_hooks) == before[1], f"left behind at {place}"
        assert not model._claims._threads, f"still claimed at {place}"
        places.append(place)
    assert {"__enter__", "register_forward_pre_hook", "add_hook", "_take_off"} <= {place.split()[1] for place in places}
    laws.assert_restored(model, before)


def in_thread(job: Callable[[], Any]) -> Any:
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(job())
        except ModelError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


def jobs(model: HookedModel) -> dict[str, Callable[[], Any]]:
    tokens = laws.right(model)
    return {
        "steer": lambda: steer(model, ContrastiveAddition(torch.ones(16), 1)),
        "read": lambda: model.hooked(dict.fromkeys(SITES, reading)).__enter__(),
        "logits": lambda: model.logits(tokens),
        "generate": lambda: model.generate(model.tokenize(["the court"], side="left"), max_new_tokens=2),
        "hf": lambda: model.hf_model(tokens.ids),
        "run_with_cache": lambda: model.run_with_cache(tokens),
    }


@pytest.mark.parametrize("name", jobs(tiny_model("llama")))
def test_a_second_thread_is_refused_while_one_steers(name: str) -> None:
    model = tiny_model("llama")
    before = laws.snapshot(model)
    with steer(model, ContrastiveAddition(torch.ones(16), 1), 2.0):
        steered = model.logits(laws.right(model))
        answer = in_thread(jobs(model)[name])
        assert isinstance(answer, ModelError)
        assert "one thread per model" in str(answer)
        assert torch.equal(model.logits(laws.right(model)), steered)
    assert not isinstance(in_thread(jobs(model)["logits"]), ModelError)
    laws.assert_restored(model, before)


def test_a_second_wrapper_of_one_model_is_the_same_model() -> None:
    model = tiny_model("llama")
    other = wrap(model.bridge, model.tokenizer)
    with steer(model, ContrastiveAddition(torch.ones(16), 1)):
        assert isinstance(in_thread(jobs(other)["steer"]), ModelError)


def test_a_handle_is_removed_from_any_thread_and_frees_the_model() -> None:
    model = tiny_model("llama")
    before = laws.snapshot(model)
    handle = in_thread(jobs(model)["steer"])
    with pytest.raises(ModelError, match="another thread"):
        model.logits(laws.right(model))
    handle.remove()
    laws.assert_restored(model, before)


def test_threads_that_run_without_hooks_do_not_disturb_each_other() -> None:
    """A pass that began before another thread set hooks is stopped at its first hook; prompt lengths are per thread."""
    model = tiny_model("llama")
    prompts = model.tokenize(["the court"], side="left")
    lengths = []
    with model._prompts(torch.tensor([1])):
        in_thread(lambda: lengths.append(model._state.prompt_lengths))
        assert in_thread(lambda: model.generate(prompts, max_new_tokens=1)) is not None
        assert model._state.prompt_lengths is not None
    assert lengths == [None]


@pytest.mark.parametrize("kind", ["resid_post", "z"])
def test_a_reading_hook_that_writes_in_place_changes_nothing(kind: Any) -> None:
    model = tiny_model("llama")
    before = model.logits(laws.right(model))
    seen = []

    def write(values: torch.Tensor, site: Site, call: Any) -> None:
        seen.append(values.zero_())

    with model.hooked({Site(kind, 1): write}):
        assert torch.equal(model.logits(laws.right(model)), before)
    assert len(seen) == 1


def test_a_reading_hook_that_returns_a_tensor_is_refused() -> None:
    model = tiny_model("llama")
    with (
        pytest.raises(ModelError, match="editing=True"),
        model.hooked({Site("resid_post", 1): lambda values, *_: values + 1}),
    ):
        model.logits(laws.right(model))


@dataclass(frozen=True, repr=False)
class Overwriting(Steering):
    """Doubles the activations, and spoils what it was given."""

    sites = (Site("resid_post", 1),)

    def delta(self, x: torch.Tensor, site: Site, positions: torch.Tensor) -> torch.Tensor:
        return x.mul_(2).div(2)

    def on(self, device: torch.device) -> "Overwriting":
        return self


@pytest.mark.parametrize("combined", [False, True])
def test_a_method_that_writes_to_its_input_steers_as_one_that_does_not(combined: bool) -> None:
    model = tiny_model("llama")
    before = model.logits(laws.right(model))
    steering = Combination(((Overwriting(), 1.0), (Overwriting(), -1.0))) if combined else Overwriting()
    with steer(model, steering, 1.0 if combined else 0.0, "all"):
        assert torch.equal(model.logits(laws.right(model)), before)
