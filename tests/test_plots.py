"""Figures: that they draw the numbers they are given, and refuse those that make no sense."""

import base64
import io
import re

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from contlearn import History, plots

FIRST = History({"MNIST": [0.1, 0.9, 0.95], "Fashion-MNIST": [0.1, 0.1, 0.08]}, [1.0, 0.5])
SECOND = History({"MNIST": [0.95, 0.4], "Fashion-MNIST": [0.08, 0.8]}, [1.0])


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_learning_curves_join_the_phases_and_label_the_ends():
    (axes,) = plots.learning_curves([("one", FIRST), ("two", SECOND)]).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines() if line.get_label()[0] != "_"}
    assert curves["MNIST"] == [[0, 10], [1, 90], [2, 95], [2, 95], [3, 40]]
    assert {"one", "two", "MNIST", "Fashion-MNIST"} <= set(texts(axes))
    assert {line.get_color() for line in axes.get_lines()} >= {plots.BLUE, plots.VERMILLION}


def test_three_acts_show_all_three_with_one_scale():
    panels = plots.three_acts(FIRST, SECOND, SECOND).axes
    assert [len(axes.get_lines()) for axes in panels] == [2, 2, 2]
    assert len({axes.get_ylim() for axes in panels}) == 1


def test_history_plots_itself():
    assert len(FIRST.plot().axes[0].get_lines()) == 2


def test_accuracy_matrix_writes_each_number_once_and_a_dash_for_none():
    matrix = [[0.97, float("nan")], [0.33, 0.866]]
    (axes,) = plots.accuracy_matrix(matrix, ["MNIST", "Fashion-MNIST"]).axes
    assert texts(axes) == ["97.0", "–", "33.0", "86.6"]


def test_sample_images_draw_the_pixels_under_their_labels():
    images = torch.rand(3, 28, 28)
    axes = plots.sample_images(images, ["a", "b", "c"], columns=2).axes
    assert [a.get_title() for a in axes] == ["a", "b", "c"]
    assert torch.equal(torch.tensor(axes[1].images[0].get_array().data), images[1])


def test_tradeoff_draws_percent_and_names_each_curve():
    curves = {
        "EWC": [plots.Point(0.9, 0.86, "λ = 30", 0.01, 0.02), plots.Point(0.95, 0.85)],
        "L2": [plots.Point(0.8, 0.8)],
    }
    (axes,) = plots.tradeoff(curves).axes
    assert any("EWC" in text for text in texts(axes))
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[90, 86], [95, 85]]


def test_labels_of_lines_that_end_together_do_not_overlap():
    together = History({name: [0.5, 0.9] for name in ("MNIST", "Fashion-MNIST", "third")}, [1.0])
    figure = plots.learning_curves([("", together)])
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text() in together.accuracy]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_save_writes_a_png_with_its_alternative_text_and_nothing_else(tmp_path):
    plots.save(FIRST.plot(), tmp_path / "new" / "curve.png", "MNIST rises to 95 %.")
    with Image.open(tmp_path / "new" / "curve.png") as image:
        assert image.text["Alt"] == "MNIST rises to 95 %."
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["curve.png"]


def test_an_interrupted_save_leaves_the_old_figure(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(plots, "_png", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        plots.save(FIRST.plot(), path, "text")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_show_displays_image_and_text_and_keeps_no_figure(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "_in_ipython", lambda: True)
    monkeypatch.setattr(plots, "_display", lambda bundle, metadata: shown.append((bundle, metadata)))
    plots.show(FIRST.plot(), 'a "quoted" sentence')
    ((bundle, metadata),) = shown
    assert bundle["text/plain"] == 'a "quoted" sentence'
    assert '<img alt="a &quot;quoted&quot; sentence"' in bundle["text/html"]
    assert metadata["image/png"]["alt"] == 'a "quoted" sentence'


def test_a_number_makes_a_caption_of_the_first_sentence(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "_in_ipython", lambda: True)
    monkeypatch.setattr(plots, "_display", lambda bundle, metadata: shown.append(bundle))
    plots.show(FIRST.plot(), "From 97.5 to 38 % & less. The rest.", "3.1")
    assert "<figcaption><b>Figure 3.1.</b> From 97.5 to 38 % &amp; less.</figcaption>" in shown[0]["text/html"]
    assert 'alt="From 97.5 to 38 % &amp; less. The rest."' in shown[0]["text/html"]
    assert shown[0]["text/plain"] == "Figure 3.1. From 97.5 to 38 % & less. The rest."


def test_show_outside_ipython_only_closes():
    import matplotlib.pyplot as plt

    figure, _ = plt.subplots()
    plots.show(figure, "a figure")
    assert plt.get_fignums() == []


def test_ink_on_white_is_readable():
    """WCAG 2's contrast of every label colour with white is at least 4.5 to 1."""
    for colour in plots.COLOURS.values():
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in plots._ink(colour)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 4.5, colour


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.learning_curves([]), "phases is empty"),
        (lambda: plots.learning_curves([("x", History({}, []))]), "lengths {}"),
        (lambda: plots.learning_curves([("x", History({"a": [0.1], "b": [0.1, 0.2]}))]), "lengths"),
        (lambda: plots.accuracy_matrix([[0.5]], ["a", "b"]), r"need \(2, 2\)"),
        (lambda: plots.accuracy_matrix([[97.0]], ["a"]), "divide percentages by 100"),
        (lambda: plots.sample_images(torch.rand(2, 1, 28, 28)), "drop a channel axis"),
        (lambda: plots.sample_images(torch.rand(2, 28, 28), ["a"]), "1 labels for 2 images"),
        (lambda: plots.sample_images(torch.rand(2, 28, 28), columns=0), "columns is 0"),
        (lambda: plots.tradeoff({"EWC": []}), "has no point"),
        (lambda: plots.show(FIRST.plot(), " "), "needs a sentence"),
        (lambda: plots.save(FIRST.plot(), "figure.pdf", "text"), "end in .png"),
        (lambda: plots.slider(lambda _: FIRST.plot(), [], "λ", "text"), "values is empty"),
        (lambda: plots.animate(lambda _: FIRST.plot(), [], "text"), "moments is empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_remedy(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_slider_updates_a_picture_that_stands_by_itself(monkeypatch):
    """What is saved is a picture without a widget in it, and its description follows the slider."""
    import ipywidgets

    shown, sliders = [], []
    real = ipywidgets.SelectionSlider
    monkeypatch.setattr(ipywidgets, "SelectionSlider", lambda **k: sliders.append(real(**k)) or sliders[-1])
    monkeypatch.setattr(plots, "_in_ipython", lambda: True)
    monkeypatch.setattr(plots, "_display", lambda bundle, metadata, **options: shown.append((bundle, options)))
    busy = []
    plots.slider(lambda value: busy.append(sliders[0].disabled) or FIRST.plot(), [0, 10, 100], "λ", "A curve.", start=1)
    (handle, _), (picture, first) = shown
    assert "image/png" not in handle
    assert handle["text/plain"] == "A slider for λ, from 0 to 100: run the notebook to move it."
    assert not any("widget" in kind for kind in picture)
    assert picture["text/plain"] == "A curve. Shown: λ = 10."
    sliders[0].value = 100
    updated, second = shown[2]
    assert (first["update"], second["update"]) == (False, True)
    assert first["display_id"] == second["display_id"]
    assert 'alt="A curve. Shown: λ = 100."' in updated["text/html"]
    assert busy == [False, True]
    assert not sliders[0].disabled


def test_style_is_left_as_it_was():
    before = dict(matplotlib.rcParams)
    plots.accuracy_matrix([[0.5]], ["a"])
    assert dict(matplotlib.rcParams) == before


def test_pictures_do_not_change_from_run_to_run():
    one, two = (plots._png(FIRST.plot(), "alt") for _ in range(2))
    assert one == two
    assert Image.open(io.BytesIO(one)).mode == "P"


def test_a_film_is_folded_below_its_last_moment(monkeypatch):
    """The still image stands by itself; the film is an animated PNG with all moments, in one palette."""
    displayed = []
    monkeypatch.setattr(plots, "_in_ipython", lambda: True)
    monkeypatch.setattr(plots, "_display", lambda bundle, metadata: displayed.append((bundle, metadata)))
    asked = []

    def draw(moment):
        asked.append(moment)
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([0, moment], color=plots.BLUE)
        return figure

    plots.animate(draw, [1, 2, 3], "A line. It grows.", "1.2", seconds=0.5)
    ((bundle, metadata),) = displayed
    assert asked == [1, 2, 3, 3]
    assert metadata["image/png"]["alt"] == "A line. It grows."
    still, film = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", bundle["text/html"])
    assert still == bundle["image/png"]
    assert "<b>Figure 1.2.</b> A line." in bundle["text/html"]
    page = bundle["text/html"]
    assert page.index("</figure>") < page.index("<details") < page.index(film) < page.index("</details>")
    assert " open" not in page
    assert page.count("alt=") == 2
    moving = Image.open(io.BytesIO(base64.b64decode(film)))
    assert moving.n_frames == 3
    seen = set()
    for k in range(3):
        moving.seek(k)
        seen.add(moving.convert("RGB").tobytes())
    assert len(seen) == 3


def test_labels_that_had_to_move_are_tied_to_their_lines():
    _, axes = plots._subplots()
    for height in (0.50, 0.51, 0.52):
        axes.plot([0, 1], [height, height], label=f"{height}")
    axes.set(ylim=(0, 1))
    plots.label_ends(axes)
    ties = [text for text in axes.texts if text.arrow_patch is not None]
    assert [tie.xy[1] for tie in ties] == pytest.approx([0.50, 0.51, 0.52])
    _, axes = plots._subplots()
    for height in (0.2, 0.8):
        axes.plot([0, 1], [height, height], label=f"{height}")
    plots.label_ends(axes)
    assert not [text for text in axes.texts if text.arrow_patch is not None]
