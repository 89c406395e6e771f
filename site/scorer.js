// What the search page holds for most useful: the pages that answer, then the notebooks, then code and its reference.
// Sphinx puts this in front of its own script; the numbers below `score` are Sphinx's own.
"use strict";

var Scorer = {
  score: ([page, , , , score]) => score * (/^(answers|start)$/.test(page) ? 2 : /^(api|code)\//.test(page) ? 0.5 : 1),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
