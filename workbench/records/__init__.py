"""The nouns of the workbench: frozen values that flow between its parts, checked when they are made.

Nothing here knows a model, a file format of somebody else, or a figure. Arrays are NumPy on the analysis side and torch
on the model side. Everybody imports from here; the modules below group what belongs together.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
