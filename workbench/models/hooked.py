"""A causal language model with hooks at named sites, in raw coordinates.

`HookedModel` holds a TransformerBridge around the unmodified Hugging Face model. Weights are never folded or centred,
because this tool is about single coordinates of the residual stream. Every forward pass, in generation too, goes
through the Hugging Face modules, so a hook sees the same tensors everywhere.
"""

import hashlib
import inspect
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import torch
from jaxtyping import Float, Int
from jinja2 import TemplateError
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.heterogeneous_config import safe_config_get
from transformers import GenerationConfig, LogitsProcessorList

from workbench.models.errors import ModelError, is_finite, refuse_non_finite
from workbench.models.hooking import Claims, Hooks
from workbench.models.modules import INSIDE_ATTENTION, ModuleTree, NativeAttention
from workbench.models.text import TextCodec
from workbench.records import Site, SiteKind, Tokens

HOOK_NAMES: dict[SiteKind, str] = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "attn_raw": "blocks.{}.attn.hook_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "mlp_raw": "blocks.{}.mlp.hook_out",
    "z": "blocks.{}.attn.hook_z",
}
# In TransformerLens 4.3 a tensor returned at resid_mid reaches the MLP branch only, not the skip path.
READ_ONLY_KINDS = frozenset({"resid_mid"})


@dataclass(frozen=True)
class Call:
    """What a hook must know of the forward pass it stands in.

    `positions` are absolute also under a KV cache, -1 on padding. `prompt_lengths` counts real tokens per row; in a
    pass outside `generate` the whole row counts as prompt unless the caller says otherwise.
    """

    positions: Int[Tensor, "batch pos"]
    prompt_lengths: Int[Tensor, "batch"]


HookFunction = Callable[[Tensor, Site, Call], Tensor | None]


class _PassState(threading.local):
    """What the passes of one thread know: the prompt lengths that were passed in, and the call that hooks see."""

    prompt_lengths: Tensor | None = None
    call: Call | None = None
    noted: tuple[Any, ...] = ()  # what the outer module of the pass was called with


LARGEST_SEED = 2**32 - 1  # what NumPy, scikit-learn and torch all take

# Names of TransformerLens that are missing here, and what stands for them.
LENS_NAMES = {
    "to_tokens": "model.tokenize([text]).ids",
    "to_string": "model.decode(ids)",
    "to_str_tokens": "model.token_texts(ids)",
    "to_single_token": "model.tokenize([text]).ids[0, -1]",
    "cfg": "model.n_layers, model.d_model, ... or model.hf_model.config",
    "forward": "model.logits(model.tokenize([text]))",
    "run_with_hooks": "`with model.hooks([(name, function)]): model.logits(tokens)`",
    "add_hook": "`with model.hooks([(name, function)]): ...`, which removes the hook on exit",
    "reset_hooks": "nothing: hooks are removed when their `with` block ends",
    "hook_dict": "model.bridge.hook_dict",
    "W_E": "model.hf_model.get_input_embeddings().weight, [vocab, d_model]",
    "W_U": "model.hf_model.get_output_embeddings().weight.T, [d_model, vocab]",
    "unembed": "model.hf_model.get_output_embeddings()",
    "blocks": "model.bridge.blocks",
    "ln_final": "model.bridge.ln_final",
    "from_pretrained": "workbench.load_model(name)",
}


class HookedModel:
    """A causal language model with hooks at named sites, in the raw coordinates of its Hugging Face implementation.

    Made by `load_model` or `wrap`. Hooks live on the shared modules, so while one thread has hooks on the model,
    every other one that uses it is refused. `checks` says what the load-time self-check found for every kind of site.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        tokenizer: Any,
        name: str,
        *,
        bos: str = "auto",
        before: ModuleTree | None = None,
    ) -> None:
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.name = name
        self.hf_model: Any = bridge.original_model
        self._before = before
        self.checks: dict[str, str] = {}
        self.origin: dict[str, str] = {}  # of a GGUF file: its name, digest and quantisation
        self._state = _PassState()
        self._claims = Claims.of(self.hf_model)
        config = self.hf_model.config.get_text_config()
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.n_heads: int = getattr(config, "num_attention_heads", None) or 1
        self.d_head: int = _d_head(config, self.d_model, self.n_heads)
        self.vocabulary_size: int = config.vocab_size
        self.context_length: int = _context_length(config, tokenizer)
        self.text = TextCodec(tokenizer, self.hf_model.get_input_embeddings().weight.shape[0], bos)
        self._accepted = frozenset(inspect.signature(self.hf_model.forward).parameters)

    if not TYPE_CHECKING:  # a type checker has to see misspelt names

        def __getattr__(self, name: str) -> NoReturn:
            here = f"; use {LENS_NAMES[name]}" if name in LENS_NAMES else ""
            raise AttributeError(f"HookedModel has no attribute {name!r}{here}")

    def __repr__(self) -> str:
        refused = [kind for kind, result in self.checks.items() if result != "ok"]
        lines = [
            f"HookedModel {self.name!r}: {type(self.hf_model).__name__}, {self.n_layers} layers, "
            f"d_model {self.d_model}, {self.n_heads} heads, {str(self.dtype).removeprefix('torch.')} on {self.device}",
            f"active edits: {', '.join(self._claims.edits()) or 'none'}",
        ]
        return "\n".join(lines + ([f"not usable: {', '.join(refused)}"] if refused else []))

    # --- what the model is --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.hf_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hf_model.parameters()).dtype

    @property
    def has_bos(self) -> bool:
        """Whether a token is put in front of every text; see `text.prefix` for which."""
        return bool(self.text.prefix)

    @property
    def attention(self) -> str:
        """Which implementation computes attention: "eager" is TransformerLens' own, anything else Hugging Face's."""
        return self.hf_model.config.get_text_config()._attn_implementation or "eager"

    def unwrap(self) -> Any:
        """The Hugging Face model without hook points, as it was before it was wrapped; this wrapper is then of no use.

        Saving needs it: a wrapped model has other module names, and `save_pretrained` would write those.
        """
        if self._before is None:
            raise ModelError(
                f"{self.name} was wrapped by somebody else, as a TransformerBridge; load it again to save it"
            )
        self._before.restore()
        return self.hf_model

    @cached_property
    def fingerprint(self) -> str:
        """Hash of architecture, rope and norm settings, tokenizer, weights and saved buffers.

        Values count as bfloat16, so that the loading dtype does not matter.
        """
        digest = hashlib.sha256()
        config = self.hf_model.config.get_text_config().to_dict()
        shape = {key: config[key] for key in sorted(config) if _tells_apart(key)}
        digest.update(json.dumps(shape, default=str).encode())
        digest.update(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        # Module names change when a model is wrapped, and with TransformerLens; the set of weights does not.
        stored = self.hf_model.state_dict(keep_vars=True).values()  # weights and the buffers that are saved
        distinct = {id(value): value for value in stored if isinstance(value, Tensor) and bool(value.any())}.values()
        weights = (value.detach().to("cpu", torch.bfloat16).contiguous() for value in distinct)
        for one in sorted(hashlib.sha256(weight.view(torch.uint8).numpy().tobytes()).digest() for weight in weights):
            digest.update(one)
        return digest.hexdigest()[:32]

    def width(self, site: Site) -> int:
        """Number of coordinates at a site: d_model, or n_heads * d_head at z."""
        return self.n_heads * self.d_head if site.kind == "z" else self.d_model

    def residual_sites(self, layers: Sequence[int] | None = None) -> tuple[Site, ...]:
        """Block outputs of the given layers, by default of all."""
        chosen = range(self.n_layers) if layers is None else layers
        return tuple(Site("resid_post", layer) for layer in chosen)

    def promoted_tokens(self, dimension: int, n: int = 8) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Logit lens of one residual dimension: the tokens that it raises and lowers most, through the final norm."""
        if not 0 <= dimension < self.d_model:
            raise ModelError(f"dimension {dimension} is out of range; this model has 0 to {self.d_model - 1}")
        with torch.inference_mode():
            unit = torch.zeros(1, 1, self.d_model, device=self.device, dtype=self.dtype)
            unit[..., dimension] = 1.0
            logits = self.hf_model.get_output_embeddings()(self.bridge.ln_final(unit)).flatten().float()
        order = logits.argsort(descending=True)
        texts = [self.text.whole_text(index) for index in (*order[:n].tolist(), *order[-n:].flip(0).tolist())]
        return tuple(texts[:n]), tuple(texts[n:])

    def project_heads(self, z: Float[Tensor, "*rows width"], layer: int) -> Float[Tensor, "*rows d_model"]:
        """Head outputs through the output projection of one layer, without its bias: W_O z."""
        attention = self.bridge.blocks[layer].attn
        bridged = attention.bridge if isinstance(attention, NativeAttention) else attention
        projection = bridged.o.original_component
        with torch.inference_mode():
            values = z.to(self.device, self.dtype)
            return projection(values) - projection(torch.zeros_like(values))

    # --- text and tokens ----------------------------------------------------------------------------------------------

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        side: Literal["left", "right"] = "right",
        literal: bool = False,
    ) -> Tokens:
        """Token ids of a batch, with what the model's BOS rule puts in front, once; padded on `side`.

        Texts longer than the context raise, unless `truncate` asks to cut them at the end. Prompts may hold control
        tokens (chat formats do); `literal` reads those that a document quotes as plain text.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
            raise ModelError("tokenize expects a list of at least one text; wrap a single text in a list")
        other = next((text for text in texts if not isinstance(text, str)), None)
        if other is not None:
            raise ModelError(
                f"texts hold {type(other).__name__} {str(other)[:40]!r}; give str, or tokens made by tokenize"
            )
        rows = []
        for index, text in enumerate(texts):
            ids = self.text.encode(text, literal=literal)
            if not ids:
                raise ModelError(f"text {index} has no tokens; remove it")
            if len(ids) > self.context_length and not truncate:
                raise ModelError(
                    f"text {index} has {len(ids)} tokens but the context holds {self.context_length}; shorten it, or "
                    "ask for truncate=True"
                )
            rows.append(ids[: self.context_length])
        return self.pad(rows, side=side)

    def pad(self, rows: Sequence[Sequence[int]], *, side: Literal["left", "right"] = "right") -> Tokens:
        """Rows of token ids as one padded batch on the model's device."""
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.bool)
        for index, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
            ids[index, place] = torch.tensor(row, dtype=torch.long)
            mask[index, place] = True
        return Tokens(ids.to(self.device), mask.to(self.device))

    @property
    def _pad_id(self) -> int:
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0):
            if candidate is not None:
                return candidate
        raise AssertionError("unreachable")

    def tokenize_chat(self, user: str, *, system: str | None = None) -> str:
        """The text of one exchange up to where the assistant answers, in the model's own chat format."""
        if not self.tokenizer.chat_template:
            raise ModelError(f"{self.name} has no chat template; pass the prompt as plain text")
        messages = [{"role": "user", "content": user}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            hint = "" if system is None else "; leave the system message out, or put it before the user's"
            raise ModelError(f"the chat template of {self.name} refuses this exchange ({error}){hint}") from error

    def decode(self, ids: Sequence[int], *, after: str | Sequence[int] | None = None) -> str:
        """The text of token ids; of a continuation, what it adds to the prompt (text or ids) that it stands `after`."""
        if after is None:
            return self.text.decode(ids)
        return self.text.decode_after(self.text.encode(after) if isinstance(after, str) else after, ids)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of every single token; spaces and newlines are kept."""
        distinct = {int(index): self.text.token_text(int(index)) for index in set(map(int, ids))}
        return [distinct[int(index)] for index in ids]

    def _as_tokens(self, text: str | Sequence[str] | Tokens, *, side: Literal["left", "right"] = "right") -> Tokens:
        return text if isinstance(text, Tokens) else self.tokenize([text] if isinstance(text, str) else text, side=side)

    # --- running ------------------------------------------------------------------------------------------------------

    def _arguments(self, tokens: Tokens) -> dict[str, Tensor]:
        arguments = {"input_ids": tokens.ids}
        if not bool(tokens.mask.all()):
            arguments["attention_mask"] = tokens.mask.long()
            if not bool(tokens.mask[:, 0].all()) and "position_ids" in self._accepted:
                arguments["position_ids"] = tokens.positions.clamp(min=0)
        return arguments

    def run(self, tokens: Tokens, *, prompt_lengths: Int[Tensor, "batch"] | None = None) -> None:
        """One pass without the language-model head, for what hooks see; keeps no graph."""
        with torch.inference_mode(), self._prompts(prompt_lengths):
            self.hf_model.base_model(**self._arguments(tokens), use_cache=False)

    def logits(
        self,
        tokens: Tokens,
        *,
        last_only: bool = False,
        prompt_lengths: Int[Tensor, "batch"] | None = None,
        with_gradients: bool = False,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits at every position, or with `last_only` at the last real one (`pos` is then 1).

        `prompt_lengths` tells position rules where the prompt of each row ends; by default the row is all prompt.
        """
        arguments: dict[str, Any] = self._arguments(tokens)
        head_last = last_only and bool(tokens.mask[:, -1].all()) and "logits_to_keep" in self._accepted
        if head_last:
            arguments["logits_to_keep"] = 1
        with torch.inference_mode(not with_gradients), self._prompts(prompt_lengths):
            logits = self.hf_model(**arguments, use_cache=False).logits
            if not is_finite(logits):
                self._refuse_non_finite(arguments["input_ids"], arguments.get("attention_mask"))
        if last_only and not head_last:
            last = tokens.mask.long().cumsum(dim=1).argmax(dim=1)
            logits = logits[torch.arange(len(last), device=last.device), last][:, None]
        return logits

    @overload
    def generate(
        self, prompt: str, *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, use_cache: bool = True
    ) -> str: ...

    @overload
    def generate(
        self, prompt: Tokens, *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, use_cache: bool = True
    ) -> list[list[int]]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        use_cache: bool = True,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str | Sequence[str] | Tokens,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        use_cache: bool = True,
    ) -> str | list[str] | list[list[int]]:
        """What follows a prompt, up to the end marker: text for a text, texts for a list, new token ids for `Tokens`.

        Greedy at temperature 0. The prompt itself is not repeated. `Tokens` must be left-padded. Leaves the global
        random state as it was. Raises `ModelError` where the model gives logits that are no numbers.
        """
        tokens = prompt if isinstance(prompt, Tokens) else self._as_tokens(prompt, side="left")
        rows = self._generate(tokens, max_new_tokens, temperature, seed, use_cache)
        if isinstance(prompt, Tokens):
            return rows
        prompts = tokens.ids.tolist()
        texts = [self.decode(row, after=before) for before, row in zip(prompts, rows, strict=True)]
        return texts[0] if isinstance(prompt, str) else texts

    def _generate(
        self, tokens: Tokens, max_new_tokens: int, temperature: float, seed: int, use_cache: bool
    ) -> list[list[int]]:
        if not 0 <= temperature < math.inf:
            raise ModelError(f"temperature is {temperature}; give 0 for greedy text, or a finite number above it")
        if not 0 <= seed <= LARGEST_SEED:
            raise ModelError(f"seed is {seed}; give a whole number from 0 to {LARGEST_SEED}")
        if max_new_tokens < 1:
            raise ModelError(f"max_new_tokens is {max_new_tokens}; at least 1 is needed")
        if not bool(tokens.mask[:, -1].all()):
            raise ModelError("generate expects left-padded tokens; use tokenize(..., side='left')")
        if tokens.ids.shape[1] + max_new_tokens > self.context_length:
            raise ModelError(
                f"prompt of {tokens.ids.shape[1]} tokens and {max_new_tokens} new ones do not fit the context of "
                f"{self.context_length}"
            )
        own = self.hf_model.generation_config
        eos = self.tokenizer.eos_token_id if own is None or own.eos_token_id is None else own.eos_token_id
        ends = set(eos if isinstance(eos, list) else [eos])
        settings = {"do_sample": temperature > 0, "max_new_tokens": max_new_tokens, "use_cache": use_cache}
        if temperature > 0:
            settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(**settings, pad_token_id=self._pad_id, eos_token_id=eos)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode(), self._prompts(tokens.lengths):
            torch.manual_seed(seed)
            # Hugging Face fills what is not stated from the model's own settings: repetition penalties, static caches,
            # suppressed or forced tokens. None of them is wanted here.
            self.hf_model.generation_config = GenerationConfig()
            try:
                output = self.hf_model.generate(
                    tokens.ids,
                    attention_mask=tokens.mask.long(),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([self._finite_scores]),
                )
            finally:
                self.hf_model.generation_config = own
        rows = output[:, tokens.ids.shape[1] :].tolist()
        return [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in rows]

    def _finite_scores(self, ids: Tensor, scores: Tensor) -> Tensor:
        if not is_finite(scores):
            self._refuse_non_finite(ids, None)
        return scores

    def _refuse_non_finite(self, ids: Tensor, mask: Tensor | None) -> None:
        seen: list[Tensor] = [torch.zeros(1)]
        sites = self.residual_sites()
        with self.hooked(dict.fromkeys(sites, lambda values, *_: seen.append(values.clone()))):
            self.hf_model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        refuse_non_finite(self.name, self.dtype, seen)

    @contextmanager
    def _prompts(self, prompt_lengths: Tensor | None) -> Iterator[None]:
        outer, self._state.prompt_lengths = self._state.prompt_lengths, prompt_lengths
        try:
            yield
        finally:
            self._state.prompt_lengths = outer

    # --- hooks --------------------------------------------------------------------------------------------------------

    def hook_name(self, site: Site, *, editing: bool = False) -> str:
        """TransformerLens' name of a site; raises where the model has none or the self-check refused it."""
        if site.layer >= self.n_layers:
            raise ModelError(f"layer {site.layer} is out of range; {self.name} has layers 0 to {self.n_layers - 1}")
        if editing and site.kind in READ_ONLY_KINDS:
            raise ModelError(f"{site} can be read but not edited; edit resid_pre, attn_out or resid_post instead")
        name = HOOK_NAMES[site.kind].format(site.layer)
        if name not in self.bridge.hook_dict:
            raise ModelError(f"{self.name} has no {site.kind} at layer {site.layer}; choose another site")
        if self.checks.get(site.kind, "ok") != "ok":
            raise ModelError(f"{site.kind} failed the self-check on {self.name}: {self.checks[site.kind]}")
        return name

    def hooked(self, functions: Mapping[Site, HookFunction], *, editing: bool = False) -> AbstractContextManager[None]:
        """Call `functions[site](values, site, call)` in every pass; with `editing`, a returned tensor replaces them.

        `values` are [batch, pos, width] (heads flattened at z); without `editing` a copy, which may be written to. The
        one place where hooks are set; they are removed on exit, whatever happened, and nobody else's are touched.
        Raises `ModelError` on entry, and in every pass, while another thread has hooks on the model.
        """
        points = [(self.bridge.hook_dict[self.hook_name(site, editing=editing)], site) for site in functions]
        hooks = [(point, self._adapter(functions[site], site, editing)) for point, site in points]
        return self._set(hooks, tuple(map(str, functions)) if editing else ())

    def _set(self, hooks: Sequence[tuple[Any, Callable[..., Any]]], edits: tuple[str, ...] = ()) -> Hooks:
        # Both, because some families call a module inside the base model and not the base model itself.
        modules = dict.fromkeys((self.hf_model, self.hf_model.base_model))
        return Hooks(self._claims, tuple(modules), self._note_call, hooks, edits)

    def _adapter(self, function: HookFunction, site: Site, editing: bool) -> Callable[..., Tensor | None]:
        def hook(tensor: Tensor, hook: Any) -> Tensor | None:
            self._claims.check()
            assert self._state.call is not None
            values = tensor if editing else tensor.clone()
            result = function(values.flatten(2) if site.kind == "z" else values, site, self._state.call)
            if result is None:
                return None
            if not editing:
                raise ModelError(
                    f"a hook that only reads returned a tensor at {site}; ask for hooked(..., editing=True)"
                )
            return result.to(tensor.dtype).view_as(tensor)

        return hook

    def _note_call(self, module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._claims.check()
        ids = options.get("input_ids")
        ids = (arguments[0] if arguments else options["inputs_embeds"]) if ids is None else ids
        mask = options.get("attention_mask")
        cache = options.get("past_key_values")
        batch, length = ids.shape[:2]
        past = 0 if cache is None else int(cache.get_seq_length())
        given = (ids, mask, past, self._state.prompt_lengths)
        outer, self._state.noted = self._state.noted, () if module is self.hf_model.base_model else given
        if len(outer) == len(given) and all(one is other for one, other in zip(outer, given, strict=True)):
            return  # the base model, called by the model that has noted this pass
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            raise ModelError("a static cache hides which tokens are padding; generate with a dynamic cache")
        if mask is None:
            mask = torch.ones(batch, past + length, dtype=torch.bool, device=ids.device)
        mask, own = mask.long(), slice(past, past + length)
        positions = (mask.cumsum(dim=1) * mask)[:, own] - 1
        prompts = mask.sum(dim=1) if self._state.prompt_lengths is None else self._state.prompt_lengths
        if len(prompts) != batch:
            prompts = prompts.repeat_interleave(batch // len(prompts))
        self._state.call = Call(positions, prompts)

    def run_with_cache(
        self,
        text: str | Sequence[str] | Tokens,
        names_filter: str | Sequence[str] | Callable[[str], bool] | None = None,
    ) -> tuple[Float[Tensor, "batch pos vocab"], Any]:
        """TransformerLens' verb: logits and an ActivationCache by hook name, in raw coordinates, without gradients.

        Texts are tokenised as by `tokenize`, padded on the right.
        """
        tokens = self._as_tokens(text)
        self._check_names([names_filter] if isinstance(names_filter, str) else names_filter)
        with torch.inference_mode():
            return self.bridge.run_with_cache(
                tokens.ids, names_filter=names_filter, attention_mask=tokens.mask.long(), return_type="logits"
            )

    def hooks(self, fwd_hooks: Sequence[tuple[str, Callable[..., Any]]]) -> AbstractContextManager[None]:
        """TransformerLens' verb: hooks by name for the duration of a `with` block; unknown names raise."""
        self._check_names([name for name, _ in fwd_hooks])
        hooks = [(self.bridge.hook_dict[name], function) for name, function in fwd_hooks]
        return self._set(hooks)

    def _check_names(self, names: Any) -> None:
        if names is None or callable(names):
            return
        inside = [name for name in names if name.endswith(INSIDE_ATTENTION)]
        if inside and self.attention != "eager":
            raise ModelError(f"{inside[0]} is seen by TransformerLens' attention only; load with attention='eager'")
        unknown = [name for name in names if name not in self.bridge.hook_dict]
        if unknown:
            raise ModelError(f"unknown hook names {unknown}; see model.bridge.hook_dict for those of {self.name}")


def _tells_apart(key: str) -> bool:
    """Whether a setting of a config changes what the same weights compute."""
    return key.startswith(("num_", "hidden_", "vocab", "inter")) or any(
        part in key
        for part in ("rope", "norm", "eps", "theta", "softcap", "scal", "sliding", "layer_types", "multiplier")
    )


def _d_head(config: Any, d_model: int, n_heads: int) -> int:
    """Width of one head's output; that of its values where queries and values differ in width (MLA)."""
    of_values, of_all = (safe_config_get(config, name) for name in ("v_head_dim", "head_dim"))
    return of_values or of_all or d_model // n_heads


def _context_length(config: Any, tokenizer: Any) -> int:
    """Longest text in tokens; recurrent models have no limit of their own, only that of their tokenizer."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(value := getattr(config, name, None), int):
            return value
    return min(int(tokenizer.model_max_length), 2**20)
