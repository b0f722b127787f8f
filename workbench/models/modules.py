"""What wrapping puts into a model's module tree, and how it is taken out again.

TransformerLens computes attention itself, with all scores in memory, so that they can be hooked. `use_native_attention`
puts Hugging Face's own attention (SDPA, where the model has it) between the same hook points.
"""

from typing import Any

from torch import nn
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

# Hook points inside the attention of TransformerLens that nothing passes where Hugging Face computes it.
INSIDE_ATTENTION = ("hook_pattern", "hook_attn_scores", "hook_result", "hook_rot_q", "hook_rot_k")


class NativeAttention(nn.Module):
    """The attention of the model itself, from TransformerLens' input hook point to its output hook point."""

    bridge: Any
    plain: Any

    def __init__(self, bridge: AttentionBridge) -> None:
        super().__init__()
        object.__setattr__(self, "bridge", bridge)  # not a submodule: it holds the same modules
        self.plain = bridge.original_component
        output = bridge._modules.get("o")
        if (
            output is not None
            and isinstance(name := getattr(output, "name", None), str)
            and name in self.plain._modules
        ):
            self.plain._modules[name] = output  # joint projections are copies in the bridge; z stands before this one

    @property
    def o(self) -> Any:
        """The output projection, whose input is z."""
        return self.bridge._modules["o"]

    def forward(self, *arguments: Any, **options: Any) -> Any:
        if arguments:
            arguments = (self.bridge.hook_in(arguments[0]), *arguments[1:])
        else:
            options = options | {"hidden_states": self.bridge.hook_in(options["hidden_states"])}
        output = self.plain(*arguments, **options)
        if isinstance(output, tuple):
            return (self.bridge.hook_out(output[0]), *output[1:])
        return self.bridge.hook_out(output)


def use_native_attention(model: nn.Module) -> bool:
    """Put Hugging Face's attention in the place of TransformerLens'; False where none was replaced."""
    found = False
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, AttentionBridge) and isinstance(child.original_component, nn.Module):
                module._modules[name] = NativeAttention(child)
                found = True
    return found


class ModuleTree:
    """The modules of a model with all that hangs on them, as they are now, to be put back later."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._attention = getattr(model.config, "_attn_implementation", None)
        self._modules = [(module, {name: (value, _copy(value)) for name, value in vars(module).items()})
                         for module in model.modules()]  # fmt: skip

    def restore(self) -> None:
        for module, attributes in self._modules:
            for name in set(vars(module)) - set(attributes):
                del module.__dict__[name]
            for name, (value, content) in attributes.items():
                if isinstance(value, dict):  # children, parameters, buffers, hooks
                    value.clear()
                    value.update(content)
                module.__dict__[name] = value
        if self._attention is not None:
            self._model.set_attn_implementation(self._attention)  # pyright: ignore[reportCallIssue]


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
