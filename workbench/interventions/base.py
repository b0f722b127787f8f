"""The one interface of all steering methods: a frozen value that answers `delta(x)`, and `steer`, which applies it.

A method says at which sites it acts and what it would add there at strength 1. Everything else (hooks, position rules,
strength, clean-up, counting) happens here, once, so that strength means the same for every method: 0 is the identity
and the edit is linear in it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.interventions.files import plain_value, write_file
from workbench.models import Call, HookedModel, HookFunction, provenance
from workbench.records import Site, Where

# One number, one per absolute position (from 0; later positions are not edited), or a function of absolute positions.
Strength = float | Float[Tensor, "position"] | Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos"]]


Method = TypeVar("Method", bound="Steering")


class SteeringError(ValueError):
    """A steering does not fit the model, or is asked for something that it cannot do."""


@dataclass(frozen=True)
class Scope:
    """Which tokens are edited: a rule or explicit absolute positions, less the excluded positions (exclusions win).

    `last_prompt` is the last prompt token; `from_last_prompt` that token and every generated one (what papers call the
    last position of each call). `all_but_first` spares position 0, which carries the attention sink.
    """

    where: Where | tuple[int, ...] = "all_but_first"
    exclude: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.where, str) and self.where not in get_args(Where):
            raise SteeringError(
                f"unknown scope {self.where!r}; choose one of {', '.join(get_args(Where))}, or explicit positions"
            )
        if any(position < 0 for position in (*self.exclude, *(() if isinstance(self.where, str) else self.where))):
            raise SteeringError("positions in a scope are absolute and counted from 0; none may be negative")

    def __str__(self) -> str:
        where = self.where if isinstance(self.where, str) else "positions " + ", ".join(map(str, self.where))
        return where + (f" without {', '.join(map(str, self.exclude))}" if self.exclude else "")

    def mask(self, call: Call) -> Bool[Tensor, "batch pos"]:
        """True where tokens are edited; padding never is."""
        positions, end = call.positions, call.prompt_lengths[:, None]
        is_real = positions >= 0
        match self.where:
            case "all":
                chosen = is_real
            case "all_but_first":
                chosen = positions >= 1
            case "prompt":
                chosen = is_real & (positions < end)
            case "last_prompt":
                chosen = is_real & (positions == end - 1)
            case "generated":
                chosen = positions >= end
            case "from_last_prompt":
                chosen = is_real & (positions >= end - 1)
            case explicit:
                chosen = torch.isin(positions, torch.tensor(explicit, device=positions.device))
        if self.exclude:
            chosen = chosen & ~torch.isin(positions, torch.tensor(self.exclude, device=positions.device))
        return chosen


ScopeLike = Scope | Where | tuple[int, ...]


class Steering(ABC):
    """What a method would add to the activations, at strength 1. Subclasses are frozen dataclasses and final.

    `published_scope` is where the method's source edits: what `steer` takes where no scope is given.
    """

    published_scope: ClassVar[Scope] = Scope("all_but_first")

    def __init_subclass__(cls) -> None:
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Steering.__repr__  # set before `dataclass` would write one that prints whole tensors

    @property
    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """Where the method acts."""

    @property
    def scope(self) -> Scope:
        """The tokens edited where no scope is given."""
        return self.published_scope

    @property
    def prompt_length(self) -> int | None:
        """The number of tokens that prompts must have, for methods learned per position; None for all others."""
        return None

    @property
    def reach(self) -> int | None:
        """The absolute position from which on delta is zero and nothing need be computed; None if there is none."""
        return self.prompt_length

    @abstractmethod
    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        """What to add to the float32 activations `x` of one site; `positions` are absolute, -1 on padding."""

    def check_model(self, model: HookedModel) -> None:  # noqa: B027 (most methods have nothing to add)
        """Raise `SteeringError` where a method knows a misfit that the widths at its sites do not show."""

    def on(self: Method, device: torch.device) -> Method:
        """The same steering with all its tensors, those of its parts too, on one device."""
        assert is_dataclass(self)
        return replace(self, **{field.name: _on(getattr(self, field.name), device) for field in fields(self)})

    def apply(self, model: HookedModel, strength: Strength = 1.0, scope: ScopeLike | None = None) -> "SteeringHandle":
        """`steer(model, self, strength, scope)`."""
        return steer(model, self, strength, scope)

    def save(self, path: str | Path, model: HookedModel, **options: Any) -> None:
        """`save_steering(path, self, model)`; options are those of `save_steering`."""
        save_steering(path, self, model, **options)

    def __repr__(self) -> str:
        """Sites, what the tensors hold, the other values, and the scope: a few lines, no tensor in full."""
        assert is_dataclass(self)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = [
            f"{name}: {int(value.count_nonzero())} of {value.numel()} values are not 0"
            for name, value in values.items()
            if isinstance(value, Tensor)
        ]
        others = [f"{name}={_short(value)}" for name, value in values.items() if not isinstance(value, Tensor)]
        return "\n  ".join(
            [
                f"{type(self).__name__}({', '.join(others)})",
                f"sites: {_short(tuple(map(str, self.sites)))}",
                *tensors,
                f"scope: {self.scope}",
            ]
        )


def _on(value: Any, device: torch.device) -> Any:
    match value:
        case Tensor():
            return value.to(device)
        case Steering():
            return value.on(device)
        case tuple():
            return tuple(_on(item, device) for item in value)
        case _:
            return value


def _short(value: Any) -> str:
    """A value in at most a few words: the first and the number of a long tuple."""
    if isinstance(value, tuple):
        shown = ", ".join(map(str, value[:4]))
        return f"({shown}, ... {len(value)} in all)" if len(value) > 4 else f"({shown})"
    return str(value)


@dataclass(frozen=True)
class Combination(Steering):
    """Several steerings at once, each times its weight; all deltas are computed from the same unedited activation."""

    parts: tuple[tuple[Steering, float], ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(sorted({site for part, _ in self.parts for site in part.sites}))

    @property
    def scope(self) -> Scope:
        """The scope of all parts; raises where they differ, since a combination is applied in one."""
        scopes = {part.scope for part, _ in self.parts}
        if len(scopes) > 1:
            raise SteeringError(
                f"the parts have different scopes ({', '.join(sorted(map(str, scopes)))}); pass the scope to steer in"
            )
        return scopes.pop() if scopes else self.published_scope

    @property
    def prompt_length(self) -> int | None:
        return next((part.prompt_length for part, _ in self.parts if part.prompt_length is not None), None)

    @property
    def reach(self) -> int | None:
        reaches = [part.reach for part, _ in self.parts]
        return None if None in reaches else max((reach for reach in reaches if reach is not None), default=None)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        total = torch.zeros_like(x)
        for part, weight in self.parts:
            if site in part.sites:
                total = total + weight * part.delta(x.clone(), site, positions)
        return total

    def check_model(self, model: HookedModel) -> None:
        for part, _ in self.parts:
            part.check_model(model)

    def __repr__(self) -> str:
        parts = [f"{weight:g} x {part!r}".replace("\n", "\n  ") for part, weight in self.parts]
        return "\n  ".join([f"Combination of {len(self.parts)}", *parts])


@dataclass(frozen=True)
class Artefact:
    """A steering with the scope that it was saved for and what else its file says; `steer` takes it like a steering."""

    steering: Steering
    scope: Scope
    header: Mapping[str, Any]

    def apply(self, model: HookedModel, strength: Strength = 1.0, scope: ScopeLike | None = None) -> "SteeringHandle":
        """`steer(model, self, strength, scope)`."""
        return steer(model, self, strength, scope)


class ProbeLog:
    """How many tokens were edited at which site, and in how many passes: the proof that an edit landed."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._counts = {site: [0, 0] for site in sites}

    def counter(self, site: Site) -> Callable[[int], None]:
        """What notes one pass at a site with so many edited tokens."""
        counts = self._counts[site]

        def note(n_tokens: int) -> None:
            counts[0] += n_tokens
            counts[1] += 1

        return note

    @property
    def edited(self) -> dict[Site, int]:
        """Tokens in scope so far, per site."""
        return {site: n_tokens for site, (n_tokens, _) in self._counts.items()}

    @property
    def passes(self) -> dict[Site, int]:
        """Forward passes seen so far, per site."""
        return {site: n_passes for site, (_, n_passes) in self._counts.items()}

    def __str__(self) -> str:
        return ", ".join(
            f"{site}: {tokens} tokens in {passes} passes" for site, (tokens, passes) in self._counts.items()
        )


@dataclass(frozen=True)
class _Pass:
    """What is the same at every site of one forward pass, and therefore worked out once.

    `n_tokens` are in scope; `is_idle` says that delta is zero at all of them.
    """

    call: Call
    mask: Bool[Tensor, "batch pos"]
    weight: float | Float[Tensor, "batch pos 1"]
    n_tokens: int
    is_idle: bool

    @classmethod
    def of(cls, call: Call, strength: Strength, scope: Scope, reach: int | None) -> "_Pass":
        mask, weight = _weights(strength, scope.mask(call), call.positions)
        n_tokens = int(mask.sum())
        is_idle = n_tokens == 0 or (reach is not None and not bool((mask & (call.positions < reach)).any()))
        return cls(call, mask, weight, n_tokens, is_idle)

    def edited(self, x: Float[Tensor, "batch pos width"], steering: Steering, site: Site) -> Tensor:
        """x + weight * delta where tokens are in scope, x elsewhere."""
        delta = steering.delta(x.clone(), site, self.call.positions)  # a method may write to what it is given
        if isinstance(self.weight, Tensor):
            moved = torch.addcmul(x, self.weight, delta)
        else:
            moved = torch.add(x, delta, alpha=self.weight)
        return moved if self.n_tokens == self.mask.numel() else torch.where(self.mask[..., None], moved, x)


class SteeringHandle:
    """An applied steering: use it in a `with` block, or call `remove()`; `log` counts what was edited."""

    def __init__(self, model: HookedModel, steering: Steering, strength: Strength, scope: Scope) -> None:
        self.log = ProbeLog(steering.sites)
        self._text = f"{steering!r}\n  strength {_strength_text(strength)}, applied in scope {scope}"
        self._pass: _Pass | None = None  # through it the hooks hold the handle: it acts until removed, kept or not
        reach = steering.reach

        def editor(note: Callable[[int], None]) -> HookFunction:
            def edit(values: Tensor, site: Site, call: Call) -> Tensor | None:
                now = self._pass
                if now is None or now.call is not call:
                    now = self._pass = _Pass.of(call, strength, scope, reach)
                note(now.n_tokens)
                return None if now.is_idle else now.edited(values.float(), steering, site)

            return edit

        edits = {site: editor(self.log.counter(site)) for site in steering.sites}
        self._hooks = model.hooked(edits, editing=True)

    def apply(self) -> "SteeringHandle":
        """Set the hooks; `steer` has done so already."""
        self._hooks.__enter__()
        return self

    def __repr__(self) -> str:
        return f"{self._text}\n  edited so far: {self.log}"

    def remove(self) -> None:
        """Take the steering off the model; calling it again does nothing."""
        self._hooks.__exit__(None, None, None)

    def __enter__(self) -> "SteeringHandle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _weights(
    strength: Strength, mask: Bool[Tensor, "batch pos"], positions: Int[Tensor, "batch pos"]
) -> tuple[Bool[Tensor, "batch pos"], float | Float[Tensor, "batch pos 1"]]:
    """Which tokens are edited, and the strength there: the mask loses positions beyond a tensor of strengths."""
    if isinstance(strength, int | float):
        return mask, strength
    if isinstance(strength, Tensor):
        last = len(strength) - 1
        return mask & (positions <= last), strength.to(positions.device)[positions.clamp(0, last)][..., None]
    values = strength(positions)
    if values.shape != positions.shape:
        raise SteeringError(
            f"the function of strengths gave shape {tuple(values.shape)} for positions of shape "
            f"{tuple(positions.shape)}; return one strength per position"
        )
    if not bool(torch.isfinite(values[mask]).all()):
        raise SteeringError("the function of strengths gave NaN or infinite values; return finite numbers")
    return mask, values.to(positions.device, torch.float32)[..., None]


def steer(
    model: HookedModel,
    steering: Steering | Artefact,
    strength: Strength = 1.0,
    scope: ScopeLike | None = None,
) -> SteeringHandle:
    """Apply a steering to a model: add `strength * delta` to the activations of the tokens in scope.

    Use as `with steer(model, steering, 2.0): ...` or keep the handle and call `remove()`. Without a `scope` the
    method's own is taken, or that of the artefact. Strength multiplies the method's own delta (activation units for
    added directions); negative strengths reverse it. It may differ by token: a tensor holds one strength per absolute
    position, and positions beyond its end are not edited; a function gets the absolute positions (-1 on padding) and
    returns as many strengths. Raises `SteeringError` before anything is hooked if the steering has no sites or does not
    fit the model.
    """
    if isinstance(steering, Artefact):
        scope, steering = steering.scope if scope is None else scope, steering.steering
    if not isinstance(steering, Steering):
        raise SteeringError(f"expected a steering or an artefact of one, given {type(steering).__name__}")
    strength = _checked_strength(strength)
    steering = steering.on(model.device)
    check_fit(model, steering)
    scope = steering.scope if scope is None else scope
    _check_size(model, steering, strength)
    handle = SteeringHandle(model, steering, strength, scope if isinstance(scope, Scope) else Scope(scope))
    try:
        return handle.apply()
    except BaseException:  # an interrupt too: nobody has the handle yet
        handle.remove()
        raise


def _checked_strength(strength: Strength) -> Strength:
    match strength:
        case Real():
            if not math.isfinite(strength):
                raise SteeringError(f"strength must be a finite number, not {strength}")
            return float(strength)
        case Tensor():
            if strength.dim() != 1 or len(strength) == 0 or not bool(torch.isfinite(strength).all()):
                raise SteeringError(
                    f"strengths must be finite, one per position, in one row; given shape {tuple(strength.shape)}"
                )
            return strength.detach().float()
    if not callable(strength):
        raise SteeringError(
            f"strength {strength!r} is no number; pass a number, a tensor of one per position, or a function"
        )
    return strength


def _strength_text(strength: Strength) -> str:
    if isinstance(strength, float):
        return f"{strength:g}"
    return f"for {len(strength)} positions" if isinstance(strength, Tensor) else "by a function of positions"


def save_steering(
    path: str | Path,
    steering: Steering,
    model: HookedModel,
    *,
    scope: ScopeLike | None = None,
    data_hashes: Mapping[str, str] | None = None,
) -> None:
    """Write a steering for one model to one file, complete or not at all; without a `scope` with the method's own."""
    check_fit(model, steering)
    scope = steering.scope if scope is None else scope if isinstance(scope, Scope) else Scope(scope)
    tensors, described = _payload(steering, "")
    header = {
        **described,
        "sites": [str(site) for site in steering.sites],
        "scope": plain_value(asdict(scope)),
        "model": model.name,
        "fingerprint": model.fingerprint,
        "made_with": provenance(model),
        "data": dict(data_hashes or {}),
    }
    write_file(path, tensors, header)


def _payload(steering: Steering, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a steering, their names after a prefix, and its other values; of a combination, part by part."""
    if isinstance(steering, Combination):
        tensors, parts = {}, []
        for number, (part, weight) in enumerate(steering.parts):
            found, described = _payload(part, f"{prefix}{number}.")
            tensors |= found
            parts.append({**described, "weight": float(weight)})
        return tensors, {"operation": "Combination", "parts": parts}
    assert is_dataclass(steering)
    values = {field.name: getattr(steering, field.name) for field in fields(steering)}
    tensors = {prefix + name: value.detach().cpu() for name, value in values.items() if isinstance(value, Tensor)}
    others = {name: plain_value(value) for name, value in values.items() if not isinstance(value, Tensor)}
    return tensors, {"operation": type(steering).__name__, "values": others}


def _check_size(model: HookedModel, steering: Steering, strength: Strength) -> None:
    """Raise where the edit is too large for the model's arithmetic: norms square the activations in float32."""
    if callable(strength) and not isinstance(strength, Tensor):
        return  # known only when it is asked
    largest = float(torch.as_tensor(strength).abs().max())
    for site in steering.sites:
        x = torch.ones(1, 1, model.width(site), device=model.device)
        delta = largest * steering.delta(x, site, torch.zeros(1, 1, dtype=torch.long, device=model.device)).double()
        bound = min(torch.finfo(model.dtype).max, math.sqrt(torch.finfo(torch.float32).max / model.width(site)))
        if float(delta.detach().abs().max()) > bound:
            raise SteeringError(
                f"strength {largest:g} adds up to {float(delta.abs().max()):.1e} at {site}, more than {model.name} can "
                f"compute with ({bound:.1e} in {str(model.dtype).removeprefix('torch.')}); choose a smaller strength"
            )


def check_fit(model: HookedModel, steering: Steering) -> None:
    """Raise unless every site of the steering exists in the model and its delta there has the right shape."""
    if not steering.sites:
        raise SteeringError(f"{type(steering).__name__} acts at no site, so it would change nothing; fit it again")
    steering.check_model(model)
    for site in steering.sites:
        model.hook_name(site, editing=True)
        x = torch.zeros(1, 1, model.width(site), device=model.device)
        try:
            shape = steering.delta(x, site, torch.zeros(1, 1, dtype=torch.long, device=model.device)).shape
        except (RuntimeError, IndexError) as error:
            raise SteeringError(f"{type(steering).__name__} does not fit {model.name} at {site}: {error}") from error
        if shape != x.shape:
            raise SteeringError(
                f"{type(steering).__name__} has width {shape[-1]} at {site}, but {model.name} has {x.shape[-1]} there"
            )


def at_positions(
    table: Float[Tensor, "row width"], positions: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos width"]:
    """Rows of a table by absolute position; its last row, of zeros, is for padding (-1) and all positions beyond."""
    return table[positions.clamp(max=len(table) - 1)]
