// Draws each chart as wide as its place, again when that changes. Without this script the static pictures are shown.
"use strict";
{
  const drawn = new WeakMap();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const draw = (plot) => {
    const width = Math.floor(plot.clientWidth);
    if (width === 0 || drawn.get(plot) === width) return;
    drawn.set(plot, width);
    const spec = JSON.parse(document.getElementById(plot.dataset.spec).textContent);
    window.vegaEmbed(plot, { ...spec, width }, {
      actions: false,
      ast: true, // expressions are interpreted: the page's policy allows no eval
      renderer: "svg",
      tooltip: { theme: dark.matches ? "dark" : "light" },
    }).catch((error) => {
      plot.textContent = `This chart could not be drawn (${error.message}). Its values are in the table below.`;
    });
  };

  const observer = new ResizeObserver((entries) => entries.forEach((entry) => draw(entry.target)));
  document.querySelectorAll(".plot").forEach((plot) => observer.observe(plot));
}
