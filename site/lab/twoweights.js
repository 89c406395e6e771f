"use strict";
/* The model of notebook 00, which has two weights: a point x is a yes with probability sigmoid(theta . x - 4). No page
   in here either. A task is { x: [[x1, x2], ...], y: [-1 or 1, ...] }; theta is [theta1, theta2]. */

const TwoWeights = (() => {
  const THRESHOLD = 4,
    RATE = 0.15,
    STEPS = 1500;

  const sigmoid = (z) => 1 / (1 + Math.exp(-z));
  const evidence = ([t1, t2], [x1, x2]) => t1 * x1 + t2 * x2 - THRESHOLD;

  /** The mean of -log p(y | x), eq. (0.2). */
  function loss(theta, { x, y }) {
    return x.reduce((sum, point, n) => sum + Math.log1p(Math.exp(-y[n] * evidence(theta, point))), 0) / x.length;
  }

  function slope([t1, t2], { x, y }) {
    let g1 = 0,
      g2 = 0;
    for (let n = 0; n < x.length; n++) {
      const [x1, x2] = x[n];
      const push = -y[n] / (1 + Math.exp(y[n] * (t1 * x1 + t2 * x2 - THRESHOLD)));
      g1 += push * x1;
      g2 += push * x2;
    }
    return [g1 / x.length, g2 / x.length];
  }

  /** The share of points whose right answer gets more than one half. */
  function accuracy(theta, { x, y }) {
    return x.reduce((right, point, n) => right + (y[n] * evidence(theta, point) > 0), 0) / x.length;
  }

  /** F, eq. (0.4), as [F11, F12, F22]. */
  function fisher(theta, { x }) {
    const f = [0, 0, 0];
    for (const point of x) {
      const p = sigmoid(evidence(theta, point)),
        weight = (p * (1 - p)) / x.length;
      f[0] += weight * point[0] * point[0];
      f[1] += weight * point[0] * point[1];
      f[2] += weight * point[1] * point[1];
    }
    return f;
  }

  /** The walk down the loss of `task` plus 1/2 lambda d' F d, with d = theta - anchor, eq. (0.6). The springs take their
      step in closed form, theta = (1 + eta lambda F)^-1 (...), so that no lambda makes it jump. All 1,501 places. */
  function walk(task, anchor, f, lambda) {
    const k = RATE * lambda,
      m = [1 + k * f[0], k * f[1], 1 + k * f[2]],
      det = m[0] * m[2] - m[1] * m[1];
    const path = [anchor];
    let [t1, t2] = anchor;
    for (let s = 0; s < STEPS; s++) {
      const [g1, g2] = slope([t1, t2], task);
      const d1 = t1 - RATE * g1 - anchor[0],
        d2 = t2 - RATE * g2 - anchor[1];
      t1 = anchor[0] + (m[2] * d1 - m[1] * d2) / det;
      t2 = anchor[1] + (m[0] * d2 - m[1] * d1) / det;
      path.push([t1, t2]);
    }
    return path;
  }

  /** The ellipse where 1/2 d' F d = level: its first half-axis, in the direction of `angle`, along which F is steep or,
      where F has no off-diagonal, along theta1; and its second. */
  function ellipse([f11, f12, f22], level) {
    const half = (curvature) => Math.sqrt((2 * level) / Math.max(curvature, 1e-9));
    if (f12 === 0) return { first: half(f11), second: half(f22), angle: 0 };
    const middle = (f11 + f22) / 2,
      spread = Math.hypot((f11 - f22) / 2, f12);
    return { first: half(middle + spread), second: half(middle - spread), angle: 0.5 * Math.atan2(2 * f12, f11 - f22) };
  }

  /** The F of which that is the ellipse. */
  function fromEllipse({ first, second, angle }, level) {
    const a = (2 * level) / first ** 2,
      b = (2 * level) / second ** 2,
      c = Math.cos(angle),
      s = Math.sin(angle);
    return [a * c * c + b * s * s, (a - b) * c * s, a * s * s + b * c * c];
  }

  return { loss, slope, accuracy, fisher, walk, ellipse, fromEllipse, RATE, STEPS };
})();

if (typeof module !== "undefined") module.exports = TwoWeights;
