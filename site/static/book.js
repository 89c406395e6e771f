// What the pages do by themselves: typeset equations, turn frames, take predictions. All of it works from a folder.
"use strict";

if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false; // a browser fetches no other page from a folder
}

function typeset() {
  for (const place of document.querySelectorAll(".math")) {
    const displayMode = place.classList.contains("display");
    katex.render(place.textContent, place, { displayMode, throwOnError: false, strict: "ignore" });
  }
}

// A line does not begin with the full stop, or the bracket, behind a formula.
function unbroken() {
  for (const place of document.querySelectorAll("span.math")) {
    const ends = /^[.,;:!?)\]’”"]+/.exec(place.nextSibling?.nodeType === Node.TEXT_NODE ? place.nextSibling.data : "");
    const last = [...place.querySelectorAll(".base")].pop();
    if (!ends || !last) continue;
    place.nextSibling.deleteData(0, ends[0].length);
    const joined = document.createElement("span");
    joined.className = "unbroken";
    last.replaceWith(joined);
    joined.append(last, ends[0]);
  }
}

function slider(frames) {
  const { label, start, frames: shown } = JSON.parse(frames.dataset.slider);
  const picture = frames.querySelector("img");
  const own = [picture.getAttribute("src"), picture.alt]; // the notebook's picture is that of the value it starts with
  const row = document.createElement("label");
  row.className = "reel";
  row.innerHTML = `<span></span><input type="range" min="0" max="${shown.length - 1}" step="1" value="${start}"><output></output>`;
  const [name, input, value] = row.children;
  name.textContent = label;
  const show = () => {
    const frame = shown[input.value];
    value.textContent = `${label} = ${frame.value}`;
    input.setAttribute("aria-valuetext", value.textContent);
    const [file, told] = Number(input.value) === start ? own : [`frames/${frame.file}`, frame.alt];
    if (picture.getAttribute("src") !== file) picture.src = file;
    picture.alt = told;
  };
  input.addEventListener("input", show);
  input.addEventListener("pointerdown", () => shown.forEach(({ file }) => (new Image().src = `frames/${file}`)), { once: true });
  show();
  frames.prepend(row);
}

function prediction(question, count) {
  const asked = document.createElement("label");
  asked.className = "prediction";
  asked.innerHTML = "<span>Your prediction (it stays on this page)</span><input type=\"text\" autocomplete=\"off\">";
  const input = asked.querySelector("input");
  const key = `${document.title} ${count}`;
  try { // some browsers keep nothing for pages from a folder
    input.value = sessionStorage.getItem(key) || "";
    input.addEventListener("input", () => sessionStorage.setItem(key, input.value));
  } catch { /* then it is not kept */ }
  question.after(asked);
}

// An address inside a folded part opens it.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let place = target; place; place = place.parentElement) if (place.tagName === "DETAILS") place.open = true;
  if (target) target.scrollIntoView();
}

// What scrolls sideways can be scrolled by keyboard.
function reachable() {
  for (const place of document.querySelectorAll(".highlight pre, .math.display, .table-wrapper, figure.wide")) {
    if (place.scrollWidth > place.clientWidth + 1) place.tabIndex = 0;
    else place.removeAttribute("tabindex");
  }
}

// The two columns beside the text are told apart by name.
document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "The book");
document.querySelector(".toc-drawer")?.setAttribute("aria-label", "This page");

if (window.katex) { typeset(); unbroken(); }
document.querySelectorAll(".frames[data-slider]").forEach(slider);
document.querySelectorAll("p.predict").forEach(prediction);
addEventListener("hashchange", unfold);
unfold();
reachable();
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true);
