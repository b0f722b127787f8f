"""Find, label and steer domain-critical dimensions of language models.

The names that a session begins with; all else is in the sub-packages (`workbench.figures`, `workbench.records`, ...).
Each is loaded when it is first used, so that `import workbench` and `workbench --help` stay fast; the stub beside this
file says where it comes from, and tells type checkers and editors its type.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
