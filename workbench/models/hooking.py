"""Hooks for the duration of a `with` block: one thread at a time, taken off again whatever happens.

The removal is ready before the first hook is set, so that an interrupt at any line leaves nothing behind.
"""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from torch import nn

from workbench.models.errors import ModelError


class Claims:
    """Which thread has hooks on a model: a second one would be steered by the first, so it is refused.

    Shared by all wrappers of one Hugging Face model; `Claims.of(hf_model)` finds it.
    """

    _of_models: ClassVar["WeakKeyDictionary[nn.Module, Claims]"] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._threads: dict[object, int] = {}  # in order of their claims; no lock, which an interrupt might leave held

    @classmethod
    def of(cls, hf_model: nn.Module) -> "Claims":
        return cls._of_models.setdefault(hf_model, cls())

    def check(self) -> None:
        """Raise `ModelError` where another thread has hooks on the model."""
        first = list(self._threads.values())[:1]
        if first and first[0] != threading.get_ident():
            raise ModelError(
                "another thread has hooks on this model (it steers, masks or captures), and they would act here too; "
                "use one thread per model, load the model a second time, or wait until that `with` block has ended"
            )

    def add(self, holder: object) -> None:
        self.check()
        self._threads[holder] = threading.get_ident()
        self.check()  # another thread may have been faster

    def remove(self, holder: object) -> None:
        self._threads.pop(holder, None)

    def edits(self) -> list[str]:
        """The sites that are edited at present, each once."""
        return sorted({site for holder in list(self._threads) for site in getattr(holder, "edits", ())})


class Hooks:
    """A forward pre-hook on some modules and forward hooks on hook points, set by `with` and removed on its end.

    `remove()` may be called at any time, from any thread, and again. Nobody else's hooks are touched.
    """

    def __init__(
        self,
        claims: Claims,
        modules: Sequence[nn.Module],
        before_pass: Callable[..., None],
        hooks: Sequence[tuple[Any, Callable[..., Any]]],
        edits: tuple[str, ...] = (),
    ) -> None:
        self.edits = edits  # sites where these hooks change something
        self._claims, self._modules, self._before_pass, self._hooks = claims, modules, before_pass, hooks
        self._adding: tuple[Any, frozenset[int]] | None = None  # a point, and the hooks that it had before ours
        self._added: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        try:
            self._claims.add(self)
            for module in self._modules:
                module.register_forward_pre_hook(self._before_pass, with_kwargs=True)
            for point, function in self._hooks:
                self._adding = (point, frozenset(point._forward_hooks))
                self._added.append((point, point.add_hook(function)))
            self._adding = None
        except BaseException:  # an interrupt too
            self.remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        try:
            self._take_off()
        finally:
            self._take_off()  # where an interrupt ended the first one; otherwise there is nothing left to do

    def _take_off(self) -> None:
        if self._adding is not None:
            point, others = self._adding
            for index in set(point._forward_hooks) - others:
                del point._forward_hooks[index]
            point.fwd_hooks = [handle for handle in point.fwd_hooks if handle.hook.id in point._forward_hooks]
            self._adding = None
        for point, handle in self._added:
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]
        for module in self._modules:
            hooks = module._forward_pre_hooks
            for index in [index for index, hook in hooks.items() if hook is self._before_pass]:
                module._forward_pre_hooks_with_kwargs.pop(index, None)
                hooks.pop(index, None)
        self._claims.remove(self)
