"""Models with hooks: the only part of the workbench that knows TransformerLens."""

from workbench.models.errors import ModelError
from workbench.models.hooked import Call, HookedModel, HookFunction
from workbench.models.identity import differences, provenance
from workbench.models.loading import load_model, wrap

__all__ = ["Call", "HookFunction", "HookedModel", "ModelError", "differences", "load_model", "provenance", "wrap"]
