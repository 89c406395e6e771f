"use strict";
/* The plane of two weights: what is drawn in it, and the three handles. Its mathematics is in twoweights.js. */

const Plane = (() => {
  const { $, percent, colour, say, draw, MARKS } = Tools;
  const LEVEL = 0.0125; // A's loss has risen by this much on the ellipse, says F
  const LAMBDAS = [0, ...Array.from({ length: 24 }, (_, k) => Number((10 ** ((k - 11) / 5.5)).toPrecision(2)))];
  const RANGE = { x: [-2, 4], y: [-1.5, 5.5] };
  // The ellipse has two half-axes; the first points to `angle`. It leans where all of F was asked for.
  const two = {
    shape: "diagonal",
    leans: false,
    lambda: 1,
    anchor: null,
    first: 1,
    second: 1,
    angle: 0,
    f: null,
    walks: {},
  };

  /** A task's strip, where at least 90 % are right, as a border: both ends of it for each place along one axis. */
  function strip(task, along) {
    const [low, high] = along === 0 ? [RANGE.x, RANGE.y] : [RANGE.y, RANGE.x],
      first = [],
      second = [];
    for (let u = low[0]; u <= low[1] + 1e-9; u += 0.05) {
      const place = (v) => (along === 0 ? [u, v] : [v, u]),
        inside = [];
      for (let v = high[0] - 1; v <= high[1] + 1; v += 0.02)
        if (TwoWeights.accuracy(place(v), task) >= 0.9) inside.push(v);
      if (!inside.length) continue;
      first.push(place(inside[0]));
      second.push(place(inside[inside.length - 1]));
    }
    return [...first, ...second.reverse()];
  }

  function measure() {
    const f = TwoWeights.fisher(two.anchor, POINTS.A);
    if (two.shape === "diagonal") Object.assign(two, TwoWeights.ellipse([f[0], 0, f[2]], LEVEL), { leans: false });
    if (two.shape === "full") Object.assign(two, TwoWeights.ellipse(f, LEVEL), { leans: true });
    two.f = TwoWeights.fromEllipse(two, LEVEL);
  }

  function walk() {
    const mean = (two.f[0] + two.f[2]) / 2;
    two.walks = {
      unprotected: TwoWeights.walk(POINTS.B, two.anchor, [0, 0, 0], 0),
      L2: TwoWeights.walk(POINTS.B, two.anchor, [mean, 0, mean], two.lambda),
      EWC: TwoWeights.walk(POINTS.B, two.anchor, two.f, two.lambda),
    };
  }

  function picture() {
    const svg = $("two"),
      width = svg.getBoundingClientRect().width;
    if (!width) return;
    const focused =
      document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.handle : null;
    const margin = 34,
      scale = (width - margin - 8) / (RANGE.x[1] - RANGE.x[0]),
      height = scale * (RANGE.y[1] - RANGE.y[0]) + margin + 8;
    svg.style.height = `${height}px`;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const x = (v) => margin + scale * (v - RANGE.x[0]),
      y = (v) => 8 + scale * (RANGE.y[1] - v);
    two.toPlane = (px, py) => [(px - margin) / scale + RANGE.x[0], RANGE.y[1] - (py - 8) / scale];
    const back = two.back || draw(svg, "g", {}),
      front = two.front || draw(svg, "g", {});
    [two.back, two.front] = [back, front];
    back.replaceChildren();
    draw(draw(back, "clipPath", { id: "plane" }), "rect", {
      x: margin,
      y: 8,
      width: width - margin - 8,
      height: height - margin - 8,
    });
    draw(back, "rect", {
      x: margin,
      y: 8,
      width: width - margin - 8,
      height: height - margin - 8,
      fill: colour("card"),
      stroke: colour("line"),
    });
    for (let v = -2; v <= 4; v += 2)
      draw(back, "text", { x: x(v), y: height - 14, "text-anchor": "middle", "font-size": 12, class: "soft" }, v);
    for (let v = 0; v <= 4; v += 2)
      draw(back, "text", { x: margin - 7, y: y(v) + 4, "text-anchor": "end", "font-size": 12, class: "soft" }, v);
    draw(back, "text", { x: x(3.3), y: height - 14, "text-anchor": "middle", "font-size": 14 }, "θ₁");
    draw(back, "text", { x: margin - 7, y: y(5) + 4, "text-anchor": "end", "font-size": 14 }, "θ₂");
    const inner = draw(back, "g", { "clip-path": "url(#plane)" });
    const shape = (points) =>
      points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    two.strips = two.strips || { digits: strip(POINTS.A, 1), clothes: strip(POINTS.B, 0) };
    for (const [name, border] of Object.entries(two.strips))
      draw(inner, "path", { d: `${shape(border)}Z`, fill: colour(name), opacity: 0.24 });
    draw(
      inner,
      "text",
      { x: x(2.9), y: y(-1.2), "font-size": 13, "font-weight": 600, style: `fill:${colour("digits-text")}` },
      "A solved",
    );
    draw(
      inner,
      "text",
      { x: x(-1.9), y: y(0.55), "font-size": 13, "font-weight": 600, style: `fill:${colour("clothes-text")}` },
      "B solved",
    );

    const { first, second, angle } = two,
      [ax, ay] = two.anchor;
    draw(inner, "ellipse", {
      cx: x(ax),
      cy: y(ay),
      rx: first * scale,
      ry: second * scale,
      transform: `rotate(${(-angle * 180) / Math.PI} ${x(ax)} ${y(ay)})`,
      fill: colour("EWC"),
      "fill-opacity": 0.12,
      stroke: colour("EWC"),
      "stroke-width": 2,
    });
    for (const [name, path] of Object.entries(two.walks)) {
      const thinned = path.filter((_, i) => i < 60 || i % 10 === 0 || i === path.length - 1);
      draw(inner, "path", {
        d: shape(thinned),
        fill: "none",
        stroke: colour(name),
        "stroke-width": 3,
        "stroke-linejoin": "round",
      });
    }
    for (const [name, path] of Object.entries(two.walks)) {
      const [ex, ey] = path[path.length - 1],
        px = Math.max(margin + 6, Math.min(width - 14, x(ex))),
        py = Math.max(14, Math.min(height - margin, y(ey)));
      draw(inner, "path", {
        d: MARKS[name],
        transform: `translate(${px} ${py})`,
        fill: name === "unprotected" ? "none" : colour(name),
        stroke: colour(name),
        "stroke-width": 2.5,
      });
      const below = name === "unprotected",
        rightwards = name === "EWC";
      draw(
        inner,
        "text",
        {
          x: px + (rightwards ? 10 : 0),
          y: py + (rightwards ? -8 : below ? -11 : 20),
          "text-anchor": rightwards ? "start" : px < margin + 45 ? "start" : "middle",
          "font-size": 13,
          "font-weight": 600,
          class: "haloed",
          style: `fill:${colour(`${name}-text`)}`,
        },
        name,
      );
    }

    const c = Math.cos(angle),
      s = Math.sin(angle);
    const ends = {
      anchor: [ax, ay],
      first: [ax + first * c, ay + first * s],
      second: [ax - second * s, ay + second * c],
    };
    const inside = ([a, b]) => [
      Math.max(RANGE.x[0] + 0.1, Math.min(RANGE.x[1] - 0.1, a)),
      Math.max(RANGE.y[0] + 0.1, Math.min(RANGE.y[1] - 0.1, b)),
    ];
    for (const [name, end] of Object.entries(ends)) {
      let handle = front.querySelector(`[data-handle=${name}]`);
      if (!handle) {
        handle = draw(front, "g", {
          class: "handle",
          tabindex: 0,
          role: "slider",
          "data-handle": name,
          "aria-orientation": "vertical",
        });
        draw(handle, "circle", { r: 22, fill: "transparent", stroke: "none", class: "ring" });
        draw(
          handle,
          name === "anchor" ? "path" : "circle",
          name === "anchor" ? { d: MARKS.joint, class: "dot" } : { r: 8, class: "dot" },
        );
        if (name === "anchor")
          draw(
            draw(
              handle,
              "text",
              { x: -15, y: 24, "text-anchor": "end", "font-size": 16, "font-weight": 600, class: "haloed" },
              "θ*",
            ),
            "tspan",
            { dy: 4, "font-size": 11 },
            "A",
          );
        handleEvents(handle, name);
      }
      const [hx, hy] = inside(end);
      handle.setAttribute("transform", `translate(${x(hx).toFixed(1)} ${y(hy).toFixed(1)})`);
      const dot = handle.querySelector(".dot");
      dot.setAttribute("fill", name === "anchor" ? colour("digits") : colour("card"));
      dot.setAttribute("stroke", name === "anchor" ? colour("card") : colour("EWC"));
      dot.setAttribute("stroke-width", name === "anchor" ? 0.8 : 3);
      if (name === "anchor") dot.setAttribute("transform", "scale(1.7)");
      const words = {
        anchor: `θ star of A: ${ax.toFixed(2)}, ${ay.toFixed(2)}`,
        first: `half-width ${first.toFixed(2)}`,
        second: `half-width ${second.toFixed(2)}`,
      };
      handle.setAttribute(
        "aria-label",
        {
          anchor: "θ star of A, arrow keys move it in the plane",
          first: "first axis of the ellipse",
          second: "second axis of the ellipse",
        }[name],
      );
      handle.setAttribute("aria-valuetext", words[name]);
      handle.setAttribute("aria-valuemin", name === "anchor" ? RANGE.y[0] : 0.05);
      handle.setAttribute("aria-valuemax", name === "anchor" ? RANGE.y[1] : 6);
      handle.setAttribute("aria-valuenow", (name === "anchor" ? ay : two[name]).toFixed(2));
    }
    if (focused) {
      const again = front.querySelector(`[data-handle=${focused}]`);
      if (again !== document.activeElement) again.focus();
    }
  }

  function ends(aloud) {
    const found = {};
    $("two-ends").innerHTML = Object.entries(two.walks)
      .map(([name, path]) => {
        const end = path[path.length - 1],
          a = TwoWeights.accuracy(end, POINTS.A),
          b = TwoWeights.accuracy(end, POINTS.B);
        found[name] = [a, b];
        const solved = Math.min(a, b) >= 0.9;
        return `<tr><th scope="row"><span class="key" style="background:${colour(name)}"></span>${name}</th><td>${percent(a)}</td><td>${percent(b)}${solved ? " ✓" : ""}</td></tr>`;
      })
      .join("");
    const [a, b] = found.EWC,
      ratio = two.f[0] / two.f[2];
    const start = TwoWeights.accuracy(two.anchor, POINTS.A);
    let text =
      a >= 0.9 && b >= 0.9
        ? "EWC solves both."
        : a < 0.9
          ? b < 0.9
            ? "EWC solves neither."
            : "Too weak, or in the wrong direction: A is forgotten."
          : "Too strong: B is not learnt.";
    if (start < 0.9) text = "Here A is not solved to begin with: θ* has to lie in the blue strip.";
    text +=
      ratio >= 1
        ? ` The spring along θ₁ is ${ratio < 10 ? ratio.toFixed(1) : Math.round(ratio)} times as stiff as that along θ₂.`
        : ` The spring along θ₂ is ${(1 / ratio).toFixed(1)} times as stiff as that along θ₁.`;
    $("two-said").textContent = text;
    if (aloud) say(`λ ${two.lambda}. EWC: A ${percent(a)}, B ${percent(b)}. ${text}`);
  }

  let pending = false,
    spoken = false;

  /** Compute and draw anew, once a frame; `aloud` also says where EWC ends. */
  function refresh(aloud = false) {
    spoken = spoken || aloud;
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      measure();
      walk();
      picture();
      ends(spoken);
      pending = spoken = false;
    });
  }

  /** Put one handle at a place of the plane. */
  function moveHandle(name, [a, b]) {
    const clampTo = (v, [low, high]) => Math.max(low, Math.min(high, v));
    if (name === "anchor") {
      two.anchor = [clampTo(a, RANGE.x), clampTo(b, RANGE.y)];
    } else {
      const da = a - two.anchor[0],
        db = b - two.anchor[1];
      const reach = two.leans ? Math.hypot(da, db) : Math.abs(name === "first" ? da : db);
      two[name] = clampTo(reach, [0.08, 6]);
      if (two.leans) two.angle = name === "first" ? Math.atan2(db, da) : Math.atan2(-da, db);
      two.shape = "own";
      document.querySelector("input[name=shape][value=own]").checked = true;
    }
    refresh();
  }

  function handleEvents(handle, name) {
    const svg = $("two");
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      two.dragged = name;
      event.preventDefault();
      handle.focus({ preventScroll: true });
    });
    handle.addEventListener("pointermove", (event) => {
      if (two.dragged !== name) return;
      const box = svg.getBoundingClientRect();
      moveHandle(name, two.toPlane(event.clientX - box.left, event.clientY - box.top));
    });
    for (const kind of ["pointerup", "pointercancel"])
      handle.addEventListener(kind, () => {
        if (two.dragged === name) {
          two.dragged = null;
          refresh(true);
        }
      });
    handle.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const step = event.shiftKey ? 0.5 : 0.1,
        [dx, dy] = moves[event.key];
      if (name === "anchor") {
        moveHandle(name, [two.anchor[0] + step * dx, two.anchor[1] + step * dy]);
      } else {
        const c = Math.cos(two.angle),
          s = Math.sin(two.angle),
          [ux, uy] = name === "first" ? [c, s] : [-s, c];
        const to = Math.max(0.08, two[name] + (dx + dy > 0 ? 0.5 : -0.5) * step);
        moveHandle(name, [two.anchor[0] + to * ux, two.anchor[1] + to * uy]);
      }
      refresh(true);
    });
  }

  /** Begin as notebook 00 does, and listen. */
  function begin() {
    let notebookAnchor = [0, 4];
    for (let k = 0; k < 13; k++) notebookAnchor = TwoWeights.walk(POINTS.A, notebookAnchor, [0, 0, 0], 0).pop();
    const showLambda = () => {
      two.lambda = LAMBDAS[Number($("lambda2").value)];
      $("lambda2-value").textContent = two.lambda;
      $("lambda2").setAttribute("aria-valuetext", `λ = ${two.lambda}`);
    };
    $("lambda2").addEventListener("input", () => {
      showLambda();
      refresh();
    });
    $("lambda2").addEventListener("change", () => refresh(true));
    document.querySelectorAll("input[name=shape]").forEach((input) =>
      input.addEventListener("change", () => {
        two.shape = input.value;
        refresh(true);
      }),
    );
    const reset = () => {
      two.anchor = notebookAnchor.slice();
      two.shape = "diagonal";
      document.querySelector("input[name=shape][value=diagonal]").checked = true;
      $("lambda2").value = LAMBDAS.indexOf(1);
      showLambda();
      refresh();
    };
    $("two-reset").addEventListener("click", () => {
      reset();
      refresh(true);
    });
    reset();
  }

  /** Draw all of it once more: the colours or the width have changed. */
  function repaint() {
    if (!two.f) return;
    picture();
    ends(false);
  }

  return { begin, repaint };
})();
