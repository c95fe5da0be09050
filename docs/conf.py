"""The documentation site: `pip install -e '.[docs]' && sphinx-build -W docs docs/_build`.

Notebooks are shown with the outputs they are stored with; nothing is computed. What lies elsewhere
in the project (notebooks, model cards, examples) is brought to docs/_generated first.
"""

import ast
import dataclasses
import inspect
import json
import re
import shutil
import sys
import typing
from pathlib import Path

from flax import nnx
from sphinx.util.inspect import stringify_signature

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

import docstrings  # noqa: E402 - beside this file

import sa_flax  # noqa: E402
import sa_flax.config  # noqa: E402
from benchmarks.quality import table  # noqa: E402

project = "sa_flax"
author = "The sa_flax developers"
copyright = author
version = release = sa_flax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "jupyter_execute"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
autodoc_typehints_format = "short"
autodoc_member_order = "groupwise"
autodoc_default_options = {"members": True, "special-members": "__call__"}
python_maximum_signature_line_length = 80
html_theme = "sphinx_book_theme"
html_title = "sa_flax"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
html_show_sourcelink = False


def _bring(generated: Path) -> None:
    """Notebooks, cards and examples, as pages."""
    shutil.rmtree(generated, ignore_errors=True)
    generated.mkdir()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, generated / notebook.name)
    results = ROOT / "benchmarks" / "results"
    for plot in (results / "where_to_attend" / "where_to_attend.png", results / "quality.png"):
        shutil.copy(plot, generated / plot.name)
    quality = json.loads((results / "quality.json").read_text())
    (generated / "quality.md").write_text(table(quality) + "\n")
    shutil.copy(ROOT / "CHANGELOG.md", generated / "changelog.md")
    weights = ROOT / "sa_flax" / "models" / "weights"
    for name in sa_flax.list_pretrained():
        # Cards link to files beside them, which are no pages here.
        card = re.sub(
            r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"`\1`", (weights / name / "README.md").read_text()
        )
        (generated / f"card-{name}.md").write_text(card)
    examples = [
        "# Examples",
        "",
        "Scripts in the folder `examples`, each to be run as it stands.",
        "",
    ]
    for script in sorted((ROOT / "examples").glob("*.py")):
        said = (ast.get_docstring(ast.parse(script.read_text())) or script.stem).split("\n")[0]
        examples += [f"## {script.name}", "", said, ""]
        examples += [
            f"```{{literalinclude}} ../../examples/{script.name}",
            ":language: python",
            "```",
            "",
        ]
    (generated / "examples.md").write_text("\n".join(examples))


def _as_rst(app, what, name, obj, options, lines) -> None:
    # What Python says of a method without a docstring.
    lines[:] = [] if lines[:1] == ["Call self as a function."] else docstrings.to_rst(lines)


def _own_signature(app, what, name, obj, options, signature, returned):
    """Of a layer its own, where flax's metaclass shows (*args, **kwargs); and short types."""
    if what == "class" and inspect.isclass(obj) and issubclass(obj, nnx.Module):
        own = inspect.signature(obj.__init__)
        parameters = [p for p in own.parameters.values() if p.name != "self"]
        own = own.replace(parameters=parameters, return_annotation=own.empty)
        signature = stringify_signature(own, unqualified_typehints=True)
    return tuple(text and _with_short_types(text) for text in (signature, returned))


def _with_short_types(text: str) -> str:
    text = text.replace("jaxlib._jax.Array", "Array").replace("jax.Array", "Array")
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    dtype = r"Union\[str, type\[Any\], dtype, SupportsDType(, NoneType)?\]"
    return re.sub(dtype, lambda found: "Dtype | None" if found[1] else "Dtype", text)


def _without_limits(module) -> None:
    """Takes the limits of options out of the types of a module's fields, to be read."""
    for cls in vars(module).values():
        if inspect.isclass(cls) and dataclasses.is_dataclass(cls):
            for names in (cls.__annotations__, cls.__init__.__annotations__):
                for field, hint in names.items():
                    if typing.get_origin(hint) is typing.Annotated:
                        names[field] = typing.get_args(hint)[0]


def _is_left_out(app, what, name, obj, skip, options):
    """Fields of named tuples, "Alias for field number 0", and inner constants."""
    inner = name in ("kind", "params_class") or type(obj).__name__ == "_tuplegetter"
    return True if inner else None


def setup(app) -> None:
    _bring(DOCS / "_generated")
    for module in (sa_flax.noise, sa_flax.config):
        _without_limits(module)
    app.connect("autodoc-process-docstring", _as_rst)
    app.connect("autodoc-process-signature", _own_signature)
    app.connect("autodoc-skip-member", _is_left_out)
