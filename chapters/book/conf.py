"""Sphinx: the chapters as a site that asks for nothing from outside. `chapters/book.py` prepares the pages and runs it."""

from importlib.metadata import files
from pathlib import Path

project = "minidat"
author = copyright = "the minidat authors"
extensions = ["myst_nb", "sphinx_copybutton"]
html_theme = "furo"
html_title = "minidat: the chapters"
html_show_sphinx = html_copy_source = False
copybutton_selector = "div.cell_input div.highlight pre, div.highlight-python pre"

html_static_path = [
    *(
        str(file.locate()) for file in files("sphinx-mathjax-offline") or () if file.name == "tex-svg.js"
    ),  # all of MathJax
    *(str(Path(__file__).with_name(name)) for name in ("book.css", "book.js")),
]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
mathjax_path = "tex-svg.js"

myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # the notebooks hold their outputs
nb_render_markdown_format = "myst"
nitpicky = True
pygments_dark_style = "monokai"
