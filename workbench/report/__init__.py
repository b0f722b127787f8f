"""A run folder as one self-contained HTML page: what was found, said from the numbers, with methods and manifest.

Everything is read from `manifest.json`, `summary.json` and `records/`; no model is needed. What a run does not hold is
named in the text in place of the figure.
"""

from collections.abc import Callable
from pathlib import Path

from workbench.figures import Section, write_page
from workbench.report import masking, planted, sections, verdicts
from workbench.report.material import Material, model_name, read_material
from workbench.report.paper import paper_drawings, write_gallery, write_paper

# Anchor, title, and the function that writes the section as HTML. One that returns "" leaves its section out.
SECTIONS: tuple[tuple[str, str, Callable[[Material], str]], ...] = (
    ("planted", "What was planted", planted.planted),
    ("magnitudes", "Dimension magnitudes", sections.magnitudes),
    ("frequency", "Activation frequency", sections.frequency),
    ("dimensions", "Domain-critical dimensions", sections.dimensions),
    ("detectors", "Detectors", sections.detectors),
    ("masking", "Masking: what the model needs", masking.masking),
    ("verdicts", "Sink or detector", verdicts.verdicts),
    ("labels", "Labels on held-out text", verdicts.labels),
    ("stability", "How sure", verdicts.stability),
    ("steering", "Steering", sections.steering),
    ("methods", "Methods", sections.methods),
    ("manifest", "Manifest", sections.manifest),
)

__all__ = ["SECTIONS", "Material", "paper_drawings", "read_material", "write_gallery", "write_paper", "write_report"]


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run folder from the records there, and return its path.

    Parts that the folder does not hold are named in the text. Raises ValueError where it holds no record at all.
    """
    folder = Path(run_folder)
    material = read_material(folder)
    written = [Section(name, title, build(material)) for name, title, build in SECTIONS]
    title = f"Domain-critical dimensions of {model_name(material)}"
    present = [section for section in written if section.body]
    return write_page(folder / "report.html", title=title, lead=sections.lead(material), sections=present)
