"""Executed notebooks as HTML pages that open from disk: styles and formulas in them, figures in the run's folder."""

import base64
import functools
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.core.files import ROOT, replacing

# jsonschema, which notebooks are checked with, would compile a grammar of addresses for a second; it does without
sys.modules.setdefault("rfc3987_syntax", None)

NOTEBOOKS = ROOT / "notebooks"
TEMPLATES = Path(__file__).parent / "templates"


def title_of(notebook: Path) -> str:
    """A notebook's first heading."""
    cells = json.loads(notebook.read_text())["cells"]
    lines = (line for cell in cells if cell["cell_type"] == "markdown" for line in "".join(cell["source"]).splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), notebook.stem)


def write_page(notebook: Path, page: Path, run_after: Sequence[str] = ()) -> Path:
    """Convert an executed notebook into an HTML file that shows the run's figures from `../figures/`, with links to
    those before and after it in `run_after`, the notebooks of the run in their order. Paths count from the
    repository's root: where that lies on somebody's machine is nobody's business."""
    from jinja2 import FileSystemLoader
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = _exporter()(
        template_name="basic",
        template_file="notebook.html.j2",
        extra_loaders=[FileSystemLoader(TEMPLATES)],
        preprocessors=[CoalesceStreamsPreprocessor],  # a progress bar is its last line, not all of them
        embed_images=True,
    )
    names = [name for name in run_after if not name.startswith("00")]  # stands apart
    before, after = dict(zip(names[1:], names, strict=False)), dict(zip(names, names[1:], strict=False))
    around = {"previous": before.get(notebook.stem), "next": after.get(notebook.stem)}
    report = {"title": title_of(notebook), "css": page_style(), **around}
    html, _ = exporter.from_filename(str(notebook), resources={"report": report, "metadata": {"path": str(ROOT)}})
    for picture in page.parent.parent.glob("figures/*.png"):
        data = base64.b64encode(picture.read_bytes()).decode()
        html = html.replace(f"data:image/png;base64,{data}", f"../figures/{picture.name}")
    with replacing(page) as temporary:
        temporary.write_text(html.replace(f"{ROOT}/", ""))
    return page


@functools.cache
def _exporter() -> type:
    """nbconvert's HTML exporter, with formulas as pictures where it would fetch MathJax."""
    from jinja2 import pass_context
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return formula_picture(body)

        def block_math(self, body: str) -> str:
            return f'<p class="formula">{formula_picture(body)}</p>'

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source: str) -> str:
            return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=True, path=str(ROOT))).render(source)

    return Exporter


@functools.cache
def formula_picture(tex: str) -> str:
    """A formula as an `<img>` that needs no script: matplotlib's mathtext, sized in em and set on the baseline."""
    from html import escape

    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image
    from pyparsing import ParseBaseException

    tex, size, buffer = " ".join(tex.split()), 12, io.BytesIO()
    try:
        prop = FontProperties(size=size, math_fontfamily="stix")
        depth = math_to_image(f"${tex}$", buffer, prop=prop, dpi=72, format="svg")
    except (ValueError, ParseBaseException):
        return f'<code class="formula">{escape(tex)}</code>'
    size_in_pt = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', buffer.getvalue())
    width, height = float(size_in_pt[1]), float(size_in_pt[2])
    box = f"width:{width / size:.2f}em;height:{height / size:.2f}em;vertical-align:{-depth / size:.2f}em"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="formula" style="{box}" alt="{escape(tex)}" src="data:image/svg+xml;base64,{data}">'


def page_style() -> str:
    """The style sheet of all pages, with the colours of code."""
    from pygments.formatters import HtmlFormatter

    return (TEMPLATES / "page.css").read_text() + HtmlFormatter(style="friendly").get_style_defs(".highlight")
