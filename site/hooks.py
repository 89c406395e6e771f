"""What the book does to pages beyond what Sphinx and MyST-NB do: equations, predictions, docstrings, links to lines."""

import inspect
import re
import sys
from html import escape
from importlib import import_module
from typing import Any

import equations as eq
from docutils import nodes
from sphinx.application import Sphinx

EQUATIONS = eq.read()
NOTEBOOKS = eq.notebooks()
PREDICT = "Predict:"
CHECKS = "Is everything in place?"
BEGINS, ENDS = "the answer begins", "the answer ends"  # comments that book.py puts around a text tagged `answer`
SIGNATURE = re.compile(r'<dl>\s*(<dd><(?:em|span) class="sig.*?)</dl>', re.DOTALL)  # over several lines: no list
PARAMETER = '<div class="parameter">'
EMPHASIS = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*]*[^\s*])\*(?![\w*])")  # *word*, as in plain text; not θ*, nor *args
LAMBDA = re.compile(r"<function [^>]*<lambda>>")
SECTION = re.compile(r"\s*(?:Args|Attributes|Raises|Returns|Yields):$")


def slug(title: str) -> str:
    """The anchor of a heading, as JupyterLab makes it, so that one link serves both."""
    return re.sub(r"\s+", "-", title.strip())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks."""
    app.add_html_math_renderer("katex", (_inline_math, None), (_display_math, None))
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _doctree)
    app.connect("html-page-context", _page, priority=900)  # after Furo's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline_math(self: Any, node: nodes.math) -> None:
    self.body.append(f'<span class="math notranslate">{escape(node.astext())}</span>')
    raise nodes.SkipNode


def _display_math(self: Any, node: nodes.math_block) -> None:
    identity = f' id="{node["ids"][0]}"' if node["ids"] else ""
    self.body.append(f'<div class="math display notranslate"{identity}>{escape(node.astext())}</div>\n')
    raise nodes.SkipNode


def _doctree(app: Sphinx, doctree: nodes.document) -> None:
    name = app.env.docname
    if name.startswith("notebooks/"):
        stem = name.removeprefix("notebooks/")
        _name_cells(doctree, stem)
        _anchor_equations(doctree, name)
        _fold_answers(doctree)
        _fold_checks(doctree)
    _link_equations(app, doctree, name)


def _name_cells(doctree: nodes.document, stem: str) -> None:
    """Give each code cell an address."""
    cells = NOTEBOOKS[stem]["cells"]
    for node in doctree.findall(nodes.container):
        if "cell_index" in node and node.get("nb_element") == "cell_code":
            node["ids"].insert(0, f"cell-{cells[node['cell_index']]['id']}")


def _anchor_equations(doctree: nodes.document, name: str) -> None:
    """Give each numbered equation an address, and a line below it that says where it is computed."""
    for node in list(doctree.findall(nodes.math_block)):
        if tag := eq.TAG.search(node.astext()):
            equation = EQUATIONS[tag[1]]
            node["ids"] = [equation.anchor]
            links = places(equation, "../", below=_next_cell(equation))
            html = f'<p class="places">{links} · <a href="../map.html#map-{equation.anchor}">map</a></p>'
            node.parent.insert(node.parent.index(node) + 1, nodes.raw("", html, format="html"))


def _next_cell(equation: eq.Equation) -> str:
    """The id of the first code cell below the equation that the book shows."""
    cells = iter(NOTEBOOKS[equation.notebook]["cells"])
    stated = next(cell for cell in cells if f"\\tag{{{equation.number}}}" in "".join(cell["source"]))
    assert stated["cell_type"] == "markdown"
    shown = (c["id"] for c in cells if c["cell_type"] == "code" and "band" not in c["metadata"].get("tags", []))
    return next(shown, "")


def places(equation: eq.Equation, to_root: str, below: str | None = None) -> str:
    """Links to the cells and lines that compute an equation, as HTML; `to_root` is the way to the book's root.

    `below` is the id of the cell that comes next, where the line stands in the notebook that states the equation.
    """
    cells = [(cell.url, cell.notebook, cell.id) for cell in equation.cells]
    links = []
    for url, notebook, cell in cells:
        here = below is not None and notebook == equation.notebook and not links
        words = ("the cell below" if cell == below else "a cell further down") if here else f"cell {cell}"
        links.append((url, words))
    links += [(line.url, f"{line.path.removeprefix('contlearn/')}, line {line.number}") for line in equation.lines]
    return "In code: " + " · ".join(f'<a href="{to_root}{url}">{escape(text)}</a>' for url, text in links)


def _fold_answers(doctree: nodes.document) -> None:
    """After a prediction is asked for, fold what tells the answer, and nothing else.

    That is what a notebook's tag `answer` says: the outputs of a code cell, or a text. What stands between stays open.
    """
    questions = [
        paragraph
        for paragraph in doctree.findall(nodes.paragraph)
        if any(isinstance(child, nodes.strong) and child.astext() == PREDICT for child in paragraph.children)
    ]
    for paragraph in questions:
        paragraph["classes"].append("predict")
        parent = paragraph.parent
        start = parent.index(paragraph) + 1
        end = next((k for k in range(start, len(parent)) if _ends(parent[k])), len(parent))
        parent[start:end] = _folded(parent[start:end])
    for comment in list(doctree.findall(nodes.comment)):
        comment.parent.remove(comment)


def _ends(node: nodes.Node) -> bool:
    """Whether what answers a prediction ends before this node: a section, or the next prediction."""
    return isinstance(node, nodes.section) or (isinstance(node, nodes.paragraph) and PREDICT in node.astext())


def _folded(children: list[nodes.Node]) -> list[nodes.Node]:
    """The same nodes with each run of answers in a fold; the code of a run's first cell stands above it."""
    new: list[nodes.Node] = []
    fold: list[nodes.Node] = []
    silent: list[nodes.Node] = []  # code that shows nothing: it goes where what comes after it goes
    summaries = iter(("Show the answer",))
    telling = False  # between the two comments around a text that answers

    def close() -> None:
        if fold:
            opening = f'<details class="answer"><summary>{next(summaries, "Show the result")}</summary>'
            new.extend([nodes.raw("", opening, format="html"), *fold, nodes.raw("", "</details>", format="html")])
            fold.clear()
        new.extend(silent)
        silent.clear()

    for node in children:
        if isinstance(node, nodes.comment):
            telling = node.astext() == BEGINS
        elif _is_code(node) and "tag_answer" in node["classes"] and not fold:
            new.append(node)
            fold += _outputs(node)
            for output in fold:
                node.remove(output)
        elif telling or (_is_code(node) and "tag_answer" in node["classes"]):
            fold += [*silent, node]
            silent.clear()
        elif fold and _is_code(node) and not _outputs(node):
            silent.append(node)
        else:
            close()
            new.append(node)
    close()
    return new


def _fold_checks(doctree: nodes.document) -> None:
    """What looks at an installation is for those who run the notebook."""
    for section in doctree.findall(nodes.section):
        if section.children and section[0].astext() == CHECKS:
            opening = '<details class="checks"><summary>If you run it yourself</summary>'
            section.insert(1, nodes.raw("", opening, format="html"))
            section.append(nodes.raw("", "</details>", format="html"))


def _outputs(node: nodes.Element) -> list[nodes.Node]:
    return [child for child in node.children if "cell_output" in child.get("classes", [])]


def _is_code(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def _link_equations(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Make (4.3) in a text a link to the equation."""
    inside = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference, nodes.title, nodes.raw)
    for text in list(doctree.findall(nodes.Text)):
        parent: Any = text.parent
        above = parent
        while above is not None and not isinstance(above, inside):
            above = above.parent
        pieces = re.split(eq.NUMBER, str(text))
        if above is not None or len(pieces) == 1:
            continue
        new: list[nodes.Node] = []
        for k, piece in enumerate(pieces):
            if k % 2 == 0:
                new += [nodes.Text(piece)] if piece else []
            elif piece in EQUATIONS:
                equation = EQUATIONS[piece]
                url = app.builder.get_relative_uri(name, f"notebooks/{equation.notebook}") + f"#{equation.anchor}"
                new.append(nodes.reference("", f"({piece})", refuri=url, internal=True, classes=["equation"]))
            else:
                new.append(nodes.Text(f"({piece})"))
        parent.replace(text, new)


def link_comments(html: str, to_root: str) -> str:
    """Make `eq. (4.3)` in highlighted code a link to the equation."""

    def linked(match: re.Match[str]) -> str:
        return eq.ONE.sub(
            lambda one: (
                f'<a class="equation" href="{to_root}{EQUATIONS[one[1]].url}">({one[1]})</a>'
                if one[1] in EQUATIONS
                else one[0]
            ),
            match[0],
        )

    return eq.CITATION.sub(linked, html)


def _page(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    to_root = "../" * name.count("/")
    if doctree is not None:
        context["body"] = re.sub(
            r'(?<=<div class="highlight"><pre>).*?(?=</pre>)',
            lambda code: re.sub(r'<span class="(?:c1|sd)">.*?</span>', lambda c: link_comments(c[0], to_root), code[0]),
            context["body"],
            flags=re.DOTALL,
        )
        context["body"] = SIGNATURE.sub(
            lambda found: "<div>" + found[1].replace("<dd>", PARAMETER).replace("</dd>", "</div>") + "</div>",
            context["body"],
        )
        if 'class="math' in context["body"]:
            app.add_css_file("katex/katex.css")
            app.add_js_file("katex/katex.min.js", defer="defer", priority=400)
    tree = context.get("furo_navigation_tree", "")  # its captions say that they are headings, but not of which level
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def _skip(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a named tuple are told in its docstring."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def _signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A default that is a function has no text that could be read as Python, without which Sphinx breaks no lines."""
    return (LAMBDA.sub("...", signature) if signature else signature), returns


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text with `code` in single backticks: say so in reStructuredText, in place."""
    lines[:] = restructured(lines)


def restructured(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText: what looks like markup is text, an indented block is literal."""
    new: list[str] = []
    literal: int | None = None  # the indentation of the line before a literal block
    for k, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        before = next((each for each in reversed(new) if each.strip()), "")
        deeper = indent >= len(before) - len(before.lstrip()) + 4
        if literal is None and deeper and k and not lines[k - 1].strip() and not SECTION.match(before):
            place = max(j for j, each in enumerate(new) if each.strip())
            literal = len(before) - len(before.lstrip())
            new[place] = before.removesuffix("::").removesuffix(":") + "::"
        if literal is None and not line.lstrip().startswith(">>>"):
            pieces = re.split(r"(`+[^`]+`+)", line)
            pieces[::2] = [_escaped(piece) for piece in pieces[::2]]
            pieces[1::2] = [f"``{piece.strip('`')}``" for piece in pieces[1::2]]
            line = "".join(pieces)
        new.append(line)
    return new


def _escaped(text: str) -> str:
    """Text without code: nothing in it is markup but *emphasis*."""
    pieces = [re.sub(r"([*|_\\])", r"\\\1", piece) for piece in EMPHASIS.split(text)]
    pieces[1::2] = [f"*{emphasised}*" for emphasised in pieces[1::2]]
    return "".join(pieces)


def line_of(domain: str, info: dict[str, str]) -> str | None:
    """Where an object of the API reference is defined: the address of its line in the book."""
    if domain != "py" or not info["module"]:
        return None
    module = import_module(info["module"])
    found: Any = module
    for part in info["fullname"].split("."):
        found = getattr(found, part, None)
    found = found.fget if isinstance(found, property) else inspect.unwrap(found) if callable(found) else None
    if found is None or not str(getattr(found, "__module__", "")).startswith("contlearn"):
        return None
    try:
        line = inspect.getsourcelines(found)[1]
    except (OSError, TypeError):
        return None
    source = sys.modules[found.__module__].__name__
    return f"../code/{source}.html#L{line}"
