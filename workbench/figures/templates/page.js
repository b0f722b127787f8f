(function () {
  "use strict";
  if (!window.Plotly) { document.getElementById("no-plotly").hidden = false; return; }
  const printWidth = 1000;
  const narrowest = 620;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const plots = () => document.querySelectorAll(".plotly-graph-div");
  const template = () => templates[dark.matches ? "dark" : "light"];
  const dress = (changes) => plots().forEach((plot) => Plotly.relayout(plot, changes));
  const follow = () => dress({ template: template() });
  const wide = new Map();

  // A narrow page has panels below each other and broken labels: the layout that stands beside the figure as JSON.
  function arrange(plot, isNarrow) {
    const figure = plot.closest(".plot");
    const held = figure.querySelector(".narrow-layout");
    if (!held || figure.classList.contains("narrow") === isNarrow) { return; }
    if (!wide.has(plot)) { wide.set(plot, structuredClone(plot.layout)); }
    const layout = isNarrow ? JSON.parse(held.textContent) : structuredClone(wide.get(plot));
    figure.classList.toggle("narrow", isNarrow);
    plot.style.height = figure.querySelector(".plot-scroll").style.height = `${layout.height}px`;
    delete layout.width;
    Plotly.react(plot, plot.data, { ...layout, template: template(), autosize: true });
    Plotly.Plots.resize(plot);
  }
  const fit = () => plots().forEach((plot) => {
    const frame = plot.closest(".plot-scroll");
    if (frame && frame.clientWidth) { arrange(plot, frame.clientWidth < narrowest); }
  });

  if (dark.matches) { follow(); }
  fit();
  dark.addEventListener("change", follow);
  window.addEventListener("resize", fit);
  document.addEventListener("toggle", fit, true);
  window.addEventListener("beforeprint", () => {
    plots().forEach((plot) => arrange(plot, false));
    dress({ template: templates.light, width: printWidth });
  });
  window.addEventListener("afterprint", () => { dress({ width: null, autosize: true }); follow(); fit(); });
})();
