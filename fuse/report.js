// Draws the page's figures one after another, and again when the colours change or the page goes to the printer.
"use strict";

(() => {
  const PRINT_WIDTH_PX = 640;
  const figures = [...document.querySelectorAll("[data-figure]")].map((element) => ({
    element,
    ...mgcliPage.data(element.dataset.figure),
  }));
  const print = matchMedia("print");

  // Colours are named only where plotly takes a colour: a class may be called "--ink".
  function themed(value, key = "") {
    if (typeof value === "string") return /color/.test(key) && value.startsWith("--") ? mgcliPage.colour(value) : value;
    if (Array.isArray(value)) return /color/.test(key) ? value.map((each) => themed(each, key)) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, themed(each, name)]));
  }

  const baseAxis = {
    gridcolor: "--rule", linecolor: "--muted", tickcolor: "--muted", zeroline: false, automargin: true,
    ticks: "outside", ticklen: 4, fixedrange: true, title: { standoff: 12, font: { size: 13 } },
  };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif", size: 13, color: "--ink" },
    margin: { l: 8, r: 16, t: 12, b: 8, pad: 2 }, hovermode: "closest", dragmode: false, barcornerradius: 2,
    hoverlabel: { bgcolor: "--ink", bordercolor: "--ink", align: "left", font: { color: "--paper", size: 13 } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left" },
  };

  function merged(under, over) {
    const result = { ...under };
    for (const [key, value] of Object.entries(over)) {
      const both = [result[key], value].every((each) => each && typeof each === "object" && !Array.isArray(each));
      result[key] = both ? merged(result[key], value) : value;
    }
    return result;
  }

  const NARROW_PX = 480;
  const HALF_A_NAME = 7;

  // On a phone the names beside an axis would leave no room for the figure.
  function shortened(figure, key) {
    const axis = figure.layout[key];
    if (!axis || axis.type !== "category") return {};
    const names = [...new Set(figure.data.flatMap((trace) => trace[key[0]]))];
    const long = (name) => name.length > 2 * HALF_A_NAME + 1;
    const cut = (name) => (long(name) ? `${name.slice(0, HALF_A_NAME)}…${name.slice(-HALF_A_NAME)}` : name);
    return { [key]: { tickmode: "array", tickvals: names, ticktext: names.map(cut) } };
  }

  function layoutOf(figure) {
    const axes = Object.keys(figure.layout).filter((key) => /^[xy]axis\d*$/.test(key));
    const defaults = Object.fromEntries(["xaxis", "yaxis", ...axes].map((key) => [key, baseAxis]));
    const narrow = figure.element.clientWidth < NARROW_PX;
    const fitted = narrow ? { ...shortened(figure, "xaxis"), ...shortened(figure, "yaxis") } : {};
    const layout = themed(merged(merged({ ...base, ...defaults }, figure.layout), fitted));
    layout.width = print.matches ? Math.min(figure.element.clientWidth, PRINT_WIDTH_PX) : figure.element.clientWidth;
    layout.height = figure.element.clientHeight;
    return layout;
  }

  function draw(figure) {
    const narrow = figure.element.clientWidth < NARROW_PX;
    const traces = figure.data.map((trace) => themed(narrow && trace.colorbar ? { ...trace, showscale: false } : trace));
    Plotly.react(figure.element, traces, layoutOf(figure), { displayModeBar: false });
    figure.drawn = true;
  }

  function drawNext() {
    const next = figures.find((figure) => !figure.drawn);
    if (next) {
      draw(next);
      setTimeout(drawNext); // so that the page answers between two figures
    } else {
      document.documentElement.dataset.figures = "drawn";
    }
  }

  let resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => figures.forEach(draw), 120);
  });
  document.addEventListener("mgcli-theme", () => figures.forEach(draw));
  drawNext();
})();
