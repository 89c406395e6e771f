// What the pages do by themselves: typeset equations, turn frames, take predictions. All of it works from a folder.
"use strict";

if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false; // a browser fetches no other page from a folder
}

// What a search shows of a page is its text: no formula's source, no line's number, no list of places.
if (typeof Search !== "undefined") {
  const textOf = Search.htmlToText;
  const left = /<div class="math display[^>]*>[^<]*<\/div>|<p class="(?:places|notebook-file)">.*?<\/p>|<a class="linenos"[^>]*>[^<]*<\/a>/gs;
  const plain = (_, tex) => tex.replace(/\\(?:text|mathrm|operatorname\*?|,|;)|[\\{}]/g, "");
  Search.htmlToText = (page, anchor) => textOf.call(Search, page.replace(left, " ").replace(/<span class="math[^>]*>([^<]*)<\/span>/g, plain), anchor);
}

function typeset() {
  for (const place of document.querySelectorAll(".math")) {
    const displayMode = place.classList.contains("display");
    katex.render(place.textContent, place, { displayMode, throwOnError: false, strict: "ignore" });
  }
}

// No line ends in the bracket before a formula, or begins with the full stop behind it.
function unbroken() {
  const edge = (text, found, start) => {
    const signs = text?.nodeType === Node.TEXT_NODE ? found.exec(text.data)?.[0] || "" : "";
    if (signs) text.deleteData(start ? text.length - signs.length : 0, signs.length);
    return signs;
  };
  for (const place of document.querySelectorAll("span.math")) {
    const parts = place.querySelectorAll(".base");
    if (!parts.length) continue;
    const ends = [[parts[0], edge(place.previousSibling, /[([“"]+$/, true), ""]];
    ends.push([parts[parts.length - 1], "", edge(place.nextSibling, /^[.,;:!?)\]’”"]+/, false)]);
    for (const [part, before, after] of ends) {
      if (!before && !after) continue;
      const joined = document.createElement("span");
      joined.className = "unbroken";
      part.replaceWith(joined);
      joined.append(before, part, after);
    }
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
  for (const place of document.querySelectorAll(".highlight pre, .math.display, .table-wrapper, figure.wide, p:has(> img.wide)")) {
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
