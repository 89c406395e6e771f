"use strict";
/* Asked by test_lab.py: reads one question as JSON from standard input, answers as JSON. */
const path = require("path");
const lab = path.join(__dirname, "..", "site", "lab");
const Network = require(path.join(lab, "network.js"));
const Drawing = require(path.join(lab, "drawing.js"));
const TwoWeights = require(path.join(lab, "twoweights.js"));

const set = ({ images, labels }) => ({ images: Uint8Array.from(images), labels: Uint8Array.from(labels) });

function measured(theta, data) {
  const sums = new Network.Fisher();
  const count = data.labels.length;
  for (let n = 0; n < count; n += 7) sums.add(theta, data.images, n, Math.min(count, n + 7));
  const factors = sums.kronecker(), diagonal = sums.diagonal();
  const bases = Network.finished(Network.eigenbases(factors));
  return {
    factors, diagonal,
    EWC: new Network.Diagonal(diagonal, theta),
    L2: new Network.Diagonal(Network.uniform(diagonal), theta),
    Kronecker: new Network.Kronecker(factors, theta, bases),
  };
}

function train(theta, data, batches, steps, eta, quadratic, lambda, every) {
  const gradient = new Float64Array(Network.SIZE);
  for (let s = 1; s <= steps; s++) {
    Network.gradientOf(theta, data, batches.next().value, gradient);
    Network.descend(theta, gradient, eta);
    if (quadratic && s % every === 0) quadratic.proximalStep(theta, lambda, every * eta);
  }
  return theta;
}

const answers = {
  /** Everything that the library computes, too, for one network, one set of images and one other place. */
  compared({ theta, other, data, batch, lambda, eta }) {
    const at = Float64Array.from(theta), away = Float64Array.from(other), images = set(data);
    const gradient = new Float64Array(Network.SIZE);
    const loss = Network.gradientOf(at, images, batch, gradient);
    const found = measured(at, images);
    const springs = {};
    for (const name of ["EWC", "L2", "Kronecker"]) {
      const pull = new Float64Array(Network.SIZE), step = away.slice();
      found[name].addGradient(away, lambda, pull);
      found[name].proximalStep(step, lambda, eta);
      springs[name] = { penalty: found[name].penalty(away, lambda), zero: found[name].penalty(at, lambda), pull: [...pull], step: [...step] };
    }
    return {
      loss, gradient: [...gradient], logits: [...Network.logitsOf(at, images.images, 3)], accuracy: Network.accuracy(at, images),
      diagonal: [...found.diagonal], factors: found.factors.map(({ a, g }) => ({ a: [...a], g: [...g] })), springs,
    };
  },

  /** Twenty steps, or however many batches there are. */
  walked({ theta, data, batches, lambda, eta, every, springs, old }) {
    const start = Float64Array.from(theta), quadratic = springs && measured(start, set(old))[springs];
    return [...train(start.slice(), set(data), batches[Symbol.iterator](), batches.length, eta, quadratic, lambda, every)];
  },

  /** The laboratory's own story, with its own seeds: accuracies after digits, and after clothes with each method. */
  story({ digits, clothes, tests, seed, steps, eta, every, size, lambdas }) {
    const task = { digits: set(digits), clothes: set(clothes) }, test = { digits: set(tests.digits), clothes: set(tests.clothes) };
    const count = task.digits.labels.length, accuracies = (theta) => [Network.accuracy(theta, test.digits), Network.accuracy(theta, test.clothes)];
    const order = (k) => Network.batches(count, size, Network.generator(1000 * seed + k));
    const star = train(Network.fresh(Network.generator(seed)), task.digits, order(1), steps[0], eta);
    const found = measured(star, task.digits), results = { digits: accuracies(star) };
    for (const [name, lambda] of Object.entries(lambdas)) {
      results[name] = accuracies(train(star.slice(), task.clothes, order(2), steps[1], eta, found[name], lambda, every));
    }
    return results;
  },

  drawn({ strokes }) {
    const levels = Drawing.levels(strokes);
    return levels && [...levels];
  },

  two({ tasks, theta, anchor, f, lambda, level }) {
    return {
      losses: tasks.map((task) => TwoWeights.loss(theta, task)), slopes: tasks.map((task) => TwoWeights.slope(theta, task)),
      accuracies: tasks.map((task) => TwoWeights.accuracy(theta, task)), fisher: TwoWeights.fisher(theta, tasks[0]),
      end: TwoWeights.walk(tasks[1], anchor, f, lambda).pop(), steps: TwoWeights.STEPS, rate: TwoWeights.RATE,
      back: TwoWeights.fromEllipse(TwoWeights.ellipse(f, level), level), ellipse: TwoWeights.ellipse(f, level),
    };
  },

  eigen({ matrix, n }) {
    const { values, vectors, transposed } = Network.finished(Network.eigen(Float64Array.from(matrix), n));
    return { values: [...values], vectors: [...vectors], transposed: [...transposed] };
  },
};

let text = "";
process.stdin.on("data", (chunk) => { text += chunk; });
process.stdin.on("end", () => {
  const { question, ...given } = JSON.parse(text);
  process.stdout.write(JSON.stringify(answers[question](given)));
});
