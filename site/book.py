"""Build the book from the notebooks' stored outputs, without a network: python site/book.py [FOLDER]

Pages are gathered in build/book, Sphinx writes them to FOLDER (build/site unless another is named). It works from any
web server and, by opening index.html, from the folder itself. A warning of Sphinx is an error.
"""

import base64
import hashlib
import html
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import equations as eq
import tables
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).parent.parent
SITE = ROOT / "site"
WOVEN = ROOT / "build" / "book"
KATEX = Path(os.environ.get("KATEX", ROOT / ".venv" / "katex"))  # where the Makefile puts the package that ships it

EMBEDDED = re.compile(r'(<img [^>]*?)src="data:image/png;base64,([A-Za-z0-9+/=]+)"')
NUMBERED = re.compile(r"Figure (\d+\.\d+)\.")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
NAVIGATION = re.compile(r"^(?:← )?\[\d\d .*\]\(\d\d_\w+\.ipynb\).*$\n+", re.MULTILINE)
INSTEAD = {"README.md": "index.md", "files/results": "results.md"}  # the book's page for what a link in a text names
ALONE = re.compile(r"^(!\[[^\]]*\]\([^)]*\))$", re.MULTILINE)  # a picture that is a paragraph
CONDITION = re.compile(r"^%if (\S+)\n(.*?)^%end\n", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^%line (\S+) (.+)$", re.MULTILINE)
NOTEBOOKS = re.compile(r"^%notebooks$", re.MULTILINE)
PLACES = re.compile(r"^%places (\d+\.\d+)$", re.MULTILINE)
NAMED = {"12_rivals": "12 EWC's relatives"}  # a notebook whose title is not its file's name
INTO_THE_BOOK = re.compile(r'<span data-book="([^"]+)"(?: hidden)?>(.*?)</span>')  # alone, the laboratory has no links
LETTERS = ("", *"bcdefghijklmnopqrstuvwxyz")  # tell pictures of one number apart
WIDE = 2.45  # width over height from which a phone shows a figure larger than its window, to be moved sideways
FONTS_NEEDED = re.compile(r"KaTeX_(?:AMS|Caligraphic|Main|Math|Size\d|Typewriter)")


def main(arguments: list[str]) -> int:
    """Build the book into the folder that is named; return 0 if all went well."""
    from sphinx.cmd.build import main as sphinx

    out = Path(arguments[0] if arguments else ROOT / "build" / "site").resolve()
    gather(WOVEN)
    shutil.rmtree(ROOT / "build" / "doctrees", ignore_errors=True)
    if not arguments:
        shutil.rmtree(out, ignore_errors=True)
    jobs = min(os.cpu_count() or 1, 4)
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", str(jobs), "-d", str(ROOT / "build" / "doctrees")]
    failed = sphinx([*options, "-c", str(SITE), str(WOVEN), str(out)])
    if not failed:
        print(f"The book: {out / 'index.html'}")
    return failed


def gather(folder: Path) -> None:
    """Write every page of the book, and the files beside the pages, to `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    extra = folder / "_extra"
    frames = json.loads((SITE / "frames" / "frames.json").read_text(encoding="utf-8"))
    for name, notebook in eq.notebooks().items():
        raw = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
        _write(extra / "notebooks" / f"{name}.ipynb", raw)
        _write(folder / "notebooks" / f"{name}.ipynb", json.dumps(woven(name, notebook, frames, extra / "notebooks")))
    has_lab = (SITE / "lab" / "index.html").exists()
    for path in sorted((SITE / "pages").glob("*.md")):
        if path.stem == "laboratory" and not has_lab:
            continue
        _write(folder / path.name, _page(path.read_text(encoding="utf-8"), Path(path.name)))
    for path in sorted((ROOT / "docs").glob("*.md")):
        _write(folder / "docs" / path.name, _page(path.read_text(encoding="utf-8"), Path("docs") / path.name))
    data = "files/data/README.md"
    _write(folder / data, _page((ROOT / data).read_text(encoding="utf-8"), Path(data)))
    _write(folder / "results.md", tables.page(ROOT / "files" / "results"))
    _write(folder / "map.md", the_map())
    for path in eq.sources():
        short = path.relative_to(ROOT).as_posix()
        _write(folder / "code" / f"{eq.page(short)}.md", source_page(short, path.read_text(encoding="utf-8")))
    for path in sorted((ROOT / "contlearn").glob("[!_]*.py")):
        _write(folder / "api" / f"contlearn.{path.stem}.md", f"# `contlearn.{path.stem}`\n\n{_api(path.stem)}")
    shutil.copytree(SITE / "frames", extra / "notebooks" / "frames", ignore=shutil.ignore_patterns("*.json"))
    if has_lab:
        alone = (SITE / "lab" / "index.html").read_text(encoding="utf-8")
        _write(extra / "lab" / "index.html", INTO_THE_BOOK.sub(r'<a href="../\1">\2</a>', alone))
    _katex(folder / "_static" / "katex")
    for path in set(_linked(folder)):
        _bring(path, folder)


def _bring(path: str, folder: Path) -> None:
    """What a page links to and the book does not have yet: a file of the repository, or a folder's list of files."""
    here = ROOT / path
    if (folder / path).exists():
        return
    if here.is_file():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here, folder / path)
    elif here.name == "index.md" and here.parent.is_dir():
        files = [file for file in sorted(here.parent.iterdir()) if file.is_file() and not file.name.startswith(".")]
        links = [f'<li><a href="{file.name}" download>{file.name}</a></li>' for file in files]
        beside = folder / "_extra" / here.parent.relative_to(ROOT)
        beside.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, beside)
        _write(folder / path, f"---\norphan: true\n---\n# `{here.parent.name}`\n\n<ul>{''.join(links)}</ul>\n")


def woven(name: str, notebook: dict[str, Any], frames: dict[str, Any], beside: Path) -> dict[str, Any]:
    """A notebook as the book shows it: pictures as files in `beside`, frames for sliders, and no guards of bands."""
    from hooks import BEGINS, ENDS

    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "markdown":
            if not cells:
                source = _opening(name, NAVIGATION.sub("", source))
            source = _relink(source, Path("notebooks"))
            if "answer" in tags:
                source = f"% {BEGINS}\n\n{source}\n\n% {ENDS}"
            cells.append(cell | {"source": source})
            continue
        if "band" in tags and not cell["outputs"]:
            tags = ["remove-cell"]  # kept in its place, so that cells count as in the notebook
        elif set(tags) - {"answer"}:
            tags = ["hide-input", *set(tags) & {"answer"}]
        outputs = [_output(output, frames.get(cell["id"]), beside) for output in cell["outputs"]]
        if cell["id"] in frames:
            outputs = [output for output in outputs if "text/html" in output.get("data", {"text/html": ""})]
        cells.append(cell | {"metadata": {"tags": tags}, "outputs": outputs})
    return notebook | {"cells": cells}


def _opening(name: str, source: str) -> str:
    """The first cell, with the notebook to download below its title."""
    title, rest = source.split("\n", 1)
    links = f'<a href="{name}.ipynb" download>Download this notebook</a>'
    run = '<a href="../start.html">how to run it</a>'
    return f'{title}\n\n<p class="notebook-file">{links} · {run}</p>\n{rest}'


def _output(output: dict[str, Any], slider: dict[str, Any] | None, beside: Path) -> dict[str, Any]:
    """A figure's output with its picture in a file, and an address; anything else as it is."""
    markup = "".join(output.get("data", {}).get("text/html", ""))
    if not EMBEDDED.search(markup):
        return output
    number = NUMBERED.search("".join(output["data"]["text/plain"]))
    first = bool(number) and not (beside / "figures" / f"figure-{number[1]}.png").exists()
    shapes: list[float] = []

    def in_a_file(embedded: re.Match[str]) -> str:
        image = base64.b64decode(embedded[2])
        file = _picture(image, beside / "figures", number[1] if number else "")
        with Image.open(io.BytesIO(image)) as picture:
            width, height = picture.size
        shapes.append(width / height)
        shown = re.search(r'width="(\d+)"', embedded[1])
        high = round(int(shown[1]) * height / width) if shown else height
        return f'{embedded[1]}src="figures/{file}" height="{high}" loading="lazy" decoding="async"'

    markup = EMBEDDED.sub(in_a_file, markup)
    if shapes[0] > WIDE:
        markup = markup.replace("<figure", '<figure class="wide"', 1)
    if first:
        markup = markup.replace("<figure", f'<figure id="fig-{number[1].replace(".", "-")}"', 1)
    if slider:
        given = html.escape(json.dumps(slider, ensure_ascii=False), quote=True)
        markup = f'<div class="frames" data-slider="{given}">{markup}</div>'
    return output | {"data": {"text/html": markup, "text/plain": output["data"]["text/plain"]}}


def _picture(image: bytes, folder: Path, number: str) -> str:
    """The name of a new file that holds the picture: its figure's number, which several may share, or its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    name = number or hashlib.sha256(image).hexdigest()[:12]
    file = next(file for letter in LETTERS if not (file := folder / f"figure-{name}{letter}.png").exists())
    file.write_bytes(image)
    return file.name


def source_page(path: str, code: str) -> str:
    """A page that shows a file of code: each line has an address, and each equation it names is a link to it."""
    from hooks import link_comments

    shown = highlight(code, PythonLexer(), HtmlFormatter(nowrap=True)).splitlines()
    width = len(str(len(shown)))
    lines = [
        f'<span class="line" id="L{k}"><a class="linenos" href="#L{k}">{k:>{width}}</a>'
        f"{link_comments(line, '../')}\n</span>"
        for k, line in enumerate(shown, 1)
    ]
    reference = f"[What its functions take and return](../api/{eq.page(path)}.md). " if _has_reference(path) else ""
    told = f"{reference}Each line number is an address; each equation, such as `eq. (5.2)`, a link."
    block = f'<div class="highlight source"><pre>{"".join(lines)}</pre></div>'
    return f"# `{path}`\n\n{told}\n\n```{{raw}} html\n{block}\n```\n"


def _has_reference(path: str) -> bool:
    return path.startswith("contlearn/") and not Path(path).stem.startswith("_")


def the_map() -> str:
    """The page that leads from each equation to the cells and lines that compute it."""
    from hooks import places

    notebooks = eq.notebooks()
    parts = [(SITE / "pages" / "map.md.in").read_text(encoding="utf-8")]
    last = ""
    for equation in eq.read().values():
        if equation.notebook != last:
            last = equation.notebook
            title = "".join(notebooks[last]["cells"][0]["source"]).split("\n")[0].removeprefix("# ")
            parts.append(f"## {last[:2]} {title}\n")
        link = f'<a class="equation" href="{equation.url}">({equation.number})</a> {html.escape(equation.section)}'
        parts.append(f'<div class="mapped" id="map-{equation.anchor}"><p>{link}</p>\n\n$$\n{equation.tex}\n$$\n')
        parts.append(f'<p class="places">{places(equation, "")}</p></div>\n')
    return "\n".join(parts)


def _api(module: str) -> str:
    return f"""[The code, line by line](../code/contlearn.{module}.md)

```{{eval-rst}}
.. automodule:: contlearn.{module}
   :members:
```
"""


def _page(text: str, place: Path) -> str:
    """A page of ours: parts that need a file which is not there are left out, `%places 5.2` becomes links to code."""
    from hooks import places

    text = CONDITION.sub(lambda part: part[2] if (ROOT / part[1]).exists() else "", text)
    equations = eq.read()
    to_root = "../" * len(place.parent.parts)
    entries = "\n".join(f"{_short(name)} <notebooks/{name}>" for name in eq.notebooks())
    text = NOTEBOOKS.sub(entries, text)
    text = PLACES.sub(lambda found: f'<p class="places">{places(equations[found[1]], to_root)}</p>', text)
    text = LINE.sub(lambda found: _line(found[1], found[2], to_root), text)
    return _relink(ALONE.sub(r"\1{.wide}", text), place.parent)


def _line(path: str, wanted: str, to_root: str) -> str:
    """A line of the code with its address; ValueError if no line, or more than one, holds what is wanted."""
    code = (ROOT / path).read_text(encoding="utf-8")
    lines = [(number, line.strip()) for number, line in enumerate(code.splitlines(), 1) if wanted in line]
    if len(lines) != 1:
        raise ValueError(f"{path} has {len(lines)} lines with {wanted!r}: a page of the book shows one")
    number, line = lines[0]
    url = f"{to_root}code/{eq.page(path)}.html#L{number}"
    return f'```python\n{line}\n```\n\n<p class="places"><a href="{url}">{path}, line {number}</a></p>'


def _short(name: str) -> str:
    """`05 Elastic Weight Consolidation` for 05_elastic_weight_consolidation."""
    words = NAMED.get(name, name.replace("_", " "))
    short = words[:3] + words[3:].capitalize()
    for proper in ("EWC", "MNIST", "Elastic Weight Consolidation"):
        short = re.sub(rf"\b{proper}\b", proper, short, flags=re.IGNORECASE)
    return short


def _relink(text: str, folder: Path) -> str:
    """Links to files of code lead to the pages that show them, links to folders to lists."""

    def target(match: re.Match[str]) -> str:
        path = os.path.normpath(folder / match[1]).replace(os.sep, "/")
        if path in INSTEAD:
            new = INSTEAD[path]
        elif any((ROOT / path) == source for source in eq.sources()):
            new = f"code/{eq.page(path)}.md"
        elif (ROOT / path).is_dir():
            new = f"{path}/index.md"
        else:
            return match[0]
        return os.path.relpath(new, folder).replace(os.sep, "/") + match[2]

    return LINK.sub(target, text)


def _linked(folder: Path) -> Iterable[str]:
    """Files of the repository that the pages link to, from its root."""
    for page in folder.rglob("*"):
        if page.suffix in (".md", ".ipynb") and "_extra" not in page.parts:
            here = page.parent.relative_to(folder)
            for found in LINK.finditer(page.read_text(encoding="utf-8")):
                yield os.path.normpath(here / found[1])


def _katex(target: Path) -> None:
    """KaTeX from the package that ships it, its fonts inside the style sheet: a browser loads none from a folder."""
    found = sorted(KATEX.rglob("katex.min.js"))
    if not found:
        sys.exit(f"KaTeX is not in {KATEX}: run make site, which installs it, or set KATEX to a folder that holds it.")
    source = found[0].parent
    style = (source / "katex.min.css").read_text(encoding="utf-8")

    def embedded(face: re.Match[str]) -> str:
        file = re.search(r"fonts/([\w-]+\.woff2)", face[0])
        if not file or not FONTS_NEEDED.match(file[1]):
            return ""
        font = base64.b64encode((source / "fonts" / file[1]).read_bytes()).decode()
        return re.sub(r"src:[^;}]*", f"src:url(data:font/woff2;base64,{font}) format('woff2')", face[0])

    target.mkdir(parents=True, exist_ok=True)
    _write(target / "katex.css", re.sub(r"@font-face\{[^}]*\}", embedded, style))
    shutil.copy(source / "katex.min.js", target / "katex.min.js")
    for licence in list(source.glob("LICENSE*"))[:1]:
        shutil.copy(licence, target / "LICENSE.txt")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
