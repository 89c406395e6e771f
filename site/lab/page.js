"use strict";
/* What the reader sees and touches. All mathematics is in network.js, drawing.js and twoweights.js. */

(() => {
  const DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
  const CLOTHES = [
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
  ];
  const TRAIN = 12800,
    TEST = 1000,
    BATCH = 32,
    ETA = 0.1,
    EVERY = 10,
    STEPS_A = 2000,
    STEPS_B = 1200;
  const LAMBDAS = [0, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 3000];
  const METHODS = { unprotected: "none", L2: "L2", EWC: "EWC", Kronecker: "Kronecker factors" };
  const PER_SECOND = { slow: 15, normal: 240 }; // steps; "fast" takes what it gets
  const SIDE = 14,
    PIXELS = SIDE * SIDE;

  const { $, percent, colour, say, draw, sized, MARKS } = Tools;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const few = (x) => (x < 0.01 ? `${(100 * x).toFixed(1)} %` : `${Math.round(100 * x)} %`);
  const whole = (n) => n.toLocaleString("en");

  function tell(id, html, aloud = true) {
    $(id).hidden = false;
    $(id).innerHTML = html;
    if (aloud) say($(id).textContent);
  }

  // ---- the images ---------------------------------------------------------------------------------------------------

  let train, test; // each { digits: { images, labels }, clothes: … }

  async function unpack() {
    const packed = Uint8Array.from(atob($("images").textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    $("images").remove();
    const numbers = new Uint8Array(2 * bytes.length);
    bytes.forEach((byte, k) => {
      numbers[2 * k] = byte >> 4;
      numbers[2 * k + 1] = byte & 15;
    });
    const sizes = [TRAIN, TRAIN, TEST, TEST],
      total = sizes.reduce((a, b) => a + b);
    let at = 0;
    const parts = sizes.map((size) => {
      const part = {
        images: numbers.subarray(at * PIXELS, (at + size) * PIXELS),
        labels: numbers.subarray(total * PIXELS + at, total * PIXELS + at + size),
      };
      at += size;
      return part;
    });
    train = { digits: parts[0], clothes: parts[1] };
    test = { digits: parts[2], clothes: parts[3] };
  }

  // ---- the network and its training ---------------------------------------------------------------------------------

  const gradient = new Float64Array(Network.SIZE);
  let seed = 1;
  let theta; // all weights, now
  let star = null; // where the digits left them
  let fisher = null; // { diagonal, uniform, kronecker, needy } at star
  let run = null; // the training that goes on, or was the last
  let digitsRun = null; // the history up to star
  let kept = []; // one entry for each finished run on clothes
  let running = false;
  let method = "EWC",
    lambda = 0;
  let guess = null;

  function begin(task, springs = "unprotected") {
    const random = Network.generator(1000 * seed + (task === "digits" ? 1 : 2));
    run = {
      task,
      springs,
      step: 0,
      until: task === "digits" ? STEPS_A : STEPS_B,
      history: [],
      lambdas: [lambda],
      loss: NaN,
      order: Network.batches(TRAIN, BATCH, random),
      quadratic: springs === "unprotected" ? null : quadratic(springs),
    };
    note();
  }

  function quadratic(springs) {
    if (springs === "Kronecker") return fisher.kronecker;
    return new Network.Diagonal(springs === "L2" ? fisher.uniform : fisher.diagonal, star);
  }

  /** Measure both accuracies, and keep them. */
  function note() {
    run.history.push({
      step: run.step,
      digits: Network.accuracy(theta, test.digits),
      clothes: Network.accuracy(theta, test.clothes),
    });
  }

  const latest = () => run.history[run.history.length - 1];

  function trainStep() {
    const batch = run.order.next().value;
    run.loss = Network.gradientOf(theta, train[run.task], batch, gradient);
    Network.descend(theta, gradient, ETA);
    run.step += 1;
    if (run.quadratic && run.step % EVERY === 0) run.quadratic.proximalStep(theta, lambda, EVERY * ETA);
    const s = run.step;
    if (s % (s <= 20 ? 2 : s <= 200 ? 10 : s <= 600 ? 25 : 50) === 0) note();
    if (s === run.until) finish();
  }

  let before = 0,
    drawn = 0,
    owed = 0,
    clock = { at: 0, steps: 0, rate: 0 };

  function frame(now) {
    if (!running) return;
    const speed = $("speed").value;
    const elapsed = Math.min(100, now - before);
    before = now;
    if (speed === "fast" || calm.matches) owed = Infinity;
    else {
      const ramp = speed === "normal" ? 0.12 + 0.88 * Math.min(1, run.step / 150) : 1; // the first steps matter most
      owed = Math.min(owed === Infinity ? 0 : owed, 20) + (PER_SECOND[speed] * ramp * elapsed) / 1000;
    }
    const end = performance.now() + (speed === "fast" ? 14 : 10);
    while (running && owed >= 1 && performance.now() < end) {
      trainStep();
      owed -= 1;
      clock.steps += 1;
    }
    if (now - clock.at > 500) {
      clock.rate = (1000 * clock.steps) / (now - clock.at);
      clock = { at: now, steps: 0, rate: clock.rate };
    }
    if (now - drawn > (calm.matches ? 2000 : speed === "fast" ? 60 : 0)) {
      drawn = now;
      refresh();
    }
    if (running) next();
  }

  /** The next frame; where nothing should move, there is no need to wait for one. */
  function next() {
    if (calm.matches) setTimeout(() => frame(performance.now()), 0);
    else requestAnimationFrame(frame);
  }

  function start() {
    if (running) return;
    running = true;
    before = performance.now();
    clock = { at: before, steps: 0, rate: clock.rate };
    owed = 0;
    next();
    controls();
  }

  function pause() {
    running = false;
    refresh();
    controls();
  }

  function finish() {
    if (latest().step !== run.step) note();
    running = false;
    const { digits, clothes } = latest();
    if (run.task === "digits") {
      star = theta.slice();
      digitsRun = run;
      tell(
        "told-digits",
        `It reads <b>${percent(digits)}</b> of 1,000 digits that it has never seen. Of clothes it knows
        nothing: ${percent(clothes)}.`,
      );
    } else if (run.step === STEPS_B) {
      keep(digits, clothes);
    } else {
      say(`After ${whole(run.step)} steps of clothes: digits ${percent(digits)}, clothes ${percent(clothes)}.`);
    }
    refresh();
    controls();
  }

  /** A run on clothes is over: into the table with it. */
  function keep(digits, clothes) {
    const springs = run.springs,
      lost = latestStar().digits - digits;
    const same = (r) =>
      r.springs === springs &&
      r.digits === digits &&
      r.clothes === clothes &&
      String(r.lambdas) === String(run.lambdas);
    kept = kept.filter((r) => !same(r)); // the same run once more
    kept.push({
      springs,
      lambdas: run.lambdas.slice(),
      digits,
      clothes,
      end: theta.slice(),
      history: run.history.slice(),
    });
    const result = `digits <b>${percent(digits)}</b>, clothes <b>${percent(clothes)}</b>`;
    if (springs === "unprotected" && guess !== null && !run.fromFour) {
      tell(
        "told-clothes",
        `You said ${guess}. Of 100 digits it still reads <b>${Math.round(100 * digits)}</b>; clothes
        it knows to ${percent(clothes)}. This is <em>catastrophic forgetting</em>. Not one step was meant to harm a digit:
        the clothes just moved every weight to where it suits them.${renamed()}`,
      );
    } else {
      const at = springs === "unprotected" ? "" : ` at λ = ${run.lambdas.join(" → ")}`;
      const verdict = springs === "unprotected" ? "Without springs" : `${METHODS[springs]}${at}`;
      tell(
        "told-ewc",
        `${verdict}: ${result}. The clothes cost <b>${Math.max(0, 100 * lost).toFixed(1)}</b> points of
        digits${comparison(clothes)}.`,
      );
    }
    table();
    trade();
  }

  /** What has become of the drawing. */
  function renamed() {
    if (!pad.levels) return "";
    const [was, is] = [star, theta].map((weights) => {
      const p = Array.from(Network.probabilities(weights, pad.levels));
      return p.indexOf(Math.max(...p));
    });
    return was === is
      ? ` Your drawing still gets answer ${is}, which is ${DIGITS[is]} and ${CLOTHES[is]}: now clear it, and try another.`
      : ` Your drawing was read as <b>${DIGITS[was]}</b>. Now it is called <b>${CLOTHES[is]}</b>.`;
  }

  function comparison(clothes) {
    const free = freeRun();
    if (!free || run.springs === "unprotected") return "";
    const cost = 100 * (latestStar().digits - free.digits),
      behind = 100 * (free.clothes - clothes);
    const away = behind >= 0 ? `${behind.toFixed(1)} points behind` : `${(-behind).toFixed(1)} points ahead of`;
    return `, where the unprotected run lost ${cost.toFixed(1)}; at clothes it is ${away} that run`;
  }

  const freeRun = () => kept.filter((r) => r.springs === "unprotected").pop();
  const latestStar = () => digitsRun.history[digitsRun.history.length - 1];

  /** For each pixel, the root of the mean square of how far its 64 weights have moved since the digits. */
  function moved(to) {
    return perPixel((k) => (to[k] - star[k]) ** 2).map(Math.sqrt);
  }

  function perPixel(of) {
    return Float64Array.from({ length: PIXELS }, (_, i) => {
      let sum = 0;
      for (let j = 0; j < Network.HIDDEN; j++) sum += of(i * Network.HIDDEN + j);
      return sum / Network.HIDDEN;
    });
  }

  /** Of all squared movement, the share in the tenth of the weights that has the largest F. */
  function needyShare(to) {
    let all = 0,
      needy = 0;
    for (let k = 0; k < Network.SIZE; k++) {
      const square = (to[k] - star[k]) ** 2;
      all += square;
      if (fisher.needy[k]) needy += square;
    }
    return all > 0 ? needy / all : 0;
  }

  // ---- what the buttons do ------------------------------------------------------------------------------------------

  function newNetwork() {
    running = false;
    theta = Network.fresh(Network.generator(seed));
    star = fisher = digitsRun = null;
    kept = [];
    begin("digits");
    for (const id of ["told-digits", "told-clothes", "told-fisher", "told-ewc", "fisher-block", "moved-block"])
      $(id).hidden = true;
    table();
    trade();
    refresh();
    controls();
  }

  function learnDigits() {
    if (running) {
      pause();
      return;
    }
    if (star) {
      seed += 1;
      newNetwork();
    }
    say("Learning digits.");
    start();
  }

  function toStar() {
    running = false;
    theta = star.slice();
    run = digitsRun;
    refresh();
    controls();
  }

  function learnClothes(springs, fromFour) {
    if (running && run.task === "clothes" && run.springs === springs) {
      pause();
      return;
    }
    if (
      !running &&
      run.task === "clothes" &&
      run.springs === springs &&
      run.step < run.until &&
      run.fromFour === fromFour
    ) {
      start();
      return;
    }
    toStar();
    begin("clothes", springs);
    run.fromFour = fromFour;
    if (fromFour) $("told-ewc").hidden = true;
    else $("told-clothes").hidden = true;
    say(
      springs === "unprotected" ? "Learning clothes, without springs." : `Learning clothes with ${METHODS[springs]}.`,
    );
    start();
  }

  function secondStation() {
    if (!(running && run.task === "clothes")) guess = Number($("guess").value);
    learnClothes("unprotected", false);
  }

  let measuring = false;

  async function measure() {
    if (measuring) return;
    measuring = true;
    toStar();
    controls();
    $("fisher-block").hidden = false;
    say("Measuring F.");
    const sums = new Network.Fisher();
    const pace = calm.matches || $("speed").value === "fast" ? 1600 : 160; // images a frame
    while (sums.count < TRAIN) {
      sums.add(star, train.digits.images, sums.count, Math.min(TRAIN, sums.count + pace));
      fisher = { diagonal: sums.diagonal() };
      if (!calm.matches || sums.count === TRAIN) drawFisher(sums.count);
      await breath();
    }
    const factors = sums.kronecker();
    $("status").textContent = "Kronecker factors: finding their eigenvectors …";
    const search = Network.eigenbases(factors);
    let found = search.next();
    while (!found.done) {
      const end = performance.now() + 12;
      while (!found.done && performance.now() < end) found = search.next();
      await breath();
    }
    const f = fisher.diagonal,
      order = Float64Array.from(f).sort();
    const threshold = order[Math.floor(0.9 * order.length)];
    fisher = {
      diagonal: f,
      uniform: Network.uniform(f),
      needy: f.map((x) => x > threshold),
      kronecker: new Network.Kronecker(factors, star, found.value),
    };
    const total = f.reduce((a, b) => a + b);
    let sum = 0,
      count = 0;
    while (sum < total / 2) sum += order[order.length - 1 - count++];
    const where = document.querySelector("input[name=where]:checked");
    const verdict = where
      ? {
          edge: "You said at the edge: no. ",
          middle: "You said in the middle: so it is. ",
          alike: "You said everywhere alike: no. ",
        }[where.value]
      : "";
    const dead = perPixel((k) => f[k]).filter((x) => x === 0).length;
    tell(
      "told-fisher",
      `${verdict}Half of all F sits in <b>${((100 * count) / f.length).toFixed(1)} %</b> of the weights. The weights of
      <b>${dead}</b> pixels that are black in every digit have an F of exactly 0: clothes may do with them what they like.`,
    );
    measuring = false;
    drawFisher(TRAIN);
    refresh();
    controls();
    table();
  }

  const breath = () => new Promise((done) => (calm.matches ? setTimeout(done, 0) : requestAnimationFrame(done)));

  function chooseMethod(name, tellIt = true) {
    method = name;
    const words = {
      unprotected: "No springs: the run of station 2 again.",
      L2: "Every weight gets the same spring, as stiff as the mean of F. Predict: will it keep as many digits as EWC?",
      EWC: "Each weight gets a spring as stiff as its own F: the diagonal of the matrix F.",
      Kronecker:
        "Springs between weights of a layer, too: the matrix F of each layer as the product of two small ones. The valley may lean.",
    };
    $("method-said").textContent = words[name];
    $("lambda").disabled = name === "unprotected";
    if (name !== "unprotected" && tellIt) setLambda(RESULTS.chosen[name]);
    if (running && run.task === "clothes" && run.fromFour) pause();
    controls();
  }

  function setLambda(value) {
    lambda = value;
    $("lambda").value = LAMBDAS.indexOf(value);
    showLambda();
  }

  function showLambda() {
    $("lambda-value").textContent = whole(lambda);
    $("lambda").setAttribute("aria-valuetext", `λ = ${lambda}`);
  }

  function controls() {
    const ready = train !== undefined && !measuring;
    const onDigits = run && run.task === "digits",
      onClothes = run && run.task === "clothes";
    const busyDigits = running && onDigits;
    $("learn-digits").disabled = !ready || (running && onClothes);
    $("learn-digits").textContent = busyDigits
      ? "Pause"
      : star
        ? "Once more, from new random weights"
        : run && run.step
          ? "Go on learning digits"
          : "Learn digits";
    $("learn-digits").classList.toggle("main", !star);
    const free = onClothes && run.springs === "unprotected" && !run.fromFour;
    $("learn-clothes").disabled = !ready || !star || (running && !free);
    $("learn-clothes").textContent =
      running && free
        ? "Pause"
        : free && run.step < run.until && run.step
          ? "Go on learning clothes"
          : `I say ${$("guess").value}. Learn clothes`;
    $("rewind").disabled = !ready || !star || busyDigits || run === digitsRun;
    $("measure").disabled = !ready || !star || busyDigits;
    $("measure").textContent = measuring ? "Measuring …" : "Measure F";
    const measured = fisher && fisher.kronecker && !measuring;
    const four = onClothes && run.fromFour;
    const possible = ready && star && (measured || method === "unprotected");
    $("learn-ewc").disabled = !possible || (running && !four);
    const how =
      method === "unprotected"
        ? "without springs"
        : method === "Kronecker"
          ? "with Kronecker factors"
          : `with ${method}`;
    $("learn-ewc").textContent =
      running && four
        ? "Pause"
        : four && run.springs === method && run.step && run.step < run.until
          ? "Go on"
          : `Learn clothes ${how}`;
    $("more").disabled = !ready || running || !four || run.step < run.until;
    for (const id of ["needs-2", "needs-3"]) $(id).hidden = Boolean(star);
    $("needs-4").hidden = Boolean(possible);
    $("needs-4").textContent = star ? "F has to be measured first." : "It has to read digits first.";
    $("run").disabled = $("one").disabled = !ready || !run || (run.step >= run.until && !running);
    $("one").disabled = $("one").disabled || running;
    $("run").textContent = running ? "Pause" : "Run";
    $("again").disabled = !ready || running;
  }

  // ---- the bench ----------------------------------------------------------------------------------------------------

  function refresh() {
    if (!run) return;
    const { digits, clothes } = latest();
    $("digits").textContent = percent(digits);
    $("clothes").textContent = percent(clothes);
    const task =
      run.task === "digits"
        ? "digits"
        : `clothes, ${run.springs === "unprotected" ? "no springs" : `${METHODS[run.springs]}, λ = ${lambda}`}`;
    let text = `${task}: step ${whole(run.step)} of ${whole(run.until)}`;
    if (run.quadratic) text += ` · penalty ${run.quadratic.penalty(theta, lambda).toFixed(3)}`;
    else if (run.step) text += ` · loss ${run.loss.toFixed(2)}`;
    if (running && clock.rate) text += ` · ${Math.round(clock.rate)} steps a second`;
    $("status").textContent = text;
    chart();
    answers();
    if (fisher && fisher.kronecker && star) {
      if (run.task === "clothes") movedMaps();
      if (document.querySelector("input[name=view]:checked").value !== "fisher") drawUnits();
    }
  }

  function chart() {
    const svg = $("chart"),
      [width, height] = sized(svg);
    if (!width) return;
    const left = 38,
      right = 14,
      top = 8,
      bottom = 22;
    const clothesSteps = Math.max(STEPS_B, run.task === "clothes" ? run.until : 0);
    const total = STEPS_A + clothesSteps;
    const x = (s) => left + ((width - left - right) * s) / total,
      y = (a) => top + (height - top - bottom) * (1 - a);
    for (const a of [0, 0.5, 1]) {
      draw(svg, "line", { x1: left, x2: width - right, y1: y(a), y2: y(a), class: "grid-line" });
      draw(
        svg,
        "text",
        { x: left - 6, y: y(a) + 4, "text-anchor": "end", "font-size": 11, class: "soft" },
        a === 1 ? "100 %" : `${100 * a}`,
      );
    }
    draw(svg, "line", {
      x1: x(STEPS_A),
      x2: x(STEPS_A),
      y1: top,
      y2: height - bottom,
      stroke: colour("soft"),
      "stroke-dasharray": "2 3",
    });
    const base = height - 6;
    draw(
      svg,
      "text",
      { x: x(STEPS_A / 2), y: base, "text-anchor": "middle", "font-size": 11.5, class: "soft" },
      `${whole(STEPS_A)} steps of digits`,
    );
    draw(
      svg,
      "text",
      { x: x(STEPS_A + clothesSteps / 2), y: base, "text-anchor": "middle", "font-size": 11.5, class: "soft" },
      width < 420 ? `${whole(clothesSteps)} of clothes` : `${whole(clothesSteps)} steps of clothes`,
    );

    const line = (history, shift, which, style) =>
      draw(svg, "path", {
        d: history.map((h, i) => `${i ? "L" : "M"}${x(h.step + shift).toFixed(1)} ${y(h[which]).toFixed(1)}`).join(""),
        fill: "none",
        stroke: colour(which),
        "stroke-linejoin": "round",
        ...style,
      });
    for (const old of kept.slice(-6)) {
      if (old.history === run.history) continue;
      for (const which of ["clothes", "digits"])
        line(old.history, STEPS_A, which, { "stroke-width": 1.2, opacity: 0.5 });
    }
    const first = digitsRun || run;
    for (const which of ["clothes", "digits"]) line(first.history, 0, which, { "stroke-width": 2.2 });
    if (run.task === "clothes")
      for (const which of ["clothes", "digits"]) line(run.history, STEPS_A, which, { "stroke-width": 2.6 });
    const now = latest(),
      at = run.step + (run.task === "clothes" ? STEPS_A : 0);
    for (const which of ["clothes", "digits"])
      draw(svg, "circle", {
        cx: x(at),
        cy: y(now[which]),
        r: 4,
        fill: colour(which),
        stroke: colour("card"),
        "stroke-width": 1.5,
      });
    if (guess !== null) {
      const gx = x(STEPS_A + STEPS_B),
        gy = y(guess / 100);
      draw(svg, "circle", { cx: gx, cy: gy, r: 5, fill: "none", stroke: colour("digits"), "stroke-width": 2 });
      draw(
        svg,
        "text",
        {
          x: gx - 9,
          y: gy + (gy < 24 ? 14 : -6),
          "text-anchor": "end",
          "font-size": 11.5,
          class: "haloed",
          style: `fill:${colour("digits-text")}`,
        },
        "your guess",
      );
    }
    svg.setAttribute(
      "aria-label",
      `Accuracy against training steps. Now digits ${percent(now.digits)}, clothes ${percent(now.clothes)}, after ${run.step} steps of ${run.task}.` +
        (digitsRun && run.task === "clothes"
          ? ` Before the clothes digits were at ${percent(latestStar().digits)}.`
          : ""),
    );
  }

  // ---- the drawing --------------------------------------------------------------------------------------------------

  const pad = {
    strokes: [],
    levels: null,
    image: null,
    pen: [0.5, 0.2],
    down: false,
    keyboard: false,
    shown: 0,
    worn: 0,
  };

  function paintLevels(canvas, levels) {
    canvas.width = canvas.height = SIDE;
    const context = canvas.getContext("2d"),
      image = context.createImageData(SIDE, SIDE);
    for (let k = 0; k < PIXELS; k++) image.data.set([17 * levels[k], 17 * levels[k], 17 * levels[k], 255], 4 * k);
    context.putImageData(image, 0, 0);
  }

  function drawPad() {
    const canvas = $("pad"),
      size = 400;
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, size, size);
    if (pad.image) {
      const cell = size / SIDE;
      for (let k = 0; k < PIXELS; k++) {
        const v = 17 * pad.image[k];
        context.fillStyle = `rgb(${v},${v},${v})`;
        context.fillRect((k % SIDE) * cell, Math.floor(k / SIDE) * cell, cell + 0.5, cell + 0.5);
      }
    }
    context.strokeStyle = context.fillStyle = "#fff";
    context.lineWidth = size / 12;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of pad.strokes) {
      context.beginPath();
      stroke.forEach(([x, y], i) => (i ? context.lineTo(x * size, y * size) : context.moveTo(x * size, y * size)));
      if (stroke.length === 1) context.lineTo(stroke[0][0] * size + 0.1, stroke[0][1] * size);
      context.stroke();
    }
    if (pad.keyboard) {
      const [x, y] = [pad.pen[0] * size, pad.pen[1] * size];
      context.lineWidth = 4;
      context.strokeStyle = pad.down ? "#d55e00" : "#56b4e9";
      context.beginPath();
      context.arc(x, y, size / 22, 0, 2 * Math.PI);
      context.moveTo(x - 10, y);
      context.lineTo(x + 10, y);
      context.moveTo(x, y - 10);
      context.lineTo(x, y + 10);
      context.stroke();
    }
    pad.levels = pad.image || Drawing.levels(pad.strokes);
    paintLevels($("thumb"), pad.levels || new Uint8Array(PIXELS));
    answers();
  }

  const rows = [];

  function makeAnswers() {
    DIGITS.forEach((name, c) => {
      const row = document.createElement("li");
      row.innerHTML = `<span class="label">${c} <span class="digits">${name}</span> <span class="clothes">${CLOTHES[c]}</span></span><span class="bar"><i></i></span><span class="share"></span>`;
      $("answers").append(row);
      rows.push(row);
    });
  }

  const dressed = () => run && run.task === "clothes" && run.step > 0;

  function verdictOf(p) {
    const best = p.indexOf(Math.max(...p));
    return { best, text: dressed() ? `${CLOTHES[best]} or ${DIGITS[best]}` : DIGITS[best] };
  }

  function answers() {
    if (!theta || !rows.length) return;
    const p = pad.levels && Array.from(Network.probabilities(theta, pad.levels));
    const best = p ? verdictOf(p).best : -1;
    rows.forEach((row, c) => {
      row.classList.toggle("top", c === best);
      row.querySelector("i").style.width = p ? `${100 * p[c]}%` : "0";
      row.querySelector(".share").textContent = p ? `${Math.round(100 * p[c])} %` : "";
    });
    $("verdict").textContent = p ? verdictOf(p).text : "nothing";
    $("verdict-name").textContent = p ? `answer ${best}` : "drawn";
  }

  function sayVerdict(prefix) {
    if (!pad.levels) {
      $("pad-said").textContent = `${prefix} The pad is empty.`;
      return;
    }
    const p = Array.from(Network.probabilities(theta, pad.levels)),
      { best, text } = verdictOf(p);
    $("pad-said").textContent = `${prefix} The network answers ${text}, with ${Math.round(100 * p[best])} percent.`;
  }

  function fromTest(task) {
    const count = task === "digits" ? pad.shown++ : pad.worn++,
      n = (576 + 37 * count) % TEST; // the first digit is a three that any network loses
    pad.strokes = [];
    pad.keyboard = false;
    pad.image = test[task].images.slice(n * PIXELS, (n + 1) * PIXELS);
    drawPad();
    const label = test[task].labels[n];
    return `A test image: its label is ${task === "digits" ? DIGITS[label] : CLOTHES[label]}.`;
  }

  function padEvents() {
    const canvas = $("pad");
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    const begun = () => {
      if (pad.image) {
        pad.image = null;
        pad.strokes = [];
      }
    };
    canvas.addEventListener("pointerdown", (event) => {
      begun();
      pad.keyboard = pad.down = false;
      canvas.setPointerCapture(event.pointerId);
      pad.strokes.push([place(event)]);
      pad.pointer = event.pointerId;
      drawPad();
      event.preventDefault();
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      if (pad.pointer !== event.pointerId) return;
      const more = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const one of more.length ? more : [event]) pad.strokes[pad.strokes.length - 1].push(place(one));
      drawPad();
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, () => {
        if (pad.pointer !== undefined) sayVerdict("Drawn.");
        pad.pointer = undefined;
      });
    }
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key in moves) {
        pad.keyboard = true;
        pad.pen = pad.pen.map((v, axis) => Math.min(0.95, Math.max(0.05, v + moves[event.key][axis] / SIDE)));
        if (pad.down) pad.strokes[pad.strokes.length - 1].push(pad.pen.slice());
        const [column, row] = pad.pen.map((v) => 1 + Math.floor(v * SIDE));
        $("pad-said").textContent = `row ${row}, column ${column}`;
      } else if (event.key === " ") {
        pad.keyboard = true;
        pad.down = !pad.down;
        if (pad.down) {
          begun();
          pad.strokes.push([pad.pen.slice()]);
          $("pad-said").textContent = "Pen down.";
        } else sayVerdict("Pen up.");
      } else if (event.key === "Delete" || event.key === "Backspace") {
        clearPad();
      } else return;
      event.preventDefault();
      drawPad();
    });
    canvas.addEventListener("blur", () => {
      pad.keyboard = pad.down = false;
      drawPad();
    });
    $("pad-clear").addEventListener("click", () => {
      clearPad();
      sayVerdict("Cleared.");
    });
    $("pad-digit").addEventListener("click", () => sayVerdict(fromTest("digits")));
    $("pad-clothing").addEventListener("click", () => sayVerdict(fromTest("clothes")));
  }

  function clearPad() {
    pad.strokes = [];
    pad.image = null;
    pad.down = false;
    drawPad();
  }

  // ---- F and movement -----------------------------------------------------------------------------------------------

  function mix(from, to, share) {
    return from.map((v, k) => Math.round(v + (to[k] - v) * share));
  }

  function rgb(name) {
    const hex = colour(name).replace("#", "");
    return [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
  }

  /** A 14 x 14 map: the larger a value, the more of the colour. */
  function heat(canvas, values, tone, top, power = 0.5) {
    canvas.width = canvas.height = SIDE;
    const context = canvas.getContext("2d"),
      image = context.createImageData(SIDE, SIDE);
    const from = rgb("card"),
      to = rgb(tone),
      most = top || Math.max(...values) || 1;
    values.forEach((v, k) => image.data.set([...mix(from, to, Math.min(1, v / most) ** power), 255], 4 * k));
    context.putImageData(image, 0, 0);
  }

  function drawFisher(count) {
    heat(
      $("map-fisher"),
      perPixel((k) => fisher.diagonal[k]),
      "digits",
    );
    drawUnits();
    layers();
    $("status").textContent = `F of ${whole(count)} of ${whole(TRAIN)} digits`;
  }

  /** Eight by eight tiles, one for each hidden unit, of 14 x 14 weights each. */
  function drawUnits() {
    const canvas = $("map-units"),
      cell = SIDE + 1,
      side = 8 * cell - 1;
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"),
      image = context.createImageData(side, side);
    const view = document.querySelector("input[name=view]:checked").value;
    const value = {
      fisher: (k) => fisher.diagonal[k],
      weights: (k) => theta[k],
      moved: (k) => Math.abs(theta[k] - star[k]),
    }[view];
    let top = 1e-12;
    for (let k = 0; k < PIXELS * Network.HIDDEN; k++) top = Math.max(top, Math.abs(value(k)));
    const from = rgb("card"),
      gap = rgb("line"),
      to = rgb({ fisher: "digits", weights: "ink", moved: "clothes" }[view]),
      minus = rgb("joint");
    for (let py = 0; py < side; py++) {
      for (let px = 0; px < side; px++) {
        const r = py % cell,
          c = px % cell,
          unit = 8 * Math.floor(py / cell) + Math.floor(px / cell);
        let tone = gap;
        if (r < SIDE && c < SIDE) {
          const v = value((r * SIDE + c) * Network.HIDDEN + unit) / top;
          tone = mix(from, v < 0 ? minus : to, Math.sqrt(Math.abs(v)));
        }
        image.data.set([...tone, 255], 4 * (py * side + px));
      }
    }
    context.putImageData(image, 0, 0);
    $("units-caption").textContent = {
      fisher: "F of all 12,544 weights of the first layer, a tile for each of the 64 hidden units",
      weights:
        "All 12,544 weights of the first layer, a tile for each hidden unit: positive dark or light, negative purple",
      moved: "How far each weight has moved since the digits were learnt, a tile for each hidden unit",
    }[view];
    canvas.setAttribute("aria-label", $("units-caption").textContent);
  }

  function layers() {
    const f = fisher.diagonal,
      total = f.reduce((a, b) => a + b, 0) || 1;
    const last1 = Network.INPUTS * Network.HIDDEN,
      last2 = Network.SECOND + Network.HIDDEN * Network.CLASSES;
    const parts = [
      ["hidden weights", 0, last1],
      ["hidden biases", last1, Network.SECOND],
      ["output weights", Network.SECOND, last2],
      ["output biases", last2, Network.SIZE],
    ];
    $("layers").innerHTML = parts
      .map(([name, from, to]) => {
        let sum = 0;
        for (let k = from; k < to; k++) sum += f[k];
        const count = (to - from) / Network.SIZE,
          share = sum / total;
        const bar = (kind, width, text) =>
          `<div class="track ${kind}"><i style="width:${(100 * width).toFixed(1)}%"></i><b>${text}</b></div>`;
        return `<div class="row"><span>${name}</span><div class="pair">${bar("", count, `${(100 * count).toFixed(1)} % of the weights`)}${bar("f", share, `${(100 * share).toFixed(1)} % of F`)}</div></div>`;
      })
      .join("");
  }

  function movedMaps() {
    $("moved-block").hidden = false;
    const now = moved(theta),
      free = freeRun(),
      freely = free && moved(free.end),
      top = Math.max(...(freely || now));
    heat(
      $("map-need"),
      perPixel((k) => fisher.diagonal[k]),
      "digits",
    );
    if (freely) heat($("map-free"), freely, "clothes", top, 1);
    heat($("map-moved"), now, "clothes", top, 1);
    const share = needyShare(theta),
      what = run.springs === "unprotected" ? "without springs" : `with ${METHODS[run.springs]}`;
    $("moved-caption").innerHTML = `What moves <strong>now</strong>, ${what}`;
    $("moved-said").textContent =
      `Of all squared movement, ${few(share)} now happens in the tenth of the weights that digits need most` +
      (!free || run.springs === "unprotected" ? "." : `; without springs it was ${few(needyShare(free.end))}.`);
  }

  function mapEvents() {
    const spot = { "map-fisher": [7, 7], "map-units": [7, 7] };
    const reach = { "map-fisher": SIDE, "map-units": 8 * (SIDE + 1) - 1 };
    const read = (id, [c, r]) => {
      if (!fisher) return;
      spot[id] = [c, r];
      const cell = SIDE + 1;
      const inTile = (v) => Math.min(SIDE - 1, id === "map-units" ? v % cell : v); // the line between two belongs to the first
      const x = inTile(c),
        y = inTile(r);
      const pixel = y * SIDE + x,
        where = `row ${y + 1}, column ${x + 1}`;
      if (id === "map-fisher") {
        let sum = 0;
        for (let j = 0; j < Network.HIDDEN; j++) sum += fisher.diagonal[pixel * Network.HIDDEN + j];
        $("map-said").textContent = `Pixel in ${where}: F of its 64 weights adds up to ${sum.toPrecision(3)}.`;
      } else {
        const unit = 8 * Math.floor(r / cell) + Math.floor(c / cell),
          k = pixel * Network.HIDDEN + unit;
        const way = star ? theta[k] - star[k] : 0;
        $("map-said").textContent =
          `Weight from the pixel in ${where} to hidden unit ${unit + 1}: ${theta[k].toFixed(3)}, F = ${fisher.diagonal[k].toExponential(1)}, moved by ${way.toFixed(3)}.`;
      }
    };
    for (const id of Object.keys(spot)) {
      const canvas = $(id);
      const at = (event) => {
        const box = canvas.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top].map((v, k) =>
          Math.max(0, Math.min(reach[id] - 1, Math.floor((v / (k ? box.height : box.width)) * reach[id]))),
        );
      };
      canvas.addEventListener("pointermove", (event) => read(id, at(event)));
      canvas.addEventListener("pointerdown", (event) => read(id, at(event)));
      canvas.addEventListener("keydown", (event) => {
        const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
        if (!(event.key in moves)) return;
        event.preventDefault();
        const stride = id === "map-units" && event.shiftKey ? SIDE + 1 : 1;
        const [c, r] = spot[id].map((v, k) => Math.max(0, Math.min(reach[id] - 1, v + stride * moves[event.key][k])));
        const skip =
          id === "map-units" ? (v, k) => (v % (SIDE + 1) === SIDE ? v + (moves[event.key][k] || 1) : v) : (v) => v;
        read(id, [skip(c, 0), skip(r, 1)]);
      });
    }
    document
      .querySelectorAll("input[name=view]")
      .forEach((input) => input.addEventListener("change", () => fisher && drawUnits()));
  }

  // ---- runs: the table and the picture of the trade -------------------------------------------------------------------

  function libraryRow(springs, lambdas) {
    if (springs === "unprotected") return RESULTS.rows.unprotected[0];
    return lambdas.length === 1 && RESULTS.rows[springs].find((row) => row.lambda === lambdas[0]);
  }

  function table() {
    if (!kept.length) {
      $("runs").innerHTML = '<tr><td colspan="7">None yet.</td></tr>';
      return;
    }
    $("runs").innerHTML = kept
      .map((r) => {
        const row = libraryRow(r.springs, r.lambdas),
          cell = (k) => (row ? `${row.mean[k].toFixed(1)} (${row.range[k].map((v) => v.toFixed(1)).join(" to ")})` : "–");
        return `<tr><th scope="row"><span class="key" style="background:${colour(r.springs)}"></span>${METHODS[r.springs]}</th>
        <td>${r.springs === "unprotected" ? "" : r.lambdas.join(" → ")}</td><td>${percent(r.digits)}</td><td>${percent(r.clothes)}</td>
        <td>${fisher && fisher.needy ? few(needyShare(r.end)) : "–"}</td><td>${cell(0)}</td><td>${cell(1)}</td></tr>`;
      })
      .join("");
  }

  function trade() {
    const svg = $("trade"),
      [width, height] = sized(svg);
    if (!width) return;
    const left = 44,
      right = 16,
      top = 12,
      bottom = 44,
      low = [30, 55],
      high = [100, 90];
    const across = (v) => left + ((width - left - right) * (v - low[0])) / (high[0] - low[0]);
    const up = (v) => top + ((height - top - bottom) * (high[1] - v)) / (high[1] - low[1]);
    for (const v of [60, 70, 80, 90]) {
      draw(svg, "line", { x1: left, x2: width - right, y1: up(v), y2: up(v), class: "grid-line" });
      draw(svg, "text", { x: left - 6, y: up(v) + 4, "text-anchor": "end", "font-size": 11.5, class: "soft" }, v);
    }
    for (const v of [40, 60, 80, 100])
      draw(
        svg,
        "text",
        { x: across(v), y: height - bottom + 17, "text-anchor": "middle", "font-size": 11.5, class: "soft" },
        v,
      );
    draw(
      svg,
      "text",
      { x: (left + width) / 2, y: height - 8, "text-anchor": "middle", "font-size": 13 },
      "digits still read, %",
    );
    draw(
      svg,
      "text",
      { x: -(top + (height - bottom) / 2), y: 11, transform: "rotate(-90)", "text-anchor": "middle", "font-size": 13 },
      "clothes learnt, %",
    );
    draw(draw(svg, "clipPath", { id: "inside" }), "rect", {
      x: left,
      y: 0,
      width: width - left,
      height: height - bottom,
    });
    const inner = draw(svg, "g", { "clip-path": "url(#inside)" });
    const mark = (parent, kind, [dx, dy], extra = {}) =>
      draw(parent, "path", {
        d: MARKS[kind],
        fill: kind === "unprotected" ? "none" : colour(kind),
        stroke: colour(kind === "unprotected" ? kind : "card"),
        "stroke-width": kind === "unprotected" ? 2.5 : 1,
        transform: `translate(${Math.max(left, across(dx)).toFixed(1)} ${Math.min(height - bottom, up(dy)).toFixed(1)})`,
        ...extra,
      });
    const text = (words, tone, [dx, dy], [mx, my], anchor) =>
      draw(
        inner,
        "text",
        {
          x: across(dx) + mx,
          y: up(dy) + my,
          "text-anchor": anchor,
          "font-size": 13,
          "font-weight": 600,
          class: "haloed",
          style: `fill:${colour(tone)}`,
        },
        words,
      );
    const free = RESULTS.rows.unprotected[0],
      joint = RESULTS.rows["joint training"][0];
    for (const springs of ["L2", "EWC", "Kronecker"]) {
      const line = [free, ...RESULTS.rows[springs]];
      draw(inner, "path", {
        d: line.map(({ mean }, i) => `${i ? "L" : "M"}${across(mean[0])} ${up(mean[1])}`).join(""),
        fill: "none",
        stroke: colour(springs),
        "stroke-width": 1.6,
      });
      for (const { mean } of RESULTS.rows[springs])
        draw(inner, "circle", { cx: across(mean[0]), cy: up(mean[1]), r: 2.2, fill: colour(springs) });
    }
    draw(inner, "line", {
      x1: across(joint.mean[0]),
      x2: across(joint.mean[0]),
      y1: up(joint.mean[1]),
      y2: up(87.4),
      stroke: colour("joint"),
    });
    mark(inner, "joint", joint.mean);
    text("both at once", "ink", [joint.mean[0], 87.4], [12, -5], "end");
    mark(inner, "unprotected", free.mean, { opacity: 0.45 });
    text("unprotected", "soft", free.mean, [0, -13], "middle");
    const last = (springs) => RESULTS.rows[springs][RESULTS.rows[springs].length - 1].mean;
    text("Kronecker", "Kronecker-text", last("Kronecker"), [22, 20], "end");
    text("EWC", "EWC-text", last("EWC"), [-10, 4], "end");
    text("L2", "L2-text", RESULTS.rows.L2.reduce((a, row) => (row.mean[1] > 62 ? row : a)).mean, [-12, 8], "end");
    kept.forEach((r, n) => {
      const newest = n === kept.length - 1,
        edge = r.springs === "unprotected" ? "unprotected" : "ink";
      mark(
        svg,
        r.springs,
        [100 * r.digits, 100 * r.clothes],
        newest ? { "stroke-width": 2.5, stroke: colour(edge) } : {},
      );
    });
    svg.setAttribute(
      "aria-label",
      `Digits kept against clothes learnt, in percent. contlearn: unprotected ${free.mean.join(" and ")}, both at once ${joint.mean.join(" and ")}. Your runs: ` +
        (kept.map((r) => `${METHODS[r.springs]} ${percent(r.digits)} and ${percent(r.clothes)}`).join("; ") ||
          "none yet") +
        ".",
    );
  }

  // ---- the page -----------------------------------------------------------------------------------------------------

  function drawPairs() {
    const canvas = $("pairs"),
      cell = SIDE + 1;
    canvas.width = 10 * cell - 1;
    canvas.height = 2 * cell - 1;
    const context = canvas.getContext("2d");
    ["digits", "clothes"].forEach((task, r) => {
      for (let c = 0; c < 10; c++) {
        const n = test[task].labels.indexOf(c, 20),
          image = context.createImageData(SIDE, SIDE);
        for (let k = 0; k < PIXELS; k++) {
          const v = 17 * test[task].images[n * PIXELS + k];
          image.data.set([v, v, v, 255], 4 * k);
        }
        context.putImageData(image, c * cell, r * cell);
      }
    });
  }

  function theme(name) {
    document.documentElement.dataset.theme = name;
    Tools.colours.clear();
    $("theme").textContent = name === "dark" ? "Light" : "Dark";
    repaint();
  }

  function repaint() {
    if (!run) return;
    refresh();
    trade();
    table();
    Plane.repaint();
    if (fisher) {
      heat(
        $("map-fisher"),
        perPixel((k) => fisher.diagonal[k]),
        "digits",
      );
      drawUnits();
    }
  }

  function events() {
    $("learn-digits").addEventListener("click", learnDigits);
    $("guess").addEventListener("input", () => {
      $("guess-value").textContent = $("guess").value;
      controls();
    });
    $("learn-clothes").addEventListener("click", secondStation);
    $("rewind").addEventListener("click", () => {
      toStar();
      say("Back to when the digits were learnt.");
    });
    $("measure").addEventListener("click", measure);
    document
      .querySelectorAll("input[name=method]")
      .forEach((input) => input.addEventListener("change", () => chooseMethod(input.value)));
    $("lambda").addEventListener("input", () => {
      lambda = LAMBDAS[Number($("lambda").value)];
      showLambda();
      if (run && run.task === "clothes" && run.springs !== "unprotected" && run.step > 0 && run.step < STEPS_B) {
        if (running) run.lambdas.push(lambda);
        else run.lambdas = [...run.lambdas, lambda];
        if (run.lambdas.length > 3) run.lambdas = [run.lambdas[0], "…", lambda];
      } else if (run && run.step === 0) run.lambdas = [lambda];
      if (!running) refresh();
    });
    $("learn-ewc").addEventListener("click", () => learnClothes(method, true));
    $("more").addEventListener("click", () => {
      run.until += STEPS_B;
      say("1,200 steps more of clothes.");
      start();
    });
    $("again").addEventListener("click", () => {
      seed += 1;
      newNetwork();
      say("A new network, which knows nothing.");
      $("first").scrollIntoView();
    });
    $("run").addEventListener("click", () => (running ? pause() : start()));
    $("one").addEventListener("click", () => {
      trainStep();
      if (latest().step !== run.step) note();
      refresh();
      controls();
    });
    $("theme").addEventListener("click", () =>
      theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
    );
    const wide = matchMedia("(min-width: 64rem)");
    const settle = () => $(wide.matches ? "pad-wide" : "pad-narrow").append($("pad-block"));
    wide.addEventListener("change", settle);
    settle();
    new ResizeObserver(() => repaint()).observe(document.querySelector(".story"));
    padEvents();
    mapEvents();
  }

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  prefersDark.addEventListener("change", () => theme(prefersDark.matches ? "dark" : "light"));
  theme(prefersDark.matches ? "dark" : "light");

  async function open() {
    try {
      await unpack();
    } catch (error) {
      $("trouble").hidden = false;
      $("trouble").textContent =
        `The images cannot be unpacked (${error.message}). This page needs a browser of 2023 or later: Chrome 80, Firefox 113, Safari 16.4.`;
      return;
    }
    drawPairs();
    makeAnswers();
    events();
    chooseMethod("EWC");
    newNetwork();
    fromTest("digits");
    Plane.begin();
    document.body.dataset.ready = "true";
  }

  open();
})();
