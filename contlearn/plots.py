"""The figures that the notebooks share, and the one way to show them.

Each function returns a plain matplotlib `Figure` and draws nothing on the screen; `show` displays it together with the
sentence that a reader who cannot see it needs. In a notebook::

    plt.style.use(plots.STYLE)                    # once, for figures drawn by hand
    figure = plots.learning_curves([("MNIST", first), ("Fashion-MNIST", second)])
    plots.show(figure, f"MNIST falls to {second.accuracy['MNIST'][-1]:.1%} while Fashion-MNIST is learnt.")

Accuracies go in as fractions between 0 and 1 and are drawn in percent.
"""

import base64
import html
import io
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from matplotlib.typing import ColorType
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

# Okabe and Ito's colours can be told apart with every kind of colour vision. Each keeps its meaning through the series.
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
BLACK, ORANGE, GREEN, SKY = "#000000", "#E69F00", "#009E73", "#56B4E9"
GREY = "#666666"
COLOURS = {
    "MNIST": BLUE,
    "Fashion-MNIST": VERMILLION,
    "joint training": PURPLE,
    "unprotected": BLACK,
    "L2": ORANGE,
    "EWC": GREEN,
    "Kronecker": SKY,
}
# Green and grey, or sky blue and purple, look alike to some readers: so each method has a marker of its own, too.
MARKERS = {"joint training": "*", "unprotected": "X", "L2": "s", "EWC": "o", "Kronecker": "D"}

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#333333",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "lines.linewidth": 2.0,
    "figure.figsize": (7.0, 3.6),
    "figure.constrained_layout.use": True,
    "figure.dpi": 144,  # the page shows 96 dots an inch: the surplus keeps letters sharp on a fine screen
}


class History(Protocol):
    """What `learning_curves` reads of a training run."""

    @property
    def accuracy(self) -> Mapping[str, Sequence[float]]:
        """By name of the test set: the accuracy before training, then after each epoch."""


class Point(NamedTuple):
    """A trained model in the plane of two accuracies (fractions); an error is one standard error of the mean."""

    x: float
    y: float
    label: str = ""
    x_error: float = 0.0
    y_error: float = 0.0


def show(figure: Figure, alt: str, number: str = "") -> None:
    """Display `figure` as an image whose alternative text is `alt`, and close it.

    The output holds the image for the page (`<img alt=…>`, in JupyterLab and in `nbconvert --to html`), the bare PNG
    with `alt` in its metadata, and `alt` as plain text. With a `number` such as "5.2" the image has a caption, "Figure
    5.2." and the first sentence of `alt`. Outside IPython, the figure is only closed.

    Raises ValueError if `alt` is blank.
    """
    _require_alt(alt)
    if _in_ipython():
        _display(_mimebundle(figure, alt, number), {"image/png": {"alt": alt, "width": _width(figure)}})
    _close(figure)


def slider(
    draw: Callable[[float], Figure], values: Sequence[float], label: str, alt: str, start: int = 0, number: str = ""
) -> None:
    """Display a slider that runs through `values`, and below it `draw(value)`; it opens at `values[start]`.

    The figure is an output of its own, updated in place: it is still there when the notebook is opened again, or on a
    page that nobody can interact with. `alt` describes it; the value that is shown is added, so the description
    follows, and with a `number` it has a caption (see `show`). While a figure is being drawn, the slider is grey.

    Raises ValueError if `alt` is blank or `values` is empty.
    """
    _require_alt(alt)
    if not values:
        raise ValueError("values is empty: give the numbers that the slider stops at, such as [0, 10, 100]")
    if not _in_ipython():
        return
    import ipywidgets

    options = [(f"{value:g}", value) for value in values]
    handle = ipywidgets.SelectionSlider(
        options=options, value=values[start], description=label, continuous_update=False,
        layout=ipywidgets.Layout(width="min(100%, 36em)"),
    )  # fmt: skip
    place = f"slider-{handle.model_id}"

    def show_at(value: float, update: bool) -> None:
        figure, told = draw(value), f"{alt} Shown: {label} = {value:g}."
        metadata = {"image/png": {"alt": told, "width": _width(figure)}}
        _display(_mimebundle(figure, told, number), metadata, display_id=place, update=update)
        _close(figure)

    def redraw(change: Mapping[str, Any]) -> None:
        handle.disabled = True
        try:
            show_at(change["new"], update=True)
        finally:
            handle.disabled = False

    handle.observe(redraw, names="value")
    words = f"A slider for {label}, from {values[0]:g} to {values[-1]:g}: run the notebook to move it."
    view = {"model_id": handle.model_id, "version_major": 2, "version_minor": 0}
    _display({"text/plain": words, "application/vnd.jupyter.widget-view+json": view}, {})
    show_at(values[start], update=False)


def animate(
    draw: Callable[[float], Figure], moments: Sequence[float], alt: str, number: str = "", seconds: float = 0.4
) -> None:
    """Display `draw(moment)` of the last moment, and below it, folded, all moments as a film, `seconds` each.

    Nothing moves until a reader unfolds the film; folding it again stops it. It needs no script and no kernel: the film
    is an animated PNG, which runs again and again. `alt` and `number` are those of the still image (see `show`).

    Raises ValueError if `alt` is blank or `moments` is empty.
    """
    _require_alt(alt)
    if not moments:
        raise ValueError("moments is empty: give the moments that draw(moment) shall show, such as [0, 1, 2]")
    if not _in_ipython():
        return
    frames = []
    for moment in moments:
        figure = draw(moment)
        frames.append(_pixels(figure, dpi=96))
        _close(figure)
    still = draw(moments[-1])
    film, width = base64.b64encode(_film(frames, seconds)).decode(), _width(still)
    words = f"Play the {len(frames)} moments before it, {seconds * len(frames):.0f} seconds. Fold it to stop."
    bundle = _mimebundle(still, alt, number)
    bundle["text/html"] += (
        f'<details style="max-width: {width}px"><summary>{words}</summary>'
        f'<img alt="The same, moment by moment." width="{width}" src="data:image/png;base64,{film}"></details>'
    )
    _display(bundle, {"image/png": {"alt": alt, "width": width}})
    _close(still)


def save(figure: Figure, path: str | os.PathLike[str], alt: str) -> None:
    """Write `figure` to `path` as a PNG that carries `alt` as its Description and Alt text, all of it or nothing.

    Raises ValueError if `alt` is blank or `path` does not end in `.png`.
    """
    _require_alt(alt)
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"path is {str(path)!r}, but save writes PNG files: let it end in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(_png(figure, alt))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _close(figure)


def learning_curves(phases: Sequence[tuple[str, History]]) -> Figure:
    """Draw the accuracy on every test set over the epochs of all phases, one after the other.

    `phases` holds (title, history) pairs in the order of training; `history.accuracy[name]` has one fraction before
    training and one after each epoch. A set need not be measured in every phase.

    Raises ValueError if there is no phase, or if the curves of a phase are empty or differ in length.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _subplots()
        _draw_curves(axes, phases)
        label_ends(axes)
    return figure


def three_acts(act1: History, act2: History, act3: History) -> Figure:
    """Draw the story of the series: MNIST learnt, then forgotten while Fashion-MNIST is learnt, then kept with EWC.

    Each history measures the same test sets; acts 2 and 3 both start where act 1 ended.

    Raises ValueError as `learning_curves` does.
    """
    acts = {"1  learn MNIST": act1, "2  then Fashion-MNIST": act2, "3  the same with EWC": act3}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.2))
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (title, history) in zip(panels, acts.items(), strict=True):
            _draw_curves(axes, [(title, history)])
            axes.set_title("")
        for axes in panels[1:]:
            axes.set_ylabel("")
        label_ends(panels[-1])
    return figure


def accuracy_matrix(matrix: Tensor | Sequence[Sequence[float]], names: Sequence[str]) -> Figure:
    """Draw the accuracy matrix R: the cell in row i, column j is the accuracy on task j after training on task i.

    `matrix` is (T, T), fractions, NaN where nothing was measured; `names` are the T tasks' names.

    Raises ValueError if the shapes differ or a number is outside [0, 1].
    """
    values = np.asarray(matrix, dtype=float)
    tasks = len(names)
    if values.shape != (tasks, tasks):
        raise ValueError(f"matrix has shape {values.shape}, but {tasks} names need ({tasks}, {tasks})")
    if np.nanmin(values, initial=0.0) < 0 or np.nanmax(values, initial=1.0) > 1:
        raise ValueError(
            f"matrix holds {values[~((values >= 0) & (values <= 1)) & ~np.isnan(values)][0]:g}, but accuracies are "
            "fractions between 0 and 1: divide percentages by 100"
        )
    with matplotlib.rc_context(STYLE):
        size = 0.9 + min(max(2.6, 0.52 * tasks), 6.0)
        figure, axes = _subplots(size + 0.6, size)
        figure.set_layout_engine("compressed")
        axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
        for i, j in product(range(tasks), range(tasks)):
            measured = not math.isnan(values[i, j])
            # White on the dark end of the map, black on the rest: the contrast never falls below 4.5 to 1.
            colour = GREY if not measured else "white" if values[i, j] > 0.71 else "black"
            text = f"{100 * values[i, j]:.{1 if tasks <= 6 else 0}f}" if measured else "–"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=11 if tasks <= 6 else 9)
        axes.set_xticks(range(tasks), list(names))
        axes.set_yticks(range(tasks), list(names))
        if tasks > 3:
            axes.tick_params(axis="x", rotation=30, rotation_mode="xtick")
        axes.set(xlabel="accuracy (%) on", ylabel="after training on")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def sample_images(
    images: Tensor, labels: Sequence[object] | Tensor | None = None, columns: int = 10, vmax: float = 1.0
) -> Figure:
    """Draw images in a grid, dark on white, each under its label.

    `images` is (N, height, width), 0 drawn white and `vmax` black; `labels` are N titles (class names or numbers).

    Raises ValueError if `images` has another shape, `columns` is below 1, or the number of labels differs.
    """
    if images.ndim != 3 or not len(images):
        raise ValueError(
            f"images has shape {tuple(images.shape)}, but must be (N, 28, 28) with N ≥ 1: "
            "drop a channel axis with images[:, 0], add a batch axis with images[None]"
        )
    if columns < 1:
        raise ValueError(f"columns is {columns}, but must be 1 or more")
    titles = labels.tolist() if isinstance(labels, Tensor) else [""] * len(images) if labels is None else list(labels)
    if len(titles) != len(images):
        raise ValueError(f"there are {len(titles)} labels for {len(images)} images: give one label an image")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell = min(1.3, 7.2 / columns)
    title_height = 0.25 if any(titles) or labels is not None else 0.0
    tight = {"figure.constrained_layout.w_pad": 0.02, "figure.constrained_layout.h_pad": 0.02}
    with matplotlib.rc_context(STYLE | tight):
        figure = Figure(figsize=(cell * columns, (cell + title_height) * rows))
        for number, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
            axes = figure.add_subplot(rows, columns, number)
            axes.imshow(image.detach().cpu().numpy(), cmap="gray_r", vmin=0, vmax=vmax)
            axes.set_title(str(title), fontsize=9, pad=3)
            axes.set_axis_off()
    return figure


def tradeoff(
    curves: Mapping[str, Sequence[Point]],
    x: str = "MNIST",
    y: str = "Fashion-MNIST",
    colours: Mapping[str, str] = COLOURS,
) -> Figure:
    """Draw models in the plane of two accuracies: old task to the right, new task upwards, the best place top right.

    `curves` maps a method's name to its points (fractions); several are joined by a line in their order, say of
    increasing λ. A point's own label stands beside it, the method's name beside its first point.

    Raises ValueError if a curve has no point.
    """
    for name, points in curves.items():
        if not points:
            raise ValueError(f"curve {name!r} has no point: give at least one plots.Point(x, y)")
    with matplotlib.rc_context(STYLE):
        figure, axes = _subplots(7.0, 4.6)
        markers = dict(zip((name for name in curves if name not in MARKERS), cycle("^Pv"))) | MARKERS
        for name, colour in _colours(curves, colours).items():
            points = curves[name]
            axes.errorbar(
                [100 * point.x for point in points],
                [100 * point.y for point in points],
                xerr=[100 * point.x_error for point in points],
                yerr=[100 * point.y_error for point in points],
                color=colour, marker=markers[name], markersize=6, elinewidth=1, linewidth=1.5,
            )  # fmt: skip
        axes.margins(0.15)
        axes.set(xlabel=f"accuracy on {x} (%)", ylabel=f"accuracy on {y} (%)")
        _label_points(axes, curves, _colours(curves, colours))
    return figure


def label_ends(axes: Axes) -> None:
    """Write each line's label, in the line's colour, to the right of where it ends; labels never overlap.

    Takes the place of a legend: `axes.plot(…, label="MNIST")`, set the limits, then `label_ends(axes)`. Where labels
    had to move away from the ends of their lines, thin strokes tie the two together.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # now the limits and the height of the axes are final
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    to_fraction = axes.transData + axes.transAxes.inverted()
    ends = {}
    for line in lines:
        xy = line.get_xydata()
        assert isinstance(xy, np.ndarray)
        measured = xy[~np.isnan(xy).any(axis=1)]
        if len(measured):
            ends[line] = float(to_fraction.transform(measured[-1])[1])
    tall = axes.get_window_extent().height * 72 / figure.dpi  # the height of the axes in points
    line_height = 1.25 * matplotlib.rcParams["font.size"] / tall
    ordered = sorted(ends, key=lambda line: ends[line])
    places = _spread([ends[line] for line in ordered], line_height)
    moved = any(abs(height - ends[line]) > line_height / 2 for line, height in zip(ordered, places, strict=True))
    for line, height in zip(ordered, places, strict=True):
        axes.annotate(
            str(line.get_label()), (1, height), xycoords="axes fraction", xytext=(21 if moved else 7, 0),
            textcoords="offset points", va="center", color=_ink(line.get_color()), annotation_clip=False,
        )  # fmt: skip
        if moved:
            tie = {"arrowstyle": "-", "color": _ink(line.get_color()), "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
            axes.annotate(
                "", (1, ends[line]), xycoords="axes fraction", xytext=(18, (height - ends[line]) * tall),
                textcoords="offset points", arrowprops=tie, annotation_clip=False,
            )  # fmt: skip


def _draw_curves(axes: Axes, phases: Sequence[tuple[str, History]]) -> None:
    if not phases:
        raise ValueError("phases is empty: give at least one (title, history) pair, such as ('MNIST', history)")
    starts = [0]
    for title, history in phases:
        lengths = {name: len(values) for name, values in history.accuracy.items()}
        if len(set(lengths.values())) != 1 or min(lengths.values()) < 1:
            raise ValueError(
                f"phase {title!r} has accuracy curves of lengths {lengths}: each test set needs one number before "
                "training and one an epoch; pass evaluate={'MNIST': loader, …} to train()"
            )
        starts.append(starts[-1] + next(iter(lengths.values())) - 1)

    for name, colour in _colours(dict.fromkeys(name for _, history in phases for name in history.accuracy)).items():
        x: list[float] = []
        y: list[float] = []
        for (_, history), start in zip(phases, starts, strict=False):
            values = history.accuracy.get(name, [math.nan])
            x += range(start, start + len(values))
            y += [100 * value for value in values]
        axes.plot(x, y, color=colour, label=name, marker="o", markersize=4, clip_on=False)
    for (title, _), start, end in zip(phases, starts, starts[1:], strict=False):
        axes.text((start + end) / 2, 1.03, title, transform=axes.get_xaxis_transform(), ha="center", color=GREY)
        if start:
            axes.axvline(start, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set(xlim=(0, max(starts[-1], 1)), ylim=(0, 101), xlabel="epochs of training", ylabel="test accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move sorted heights as little as needed until neighbours are `gap` apart: clusters share their centre."""
    clusters: list[list[float]] = []  # [centre, members]
    for height in heights:
        clusters.append([height, 1])
        while len(clusters) > 1 and clusters[-1][0] - clusters[-2][0] < gap * (clusters[-1][1] + clusters[-2][1]) / 2:
            centre, members = clusters.pop()
            below, others = clusters[-1]
            clusters[-1] = [(centre * members + below * others) / (members + others), members + others]
    return [centre + gap * (k - (members - 1) / 2) for centre, members in clusters for k in range(int(members))]


def _label_points(axes: Axes, curves: Mapping[str, Sequence[Point]], colours: Mapping[str, str]) -> None:
    """Put each label beside its point, where it covers the least of curves, earlier labels and the frame's outside."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout gives the axes their final size
    frame = axes.get_window_extent()
    taken: list[tuple[float, ...]] = []  # boxes in pixels: left, bottom, right, top
    for points in curves.values():
        path = axes.transData.transform([(100 * point.x, 100 * point.y) for point in points])
        along = np.linspace(0, len(path) - 1, 20 * len(path))
        for x, y in zip(*(np.interp(along, range(len(path)), axis) for axis in path.T), strict=True):
            taken.append((x - 7, y - 7, x + 7, y + 7))

    def cost(box: Bbox) -> float:
        left, bottom, right, top = np.array([*taken, frame.extents]).T
        wide = (np.minimum(right, box.x1) - np.maximum(left, box.x0)).clip(min=0)
        high = (np.minimum(top, box.y1) - np.maximum(bottom, box.y0)).clip(min=0)
        *overlaps, inside = wide * high
        return float(sum(overlaps) + 20 * (box.width * box.height - inside))

    sides = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}
    places = [(r * dx, r * dy, sides[dx][0], sides[dy][1])
              for r in (5, 14, 28, 44) for dy in (1, -1, 0) for dx in (1, -1, 0) if dx or dy]  # fmt: skip
    for name, points in curves.items():
        for k, point in enumerate(points):
            words = "\n".join(word for word in (name if k == 0 else "", point.label) if word)
            if not words:
                continue
            text = axes.annotate(
                words, (100 * point.x, 100 * point.y), xytext=(0, 0), textcoords="offset points",
                color=_ink(colours[name]), fontsize=10, linespacing=1.05,
            )  # fmt: skip
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
            costs = []
            for dx, dy, ha, va in places:
                text.set(position=(dx, dy), ha=ha, va=va)
                costs.append(cost(text.get_window_extent()))
            dx, dy, ha, va = places[costs.index(min(costs))]
            text.set(position=(dx, dy), ha=ha, va=va)
            taken.append(tuple(text.get_window_extent().extents))
            if max(abs(dx), abs(dy)) > 20:  # far from its point: tie the two together
                tie = {"arrowstyle": "-", "color": colours[name], "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", text.xy, xytext=(dx, dy), textcoords="offset points", arrowprops=tie)


def _subplots(width: float = 7.0, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _colours(names: Mapping[str, object], known: Mapping[str, str] = COLOURS) -> dict[str, str]:
    """Give each name its own colour, or one that no name here claims."""
    used = {known[name] for name in names if name in known}
    spare = [colour for colour in (GREEN, ORANGE, SKY, PURPLE, BLACK, BLUE, VERMILLION) if colour not in used]
    unknown = [name for name in names if name not in known]
    return {name: known.get(name) or (spare or [GREY])[unknown.index(name) % len(spare or [GREY])] for name in names}


def _ink(colour: ColorType) -> ColorType:
    """A darker shade of `colour`, for letters on white: Okabe and Ito's orange and sky blue are too light to read."""
    red, green, blue = to_rgb(colour)
    return 0.65 * red, 0.65 * green, 0.65 * blue


def _png(figure: Figure, alt: str) -> bytes:
    # A palette of 256 colours halves the size, and no entry names matplotlib's version: stored figures stay small and
    # change only when what they show does.
    stored = io.BytesIO()
    entries = PngInfo()
    entries.add_itxt("Description", alt)
    entries.add_itxt("Alt", alt)
    image = _pixels(figure, STYLE["figure.dpi"]).quantize(256, dither=Image.Dither.NONE)
    image.save(stored, "png", optimize=True, pnginfo=entries)
    return stored.getvalue()


def _pixels(figure: Figure, dpi: float) -> Image.Image:
    """The figure as an image."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    return Image.open(drawn).convert("RGB")


def _film(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """The frames as one animated PNG with one palette of 256 colours: that of all frames together."""
    sheet = Image.new("RGB", (frames[0].width, sum(frame.height for frame in frames)))
    top = 0
    for frame in frames:
        sheet.paste(frame, (0, top))
        top += frame.height
    palette = sheet.quantize(256, dither=Image.Dither.NONE)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    stored = io.BytesIO()
    waits = [round(1000 * seconds)] * len(others) + [2000]  # the last moment stays for a while
    first.save(stored, "png", save_all=True, append_images=others, duration=waits, loop=0)
    return stored.getvalue()


def _width(figure: Figure) -> int:
    """The figure's width on the page, in CSS pixels (96 an inch)."""
    return round(96 * figure.get_figwidth())


def _mimebundle(figure: Figure, alt: str, number: str = "") -> dict[str, Any]:
    # nbconvert's and JupyterLab's own rendering of image/png ignores the alternative text; their HTML keeps it.
    png = base64.b64encode(_png(figure, alt)).decode()
    tag = f'<img alt="{html.escape(alt)}" width="{_width(figure)}" src="data:image/png;base64,{png}">'
    if not number:
        return {"text/plain": alt, "text/html": tag, "image/png": png}
    first = re.split(r"(?<=[.!?])\s+(?=[^a-z\d])", alt, maxsplit=1)[0]
    caption = f"<figcaption><b>Figure {number}.</b> {html.escape(first)}</figcaption>"
    page = f'<figure style="margin: 0; max-width: {_width(figure)}px">{tag}{caption}</figure>'
    return {"text/plain": f"Figure {number}. {alt}", "text/html": page, "image/png": png}


def _in_ipython() -> bool:
    ipython = sys.modules.get("IPython")  # not imported means not running in it
    return ipython is not None and ipython.get_ipython() is not None


def _display(bundle: dict[str, Any], metadata: dict[str, Any], **options: Any) -> None:
    """`options`: a `display_id`, and whether to `update` what has it."""
    from IPython.display import display, update_display

    if options.pop("update", False):
        update_display(bundle, metadata=metadata, raw=True, **options)  # type: ignore[no-untyped-call]
    else:
        display(bundle, metadata=metadata, raw=True, **options)  # type: ignore[no-untyped-call]


def _close(figure: Figure) -> None:
    """Let pyplot forget the figure, or the notebook would show it a second time at the end of the cell."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)


def _require_alt(alt: str) -> None:
    if not alt.strip():
        raise ValueError(f"alt is {alt!r}, but every figure needs a sentence that says what it shows, with its numbers")
