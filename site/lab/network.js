"use strict";
/* The network of the laboratory and everything that is computed with it. No page in here: node runs it, too, and
   tests/test_lab.py compares it there with the library contlearn, on the same weights and images.

   196 pixels -> 64 hidden units (ReLU) -> 10 logits. All 13,258 weights stand in one Float64Array `theta`. A layer
   with I inputs and O outputs is a matrix of I + 1 rows of O numbers: row i holds the weights that leave input i, and
   the last row the bias. An image is 196 grey levels from 0 to 15; a level v goes in as v / 5. */

const Network = (() => {
  const INPUTS = 196,
    HIDDEN = 64,
    CLASSES = 10,
    UNIT = 5;
  const SECOND = (INPUTS + 1) * HIDDEN; // where the second layer begins in theta
  const SIZE = SECOND + (HIDDEN + 1) * CLASSES;
  const LAYERS = [
    { name: "hidden", at: 0, inputs: INPUTS, outputs: HIDDEN },
    { name: "output", at: SECOND, inputs: HIDDEN, outputs: CLASSES },
  ];
  const VALUE = Float64Array.from({ length: 16 }, (_, level) => level / UNIT);

  /** Numbers in [0, 1), the same for the same seed on every machine (a 32-bit generator of the mulberry family). */
  function generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** Fresh weights and biases, uniform in +-1/sqrt(I): what torch.nn.Linear begins with. */
  function fresh(random) {
    const theta = new Float64Array(SIZE);
    for (const { at, inputs, outputs } of LAYERS) {
      const reach = 1 / Math.sqrt(inputs);
      for (let i = 0; i < (inputs + 1) * outputs; i++) theta[at + i] = reach * (2 * random() - 1);
    }
    return theta;
  }

  /** Endless batches of indices below n: each pass in an order of its own, an incomplete batch left out. */
  function* batches(n, size, random) {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (;;) {
      for (let i = n - 1; i > 0; i--) {
        const j = Math.floor(random() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
      for (let k = 0; k + size <= n; k += size) yield order.subarray(k, k + size);
    }
  }

  const hidden = new Float64Array(HIDDEN),
    back = new Float64Array(HIDDEN);
  const logits = new Float64Array(CLASSES),
    p = new Float64Array(CLASSES);

  /** Fill `hidden`, `logits` and `p` for the image that begins at `offset`. Black pixels cost nothing. */
  function forward(theta, images, offset) {
    const bias1 = INPUTS * HIDDEN,
      bias2 = SECOND + HIDDEN * CLASSES;
    for (let j = 0; j < HIDDEN; j++) hidden[j] = theta[bias1 + j];
    for (let i = 0; i < INPUTS; i++) {
      const level = images[offset + i];
      if (level === 0) continue;
      const a = VALUE[level],
        row = i * HIDDEN;
      for (let j = 0; j < HIDDEN; j++) hidden[j] += a * theta[row + j];
    }
    for (let c = 0; c < CLASSES; c++) logits[c] = theta[bias2 + c];
    for (let j = 0; j < HIDDEN; j++) {
      const a = hidden[j];
      if (!(a > 0)) {
        hidden[j] = 0;
        continue;
      }
      const row = SECOND + j * CLASSES;
      for (let c = 0; c < CLASSES; c++) logits[c] += a * theta[row + c];
    }
    let top = -Infinity,
      sum = 0;
    for (let c = 0; c < CLASSES; c++) if (logits[c] > top) top = logits[c];
    for (let c = 0; c < CLASSES; c++) sum += p[c] = Math.exp(logits[c] - top);
    for (let c = 0; c < CLASSES; c++) p[c] /= sum;
    return top + Math.log(sum); // so that log p_c = logits_c - this
  }

  /** The probabilities of the ten answers for one image of 196 grey levels. */
  function probabilities(theta, image) {
    forward(theta, image, 0);
    return Float64Array.from(p);
  }

  /** The logits of image n, ten numbers. */
  function logitsOf(theta, images, n) {
    forward(theta, images, n * INPUTS);
    return Float64Array.from(logits);
  }

  /** The share of images whose most likely answer is their label. */
  function accuracy(theta, { images, labels }) {
    let right = 0;
    for (let n = 0; n < labels.length; n++) {
      forward(theta, images, n * INPUTS);
      let best = 0;
      for (let c = 1; c < CLASSES; c++) if (logits[c] > logits[best]) best = c;
      if (best === labels[n]) right++;
    }
    return right / labels.length;
  }

  /** The gradient of the mean cross-entropy of a batch, into `gradient`; returns that mean, in nats. */
  function gradientOf(theta, { images, labels }, batch, gradient) {
    gradient.fill(0);
    let loss = 0;
    const bias1 = INPUTS * HIDDEN,
      bias2 = SECOND + HIDDEN * CLASSES;
    for (const n of batch) {
      const offset = n * INPUTS;
      loss += forward(theta, images, offset) - logits[labels[n]];
      p[labels[n]] -= 1; // p - e_y: the gradient with respect to the logits
      for (let c = 0; c < CLASSES; c++) gradient[bias2 + c] += p[c];
      for (let j = 0; j < HIDDEN; j++) {
        back[j] = 0;
        const a = hidden[j];
        if (a === 0) continue; // a ReLU that is off lets nothing back
        const row = SECOND + j * CLASSES;
        let sum = 0;
        for (let c = 0; c < CLASSES; c++) {
          gradient[row + c] += a * p[c];
          sum += p[c] * theta[row + c];
        }
        back[j] = sum;
        gradient[bias1 + j] += sum;
      }
      for (let i = 0; i < INPUTS; i++) {
        const level = images[offset + i];
        if (level === 0) continue;
        const a = VALUE[level],
          row = i * HIDDEN;
        for (let j = 0; j < HIDDEN; j++) gradient[row + j] += a * back[j];
      }
    }
    const share = 1 / batch.length;
    for (let i = 0; i < SIZE; i++) gradient[i] *= share;
    return loss * share;
  }

  /** theta <- theta - eta * gradient. */
  function descend(theta, gradient, eta) {
    for (let i = 0; i < SIZE; i++) theta[i] -= eta * gradient[i];
  }

  /** Sums for F, diagonal and Kronecker factors, of as many images as were added. */
  class Fisher {
    constructor() {
      this.count = 0;
      this.squares = new Float64Array(SIZE);
      this.factors = LAYERS.map(({ inputs, outputs }) => ({
        a: new Float64Array((inputs + 1) ** 2),
        g: new Float64Array(outputs ** 2),
      }));
    }

    /** Add images `from` to `to`, with the expectation over labels taken exactly.

        For label c, the gradient of log p_c is e_c - p at the logits; its covariance under p is M = diag(p) - p p'.
        At the hidden units it becomes W M W', with W the weights from there to the logits, where the ReLU is on. So
        the square for hidden unit j, averaged over labels, is the variance of its ten outgoing weights under p. */
    add(theta, images, from, to) {
      const [{ a: a1, g: g1 }, { a: a2, g: g2 }] = this.factors;
      const on = new Int32Array(INPUTS + 1),
        value = new Float64Array(INPUTS + 1);
      const centred = new Float64Array(HIDDEN * CLASSES),
        active = new Int32Array(HIDDEN);
      for (let n = from; n < to; n++) {
        forward(theta, images, n * INPUTS);
        let lit = 0;
        for (let i = 0; i < INPUTS; i++) {
          const level = images[n * INPUTS + i];
          if (level) {
            on[lit] = i;
            value[lit++] = VALUE[level];
          }
        }
        on[lit] = INPUTS;
        value[lit++] = 1; // the bias
        for (let x = 0; x < lit; x++) {
          const row = on[x] * (INPUTS + 1),
            v = value[x];
          for (let y = 0; y < lit; y++) a1[row + on[y]] += v * value[y];
        }

        let units = 0;
        back.fill(0);
        for (let j = 0; j < HIDDEN; j++) {
          if (hidden[j] === 0) continue;
          const row = SECOND + j * CLASSES;
          let mean = 0,
            variance = 0;
          for (let c = 0; c < CLASSES; c++) mean += p[c] * theta[row + c];
          for (let c = 0; c < CLASSES; c++) {
            const w = theta[row + c] - mean;
            centred[j * CLASSES + c] = w * Math.sqrt(p[c]);
            variance += p[c] * w * w;
          }
          back[j] = variance;
          active[units++] = j;
        }
        for (let x = 0; x < units; x++) {
          const j = active[x],
            row = j * HIDDEN;
          g1[row + j] += back[j];
          for (let y = 0; y < x; y++) {
            const k = active[y];
            let sum = 0;
            for (let c = 0; c < CLASSES; c++) sum += centred[j * CLASSES + c] * centred[k * CLASSES + c];
            g1[row + k] += sum;
            g1[k * HIDDEN + j] += sum;
          }
        }
        for (let x = 0; x < lit; x++) {
          const row = on[x] * HIDDEN,
            v = value[x] * value[x];
          for (let j = 0; j < HIDDEN; j++) this.squares[row + j] += v * back[j];
        }

        for (let x = 0; x <= units; x++) {
          const j = x < units ? active[x] : HIDDEN,
            v = x < units ? hidden[j] : 1;
          for (let y = 0; y <= units; y++) {
            const k = y < units ? active[y] : HIDDEN;
            a2[j * (HIDDEN + 1) + k] += v * (y < units ? hidden[k] : 1);
          }
          const row = SECOND + j * CLASSES;
          for (let c = 0; c < CLASSES; c++) this.squares[row + c] += v * v * p[c] * (1 - p[c]);
        }
        for (let c = 0; c < CLASSES; c++) {
          g2[c * CLASSES + c] += p[c];
          for (let k = 0; k < CLASSES; k++) g2[c * CLASSES + k] -= p[c] * p[k];
        }
      }
      this.count += to - from;
    }

    /** F_i, the mean over the images, laid out like theta. */
    diagonal() {
      return this.squares.map((sum) => sum / this.count);
    }

    /** A and G of each layer, means over the images. */
    kronecker() {
      return this.factors.map(({ a, g }) => ({ a: a.map((s) => s / this.count), g: g.map((s) => s / this.count) }));
    }
  }

  /** F with each entry replaced by the mean of all: what makes L2 of EWC. */
  function uniform(f) {
    return new Float64Array(f.length).fill(f.reduce((sum, x) => sum + x, 0) / f.length);
  }

  /** The springs of EWC and L2: 1/2 lambda sum_i F_i (theta_i - anchor_i)^2. */
  class Diagonal {
    constructor(f, anchor) {
      this.f = f;
      this.anchor = anchor;
    }

    penalty(theta, lambda) {
      let sum = 0;
      for (let i = 0; i < SIZE; i++) sum += this.f[i] * (theta[i] - this.anchor[i]) ** 2;
      return 0.5 * lambda * sum;
    }

    /** Add lambda F (theta - anchor) to `gradient`. */
    addGradient(theta, lambda, gradient) {
      for (let i = 0; i < SIZE; i++) gradient[i] += lambda * this.f[i] * (theta[i] - this.anchor[i]);
    }

    /** theta <- (theta + k F anchor) / (1 + k F), with k = eta lambda: stable for every lambda. */
    proximalStep(theta, lambda, eta) {
      const k = eta * lambda;
      for (let i = 0; i < SIZE; i++) {
        const pull = k * this.f[i];
        theta[i] += (pull / (1 + pull)) * (this.anchor[i] - theta[i]);
      }
    }
  }

  /** Springs that know of each other: 1/2 lambda tr(D' A D G) for each layer, D = theta - anchor, (I+1) x O. */
  class Kronecker {
    /** `bases` come from eigenbases(factors). */
    constructor(factors, anchor, bases) {
      this.factors = factors;
      this.anchor = anchor;
      this.bases = bases;
    }

    offset(theta, { at, inputs, outputs }) {
      const d = new Float64Array((inputs + 1) * outputs);
      for (let i = 0; i < d.length; i++) d[i] = theta[at + i] - this.anchor[at + i];
      return d;
    }

    penalty(theta, lambda) {
      let sum = 0;
      LAYERS.forEach((layer, l) => {
        const d = this.offset(theta, layer),
          pull = this.pull(d, layer, l);
        for (let i = 0; i < d.length; i++) sum += d[i] * pull[i];
      });
      return 0.5 * lambda * sum;
    }

    /** A D G. */
    pull(d, { inputs, outputs }, l) {
      const { a, g } = this.factors[l];
      return multiply(multiply(a, d, inputs + 1, inputs + 1, outputs), g, inputs + 1, outputs, outputs);
    }

    addGradient(theta, lambda, gradient) {
      LAYERS.forEach((layer, l) => {
        const pull = this.pull(this.offset(theta, layer), layer, l);
        for (let i = 0; i < pull.length; i++) gradient[layer.at + i] += lambda * pull[i];
      });
    }

    /** D <- Qa [(Qa' D Qg) / (1 + k a g')] Qg', with k = eta lambda and a, g the eigenvalues of A and G. */
    proximalStep(theta, lambda, eta) {
      const k = eta * lambda;
      if (k === 0) return;
      LAYERS.forEach((layer, l) => {
        const { at, inputs, outputs } = layer,
          rows = inputs + 1,
          { a, g } = this.bases[l];
        let d = multiply(a.transposed, this.offset(theta, layer), rows, rows, outputs);
        d = multiply(d, g.vectors, rows, outputs, outputs);
        for (let i = 0; i < rows; i++) {
          for (let j = 0; j < outputs; j++) d[i * outputs + j] /= 1 + k * a.values[i] * g.values[j];
        }
        d = multiply(multiply(a.vectors, d, rows, rows, outputs), g.transposed, rows, outputs, outputs);
        for (let i = 0; i < d.length; i++) theta[at + i] = this.anchor[at + i] + d[i];
      });
    }
  }

  /** The product of an n x m and an m x k matrix, row after row; zeros of the first cost nothing. */
  function multiply(x, y, n, m, k) {
    const out = new Float64Array(n * k);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < m; j++) {
        const v = x[i * m + j];
        if (v === 0) continue;
        for (let c = 0; c < k; c++) out[i * k + c] += v * y[j * k + c];
      }
    }
    return out;
  }

  function transpose(x, n) {
    const out = new Float64Array(n * n);
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) out[j * n + i] = x[i * n + j];
    return out;
  }

  /** Eigenvalues (not below zero) and eigenvectors (columns) of a symmetric matrix, by Jacobi's rotations: each turns
      two axes until their product vanishes, and all of them again until nothing is left. Yields now and then. */
  function* eigen(symmetric, n) {
    const m = Float64Array.from(symmetric),
      q = new Float64Array(n * n); // q: eigenvectors as rows, while it turns
    let size = 0;
    for (let i = 0; i < n; i++) q[i * n + i] = 1;
    for (const x of m) size += x * x;
    for (let sweep = 0; sweep < 30; sweep++) {
      let rest = 0;
      for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) rest += 2 * m[i * n + j] ** 2;
      if (rest <= 1e-26 * size) break;
      const small = (1e-3 * Math.sqrt(rest)) / n;
      for (let i = 0; i < n - 1; i++) {
        for (let j = i + 1; j < n; j++) {
          const off = m[i * n + j];
          if (Math.abs(off) <= small) continue;
          const half = (m[j * n + j] - m[i * n + i]) / (2 * off);
          const t = (half < 0 ? -1 : 1) / (Math.abs(half) + Math.hypot(half, 1)); // tangent of the smaller angle
          const cos = 1 / Math.hypot(t, 1),
            sin = t * cos;
          for (let k = 0; k < n; k++) {
            // rows i and j
            const x = m[i * n + k],
              y = m[j * n + k];
            m[i * n + k] = cos * x - sin * y;
            m[j * n + k] = sin * x + cos * y;
            const u = q[i * n + k],
              v = q[j * n + k];
            q[i * n + k] = cos * u - sin * v;
            q[j * n + k] = sin * u + cos * v;
          }
          for (let k = 0; k < n; k++) {
            // columns i and j
            const x = m[k * n + i],
              y = m[k * n + j];
            m[k * n + i] = cos * x - sin * y;
            m[k * n + j] = sin * x + cos * y;
          }
        }
        yield;
      }
    }
    const values = Float64Array.from({ length: n }, (_, i) => Math.max(0, m[i * n + i]));
    return { values, vectors: transpose(q, n), transposed: q };
  }

  /** The eigenbases of all factors; a generator, so that a page can breathe. */
  function* eigenbases(factors) {
    const bases = [];
    for (const [l, { a, g }] of factors.entries()) {
      const { inputs, outputs } = LAYERS[l];
      bases.push({ a: yield* eigen(a, inputs + 1), g: yield* eigen(g, outputs) });
    }
    return bases;
  }

  /** Run a generator to its end. */
  function finished(generator) {
    for (;;) {
      const { done, value } = generator.next();
      if (done) return value;
    }
  }

  return {
    INPUTS,
    HIDDEN,
    CLASSES,
    SECOND,
    SIZE,
    LAYERS,
    Fisher,
    Diagonal,
    Kronecker,
    generator,
    fresh,
    batches,
    probabilities,
    logitsOf,
    accuracy,
    gradientOf,
    descend,
    uniform,
    eigen,
    eigenbases,
    finished,
  };
})();

if (typeof module !== "undefined") module.exports = Network;
