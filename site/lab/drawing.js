"use strict";
/* From strokes to the 14 x 14 grey levels that the network takes, in the way the makers of MNIST went: the drawing is
   scaled to fit a box of 20 x 20 pixels, and moved until its centre of mass lies in the middle of 28 x 28. */

const Drawing = (() => {
  const SIDE = 14,
    FINE = 28,
    BOX = 20,
    PEN = 1.1; // the pen's radius, in pixels of the fine image

  /** 196 grey levels, 0 to 15, of strokes: lists of points [x, y] in any unit, y downwards. Null if there are none. */
  function levels(strokes) {
    const points = strokes.flat();
    if (points.length === 0) return null;
    const xs = points.map(([x]) => x),
      ys = points.map(([, y]) => y);
    const left = Math.min(...xs),
      top = Math.min(...ys);
    const size = Math.max(Math.max(...xs) - left, Math.max(...ys) - top);
    const scale = size > 0 ? (BOX - 2 * PEN) / size : 0;
    const fitted = strokes.map((stroke) => stroke.map(([x, y]) => [(x - left) * scale, (y - top) * scale]));

    let [sx, sy] = [(FINE - 1) / 2, (FINE - 1) / 2]; // first anywhere, then where the centre of mass is in the middle
    let ink = paint(fitted, PEN + 4, PEN + 4);
    let mass = 0,
      mx = 0,
      my = 0;
    ink.forEach((v, k) => {
      mass += v;
      mx += v * (k % FINE);
      my += v * Math.floor(k / FINE);
    });
    [sx, sy] = [sx - mx / mass, sy - my / mass];
    ink = paint(fitted, PEN + 4 + sx, PEN + 4 + sy);

    const out = new Uint8Array(SIDE * SIDE);
    for (let r = 0; r < SIDE; r++) {
      for (let c = 0; c < SIDE; c++) {
        const k = 2 * r * FINE + 2 * c;
        out[r * SIDE + c] = Math.round((15 * (ink[k] + ink[k + 1] + ink[k + FINE] + ink[k + FINE + 1])) / 4);
      }
    }
    return out;
  }

  /** A fine image, 0 to 1: ink within the pen's radius of a stroke, fading over one pixel. */
  function paint(strokes, dx, dy) {
    const ink = new Float64Array(FINE * FINE);
    for (const stroke of strokes) {
      for (let s = 0; s < stroke.length; s++) {
        const [x0, y0] = stroke[Math.max(0, s - 1)],
          [x1, y1] = stroke[s];
        const ux = x1 - x0,
          uy = y1 - y0,
          length = ux * ux + uy * uy;
        for (let k = 0; k < ink.length; k++) {
          const px = (k % FINE) - dx - x0,
            py = Math.floor(k / FINE) - dy - y0;
          const t = length > 0 ? Math.min(1, Math.max(0, (px * ux + py * uy) / length)) : 0;
          const distance = Math.hypot(px - t * ux, py - t * uy);
          ink[k] = Math.max(ink[k], Math.min(1, Math.max(0, PEN + 0.5 - distance)));
        }
      }
    }
    return ink;
  }

  return { SIDE, levels };
})();

if (typeof module !== "undefined") module.exports = Drawing;
