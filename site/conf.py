"""Sphinx's configuration of the book. `book.py` assembles the pages and calls Sphinx; nothing is executed here."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # hooks.py, and the library whose docstrings are read

from hooks import line_of as linkcode_resolve  # noqa: E402, F401

project = "contlearn"
author = "the contlearn authors"
copyright = author
html_title = "Elastic Weight Consolidation, taken apart"
html_short_title = "contlearn"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "hooks",
]
exclude_patterns = ["_extra", "_static"]
suppress_warnings = ["config.cache"]
smartquotes_action = "D"  # dashes
nitpicky = False

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_heading_slug_func = "hooks.slug"
myst_dmath_double_inline = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["static", "../build/book/_static"]
html_extra_path = ["../build/book/_extra"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_use_index = True
html_search_scorer = str(HERE / "scorer.js")
html_favicon = "static/icon.svg"
html_math_renderer = "katex"
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#00609c", "color-brand-content": "#00609c"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f5", "color-brand-content": "#7cc4f5"},
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_selector = "div.cell_input pre, div.highlight-python pre, div.highlight-sh pre, div.highlight-default pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
