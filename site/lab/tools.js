"use strict";
/* What both halves of the page draw and speak with. */

const Tools = (() => {
  const $ = (id) => document.getElementById(id);
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  const colours = new Map();

  /** A colour of style.css, in the theme of now. */
  function colour(name) {
    if (!colours.has(name))
      colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
    return colours.get(name);
  }

  /** Tell it to those who listen rather than look. */
  function say(text) {
    $("live").textContent = text;
  }

  /** An SVG element with attributes, put into `parent`. */
  function draw(parent, tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  /** Empty an SVG, and make its units pixels; returns its width and height. */
  function sized(svg) {
    const { width, height } = svg.getBoundingClientRect();
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    return [width, height];
  }

  const MARKS = {
    // as in the notebooks: each method has a shape of its own
    unprotected: "M-5-5L5 5M-5 5L5-5",
    L2: "M-5-5H5V5H-5Z",
    EWC: "M-5.5 0A5.5 5.5 0 1 1 5.5 0A5.5 5.5 0 1 1-5.5 0Z",
    Kronecker: "M0-6.5L6.5 0L0 6.5L-6.5 0Z",
    joint: "M0-8L2-2.6L7.6-2.5L3.2 1L4.7 6.5L0 3.3L-4.7 6.5L-3.2 1L-7.6-2.5L-2-2.6Z",
  };

  return { $, percent, colour, colours, say, draw, sized, MARKS };
})();
