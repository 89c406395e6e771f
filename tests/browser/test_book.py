"""The book, every page of it, as a reader's browser shows it."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
WIDTHS = (360, 768, 1280)
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

# Letters inside a formula have the colour of the text around it, and words of one kind in code look alike: axe-core,
# which would take minutes for all of them, is shown one of each kind.
THIN_OUT = """() => {
    document.querySelectorAll('.katex-html').forEach(drawn => drawn.replaceChildren(drawn.textContent));
    const seen = new Set();
    for (const word of document.querySelectorAll('.highlight pre span')) {
        const kind = [word.className, word.closest('.highlight').className, word.closest('a')?.className].join();
        if (seen.has(kind) && !word.id) word.replaceWith(...word.childNodes);
        seen.add(kind);
    }
}"""


class Anchors(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.update(filter(None, (given.get("id"), given.get("name"))))
        self.links += filter(None, (given.get("href"), given.get("src")))


@pytest.fixture(scope="session")
def pages(folder: Path) -> list[str]:
    """All pages, from the book's root; the laboratory has tests of its own."""
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html"))]
    return [path for path in found if not path.startswith(("_static/", "lab/"))]


def test_every_link_leads_somewhere(folder: Path, pages: list[str]) -> None:
    parsed = {path: Anchors((folder / path).read_text(encoding="utf-8")) for path in pages}
    dead = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (folder / path).parent / unquote(parts.path) if parts.path else folder / path
            name = target.resolve().relative_to(folder.resolve()).as_posix()
            made = parts.fragment in ("", "furo-main-content") or name not in parsed
            if not target.is_file() or not (made or unquote(parts.fragment) in parsed[name].ids):
                dead.append(f"{path}: {link}")
    assert not dead, dead


def test_pages_load_fit_and_are_accessible(browser: Any, address: str, pages: list[str], complaints: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    axe, found = Axe(), []
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        page = context.new_page()
        complaints.watch(page)
        for path in pages:
            page.goto(address + path)
            page.wait_for_load_state("networkidle") if path == "search.html" else None
            if scheme == "light":
                found += [f"{path}: {told}" for told in _unrendered(page) + _overflowing(page)]
            page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
            page.evaluate(THIN_OUT)
            # What an element is called and where it stands is the same in the dark; colours are not.
            only = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
            violations = axe.run(page, options=only | {"resultTypes": ["violations"]}).response["violations"]
            for violation in violations:
                if violation["impact"] in ("serious", "critical"):
                    nodes = [node["html"][:120] for node in violation["nodes"][:2]]
                    found.append(f"{path}, {scheme}: {violation['id']}, {len(violation['nodes'])} times: {nodes}")
        context.close()
    assert not found, "\n".join(found)
    assert not complaints, "\n".join(complaints)


def _unrendered(page: Any) -> list[str]:
    """Equations that are not typeset, images without alternative text or without picture."""
    told: list[str] = page.evaluate(
        """() => [
            ...[...document.querySelectorAll('.math')]
                .filter(place => !place.querySelector('.katex') || place.querySelector('.katex-error'))
                .map(place => 'not typeset: ' + place.textContent.slice(0, 80)),
            ...[...document.images]
                .filter(image => !image.alt.trim())
                .map(image => 'no alternative text: ' + image.src),
        ]"""
    )
    return told


def _overflowing(page: Any) -> list[str]:
    told = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
            told.append(f"{wide} pixels wide in a window of {width}")
    page.set_viewport_size({"width": 1280, "height": 900})
    return told


def test_equations_are_linked_both_ways(page: Any, address: str, complaints: Any) -> None:
    page.goto(f"{address}notebooks/05_elastic_weight_consolidation.html")
    assert page.locator("#eq-5-2 .katex").count() >= 1
    page.locator("#eq-5-2 + p.places a", has_text="ewc.py").first.click()
    page.wait_for_url("**/code/contlearn.ewc.html#L*")
    line = page.evaluate("document.getElementById(location.hash.slice(1)).textContent")
    assert "eq. (5.2)" in line
    page.evaluate("document.getElementById(location.hash.slice(1)).querySelector('a.equation').click()")
    page.wait_for_url("**/notebooks/05_elastic_weight_consolidation.html#eq-5-2")
    page.locator("#eq-5-2 + p.places a", has_text="map").click()
    page.wait_for_url("**/map.html#map-eq-5-2")
    assert page.locator("#map-eq-5-2 a.equation").inner_text() == "(5.2)"
    assert not complaints


@pytest.mark.parametrize("where", ["served", "folder"])
def test_search_finds_fisher(page: Any, address: str, folder: Path, complaints: Any, where: str) -> None:
    page.goto(f"{address}index.html" if where == "served" else (folder / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("Fisher")
    page.keyboard.press("Enter")
    page.wait_for_selector("ul.search li a")
    page.wait_for_function("document.querySelector('#search-results h2').textContent === 'Search Results'")
    hits = page.locator("ul.search li a").all_inner_texts()
    assert any("Fisher information" in hit for hit in hits), hits
    if where == "served":  # from a folder a browser fetches no page to quote from
        page.wait_for_load_state("networkidle")
        quoted = " ".join(page.locator("ul.search p.context").all_inner_texts())
        assert "Fisher" in quoted
        assert not re.search(r"\\(begin|frac|sum|theta)", quoted), quoted
    assert not complaints


QUESTIONS = {
    "answers.html": (
        "F_i",
        "what is F_i",
        "Fi",
        "1/2",
        "0.5",
        "½",
        "factor 1/2",
        "half",
        "factor",
        "which label",
        "lambda",
    ),
    "start.html": ("training loop", "own training loop", "my own training loop", "custom loop", "install"),
}


@pytest.mark.parametrize(("target", "query"), [(page, query) for page, asked in QUESTIONS.items() for query in asked])
def test_search_knows_what_people_type(page: Any, folder: Path, target: str, query: str) -> None:
    page.goto(f"{(folder / 'search.html').as_uri()}?{urlencode({'q': query})}")
    page.wait_for_function("document.querySelector('#search-results h2')?.textContent === 'Search Results'")
    first = page.locator("ul.search li a").evaluate_all("links => links.slice(0, 3).map(link => link.href)")
    assert any(f"/{target}" in link for link in first), first


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_fold_holds_what_answers_and_nothing_else(page: Any, folder: Path, name: str) -> None:
    page.goto((folder / "notebooks" / f"{name}.html").as_uri())
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = [cell for cell in cells if cell["cell_type"] == "code" and cell["outputs"]]
    answers = {cell["id"] for cell in shown if "answer" in cell["metadata"].get("tags", [])}
    outside = page.evaluate(
        "ids => ids.filter(id => [...document.querySelectorAll(`#${CSS.escape(id)} .cell_output`)]"
        ".some(output => !output.closest('details.answer')))",
        [f"cell-{cell['id']}" for cell in shown],
    )
    assert set(outside) == {f"cell-{cell['id']}" for cell in shown} - {f"cell-{each}" for each in answers}
    folds = page.locator("details.answer")
    asked = sum("**Predict:**" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert page.locator("p.predict").count() == asked <= folds.count()
    assert not page.locator("details.answer [id^=eq-], details.answer p.predict").count()
    for fold in folds.all():
        assert fold.locator(".cell_output").count(), fold.inner_html()[:300]
    texts = page.evaluate("[...document.querySelectorAll('article')].map(place => place.textContent).join()")
    assert "the answer begins" not in texts


def test_the_laboratory_of_the_book_leads_back_into_it(page: Any, folder: Path, complaints: Any) -> None:
    page.goto((folder / "lab" / "index.html").as_uri())
    links = page.locator("a[href^='../']").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert len(links) == 6
    assert [link for link in links if not (folder / "lab" / link).resolve().is_file()] == []
    page.get_by_role("link", name="The book").click()
    page.wait_for_url("**/index.html")
    assert "contlearn" in page.inner_text("article")
    page.goto((ROOT / "site" / "lab" / "index.html").as_uri())  # alone: nothing to lead to
    assert not page.locator("a[href^='../']").count()
    assert not page.get_by_text("The book").is_visible()
    assert not complaints


def test_the_reference_says_what_the_docstrings_mean(folder: Path) -> None:
    text = (folder / "api" / "contlearn.wild.html").read_text(encoding="utf-8")
    assert "<em>Which labels</em>" in text  # *Which labels* in the docstring
    assert "(θ − θ*)²" in text
    assert "lambda&gt;" not in text  # a default that is a function


def test_punctuation_stays_with_its_formula(page: Any, address: str) -> None:
    page.goto(f"{address}notebooks/00_start_here.html")
    apart = page.evaluate(
        """() => [...document.querySelectorAll('span.math')]
            .filter(place => /^[.,;:)]/.test(place.nextSibling?.data) || /[(]$/.test(place.previousSibling?.data))
            .map(place => place.parentElement.textContent.slice(0, 80))"""
    )
    assert not apart, apart
    joined = page.locator("span.unbroken").all_text_contents()  # folded ones, too
    assert len(joined) > 10
    assert all(len(each) > 1 for each in joined)


def test_equations_and_fonts_work_from_a_folder(page: Any, folder: Path, complaints: Any) -> None:
    page.goto((folder / "notebooks" / "04_fisher_information.html").as_uri())
    assert not _unrendered(page)
    page.evaluate("document.fonts.ready")
    assert page.evaluate("[...document.fonts].some(font => font.family === 'KaTeX_Math' && font.status === 'loaded')")
    assert not complaints


def _sliders() -> Iterator[tuple[str, str]]:
    frames = json.loads((ROOT / "site" / "frames" / "frames.json").read_text(encoding="utf-8"))
    for cell in frames:
        yield next(name for name in NOTEBOOKS if name.startswith(cell[:2])), cell


@pytest.mark.parametrize(("notebook", "cell"), list(_sliders()))
def test_sliders_turn_the_frames(page: Any, address: str, complaints: Any, notebook: str, cell: str) -> None:
    page.goto(f"{address}notebooks/{notebook}.html")
    slider = page.locator(f"#cell-{cell} input[type=range], .frames input[type=range]").first
    picture = page.locator(".frames img")
    before = picture.get_attribute("alt")
    slider.focus()
    page.keyboard.press("Home")
    first = slider.get_attribute("aria-valuetext")
    page.wait_for_function("document.querySelector('.frames img').complete")
    assert picture.get_attribute("src").startswith("frames/")
    assert picture.evaluate("image => image.naturalWidth") > 100
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != first
    assert picture.get_attribute("alt").endswith(f"Shown: {slider.get_attribute('aria-valuetext')}.")
    assert picture.get_attribute("alt") != before
    assert not complaints


def test_answers_wait_for_a_prediction(page: Any, address: str) -> None:
    page.goto(f"{address}notebooks/03_catastrophic_forgetting.html")
    answer = page.locator("details.answer").first
    told = answer.locator("p, pre").last
    assert not told.is_visible()
    prediction = page.get_by_label(re.compile("Your prediction")).first
    prediction.fill("50 %")
    answer.locator("> summary").click()
    assert told.is_visible()
    page.reload()
    assert page.get_by_label(re.compile("Your prediction")).first.input_value() == "50 %"


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_each_notebook_can_be_downloaded(page: Any, address: str, notebook: str) -> None:
    page.goto(f"{address}notebooks/{notebook}.html")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download this notebook").click()
    original = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    assert json.loads(download.value.path().read_text(encoding="utf-8")) == original
