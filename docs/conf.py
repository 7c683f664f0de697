"""Sphinx makes pages of this folder: ``sphinx-build -W docs build/docs``. Needs the extra ``docs``."""

import re
from pathlib import Path

import m3pot

WEIGHTS = Path(__file__).parents[1] / "m3pot" / "weights"

project = author = copyright = "m3pot"
version = release = m3pot.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2
highlight_language = "bash"  # of fences without a language, as in the README
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
html_theme = "furo"
html_title = f"m3pot {version}"


def _add_cards(app, docname, source):
    """Append the card of every shipped model to the page about models."""
    if docname == "models":
        cards = [f"../m3pot/weights/{card.name}" for card in sorted(WEIGHTS.glob("*.md"), reverse=True)]
        source[0] += "".join(f"\n```{{include}} {card}\n:heading-offset: 2\n```\n" for card in cards)


def _tidy(app, what, name, obj, options, signature, result):
    """Leave out what annotations of arrays say twice."""
    names = {"jaxlib._jax.Array": "Array", "<factory>": "{}"}
    return tuple(text and re.sub("|".join(names), lambda match: names[match[0]], text) for text in (signature, result))


def _skip(app, what, name, obj, skip, options):
    """Fields of named tuples have no docstring of their own."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", _add_cards)
    app.connect("autodoc-process-signature", _tidy)
    app.connect("autodoc-skip-member", _skip)
