(function () {
  "use strict";
  const printWidth = 1000;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const plots = () => document.querySelectorAll(".plotly-graph-div");
  const dress = (changes) => plots().forEach((plot) => Plotly.relayout(plot, changes));
  const follow = () => dress({ template: templates[dark.matches ? "dark" : "light"] });
  if (dark.matches) { follow(); }
  dark.addEventListener("change", follow);
  window.addEventListener("beforeprint", () => dress({ template: templates.light, width: printWidth }));
  window.addEventListener("afterprint", () => { dress({ width: null, autosize: true }); follow(); });
})();
