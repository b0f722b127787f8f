(function () {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const plots = () => document.querySelectorAll(".plotly-graph-div");
  const dress = (name) => plots().forEach((plot) => Plotly.relayout(plot, { template: templates[name] }));
  const follow = () => dress(dark.matches ? "dark" : "light");
  if (dark.matches) { follow(); }
  dark.addEventListener("change", follow);
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((item) => { item.open = true; });
    if (dark.matches) { dress("light"); }
    plots().forEach((plot) => Plotly.Plots.resize(plot));
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((item) => { item.open = false; });
    follow();
  });
})();
