"""Make the slides of the lecture: python docs/slides.py [FILE], by default slides.html in the repository's folder.

One HTML file that needs no network: the figures are those stored in the notebooks, found by their numbers, with their
alternative texts; formulas are set by Matplotlib. Arrow keys, clicks and swipes turn the pages, N shows the notes,
printing gives a PDF with a page a slide. With --pdf FILE and Chromium, that is done here.
"""

import argparse
import html
import io
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nbformat
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent

matplotlib.use("agg")


@dataclass(frozen=True)
class Slide:
    """One page: `figure` is a number such as "5.2", `formula` LaTeX that Matplotlib can set, `notes` are for you."""

    title: str
    text: str = ""
    figure: str = ""
    formula: str = ""
    notes: str = ""


PENALTY = r"$L(\theta) = L_B(\theta) + \sum_i \frac{1}{2}\,\lambda\, F_i\, (\theta_i - \theta^*_{A,i})^2$"

SLIDES = [
    Slide(
        "Elastic Weight Consolidation",
        "Why a network forgets, which number says what it needs, and one line that keeps it.",
        formula=PENALTY,
        notes="90 minutes, with the plan in docs/teaching.md. Numbers in brackets are notebooks.",
    ),
    Slide(
        "Two tasks, two weights",
        "Is this point a *yes*? Two tasks ask it, each with its own clouds.",
        "0.1",
        notes="[00] The model: p(yes) = σ(θ·x − 4). Everything can be drawn.",
    ),
    Slide(
        "Where is each task solved?",
        "**Predict:** you stand at the star and walk down B's loss. Where do you end?",
        "0.3",
        notes="Let them say it aloud: in the crossing, on B's strip far away, elsewhere?",
    ),
    Slide(
        "Forgetting",
        "The walk looks at B alone.",
        "0.4",
        notes="A place that solves both exists. Nothing in B's loss mentions it.",
    ),
    Slide(
        "A real network",
        "MNIST, then Fashion-MNIST: **predict** what is left of the digits after three epochs.",
        notes="[03] 784 → 256 → 256 → 256 → 10, one output layer for both sets.",
    ),
    Slide("97 % become about 40", "", "3.1", notes="Most of it in the first epoch."),
    Slide(
        "It begins at once",
        "**Predict:** how many steps until a quarter is lost?",
        "3.2",
        notes="One. The lowest points come within three; then some of it returns, then it sinks slowly.",
    ),
    Slide("What does it say about digits now?", "", "3.3", notes="Habits: unit 5, sandal, collects a third."),
    Slide(
        "Neither slower nor shorter training helps",
        "The empty corner is not out of reach: both tasks at once get there.",
        "3.7",
        notes="So the network is not too small. It lacks a reason to stay where the digits are good.",
    ),
    Slide(
        "Which weights matter?",
        "Nudge one weight and watch log p of an answer.",
        "4.2",
        notes="[04] The score is the slope of log p. Its sign says nothing about importance; its square does.",
    ),
    Slide(
        "Fisher information",
        "The mean over images and over the model's *own* labels of the squared score.",
        formula=r"$F_i = E_x\, \sum_c\, p_c(x)\, \left(\frac{\partial \log p_c(x)}{\partial \theta_i}\right)^2$",
        notes="Ask: which label? The true one, the likeliest, a drawn one, all? Four names for four numbers.",
    ),
    Slide(
        "The matrix and its diagonal",
        "All of it would take 449 GB. The diagonal takes 1 MB, and leaves a lot out.",
        "4.3",
    ),
    Slide(
        "F as a picture",
        "**Predict:** for which pixels is F exactly zero?",
        "4.5",
        notes="Those that no digit inks. Their weights are free.",
    ),
    Slide(
        "The commonest bug",
        "The square of the mean is not the mean of the squares: here about 55 times too small.",
        formula=r"$\left(\frac{1}{N}\sum_n s_n\right)^2 \neq \frac{1}{N}\sum_n s_n^2$",
        notes="Scores of opposite sign cancel. Exercise 4.3; it is found in public code again and again.",
    ),
    Slide(
        "From a parabola to a penalty",
        "Near its minimum A's loss is a parabola, F its curvature: a spring for each weight.",
        formula=PENALTY,
        notes="[05] At θ* value and slope are zero: the first step is the same with and without it.",
    ),
    Slide(
        "Recovery",
        "**Predict:** how much of MNIST is left, and what does Fashion-MNIST pay?",
        "5.2",
        notes="λ = 300. Same learning rates, same number of steps.",
    ),
    Slide(
        "Is it F that does it?",
        "L2 pulls all weights back equally hard, with the same mean strength.",
        "5.4",
        notes="The control. What F adds is knowing which weights. Joint training is the bound, with equal steps.",
    ),
    Slide(
        "λ too large",
        "Plain descent needs ηλ max F < 2. The proximal step has no bound.",
        "5.7",
        formula=r"$\theta \leftarrow \frac{\theta + \eta\lambda F\,\theta^*}{1 + \eta\lambda F}$",
    ),
    Slide(
        "Why λ is not 1",
        "Bayes' rule says 1. Here it is some hundreds.",
        "5.6",
        notes="Along EWC's own way the loss rises hundreds of times as much as the diagonal's parabola says.",
    ),
    Slide(
        "What the diagonal leaves out",
        "Two pixels that are inked together.",
        "7.1",
        notes="[07] Too soft for one move, too stiff for the other. Kronecker factors put part of it back.",
    ),
    Slide(
        "Two small matrices a layer", "", "7.6", notes="They close about half of the gap. What closes the rest is open."
    ),
    Slide(
        "Where EWC fails",
        "Classes that come one after the other and must be told apart.",
        "8.1",
        notes="[08] No λ up to 10⁶ helps. Nobody ever asked the network to compare old with new.",
    ),
    Slide("The whole way on one page", "", "5.9"),
    Slide(
        "Take home",
        "Forgetting is a movement of weights that mattered. F says which; a spring holds each. "
        "λ belongs to a code, a scale and an estimator: do not copy it. And ask for the control.",
    ),
]

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --paper: #fff; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 26px/1.4 system-ui, sans-serif; }
section { height: 100vh; overflow: auto; padding: 3vh 5vw; display: none; flex-direction: column; gap: 2vh; }
section.now { display: flex; }
h1, h2 { margin: 0; line-height: 1.15; font-weight: 600; }
h1 { font-size: 2.2em; } h2 { font-size: 1.6em; }
p { margin: 0; max-width: 46em; }
figure { margin: 0; flex: 1; min-height: 8em; display: flex; flex-direction: column; align-items: center; }
figure img { flex: 1; min-height: 0; max-width: 100%; object-fit: contain; }
figcaption { font-size: 0.6em; color: #555; }
.formula svg { height: 3em; width: auto; max-width: 88vw; }
section:not(:has(figure)) { justify-content: center; gap: 5vh; }
section:not(:has(figure)) .formula svg { height: 4.6em; }
aside { display: none; font-size: 0.7em; border-left: 4px solid var(--accent); padding-left: 1em; }
.notes aside { display: block; }
footer { position: fixed; right: 1em; bottom: 0.6em; font-size: 0.55em; color: #555; }
@media print {
  @page { size: 13.333in 7.5in; margin: 0; }
  section { display: flex !important; height: 7.5in; overflow: hidden; break-after: page; }
  footer { display: none; }
}
"""

SCRIPT = """
const pages = [...document.querySelectorAll("section")], place = document.querySelector("footer");
let now = Math.min(Math.max(parseInt(location.hash.slice(1) || "1") - 1, 0), pages.length - 1);
function go(to) {
  now = Math.min(Math.max(to, 0), pages.length - 1);
  pages.forEach((page, k) => page.classList.toggle("now", k === now));
  place.textContent = `${now + 1} / ${pages.length}`;
  history.replaceState(null, "", `#${now + 1}`);
}
addEventListener("keydown", (event) => {
  if (["ArrowRight", "ArrowDown", "PageDown", " "].includes(event.key)) go(now + 1);
  else if (["ArrowLeft", "ArrowUp", "PageUp"].includes(event.key)) go(now - 1);
  else if (event.key === "Home") go(0);
  else if (event.key === "End") go(pages.length - 1);
  else if (event.key.toLowerCase() === "n") document.body.classList.toggle("notes");
});
addEventListener("click", (event) => go(now + (event.clientX < innerWidth / 3 ? -1 : 1)));
let start = 0;
addEventListener("touchstart", (event) => { start = event.touches[0].clientX; });
addEventListener("touchend", (event) => {
  const moved = event.changedTouches[0].clientX - start;
  if (Math.abs(moved) > 40) go(now + (moved < 0 ? 1 : -1));
});
go(now);
"""


def figures() -> dict[str, tuple[str, str]]:
    """Every numbered figure that the notebooks store: its PNG in base64 and its alternative text."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                words = output.get("data", {}).get("text/plain", "")
                if "image/png" in output.get("data", {}) and (number := re.match(r"Figure (\d+\.\d+)\. ", words)):
                    found[number[1]] = (output.data["image/png"].strip(), words[number.end() :])
    return found


def formula(latex: str) -> str:
    """A formula as an SVG of its own, with its source as the text for those who do not see it."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "contlearn", "mathtext.fontset": "cm"}):
        figure = Figure()
        figure.text(0, 0, latex, fontsize=24)
        figure.savefig(file, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue()[file.getvalue().index("<svg") :], flags=re.DOTALL)
    name = html.escape(latex.strip("$"), quote=True)
    opened = f'<svg role="img" aria-label="{name}"'
    return f'<p class="formula">{svg.replace("<svg", opened, 1)}</p>'


def marked(text: str) -> str:
    """**bold** and *italics*, the rest escaped."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)


def page(slide: Slide, first: bool, stored: dict[str, tuple[str, str]]) -> str:
    """One slide; KeyError names a figure that no notebook stores."""
    level = "h1" if first else "h2"
    parts = [f"<{level}>{marked(slide.title)}</{level}>"]
    if slide.text:
        parts.append(f"<p>{marked(slide.text)}</p>")
    if slide.formula:
        parts.append(formula(slide.formula))
    if slide.figure:
        png, alt = stored[slide.figure]
        image = f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{png}">'
        parts.append(f"<figure>{image}<figcaption>Figure {slide.figure}</figcaption></figure>")
    if slide.notes:
        parts.append(f"<aside>{marked(slide.notes)}</aside>")
    return f"<section>{''.join(parts)}</section>"


def deck() -> str:
    """The whole file."""
    stored = figures()
    pages = "\n".join(page(slide, k == 0, stored) for k, slide in enumerate(SLIDES))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>Elastic Weight Consolidation</title>'
        f"<style>{STYLE}</style></head>\n<body><main>\n{pages}\n</main><footer></footer><script>{SCRIPT}</script></body></html>\n"
    )


def print_pdf(text: str, target: Path) -> None:
    """Let Chromium print the slides; FileNotFoundError where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        raise FileNotFoundError("no Chromium found: open the HTML file and print it from your browser")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "slides.html"
        source.write_text(text, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        output = f"--print-to-pdf={target.resolve()}"
        command = [
            browser,
            *flags,
            f"--user-data-dir={folder}/profile",
            "--no-pdf-header-footer",
            output,
            source.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


def main(arguments: list[str] | None = None) -> None:
    """Write the slides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "slides.html")
    parser.add_argument("--pdf", type=Path, help="also print a PDF, by Chromium")
    options = parser.parse_args(arguments)
    text = deck()
    options.file.write_text(text, encoding="utf-8")
    print(f"{len(SLIDES)} slides in {options.file}, {len(text) / 1e6:.1f} MB")
    if options.pdf:
        print_pdf(text, options.pdf)
        print(f"printed to {options.pdf}")


if __name__ == "__main__":
    main()
