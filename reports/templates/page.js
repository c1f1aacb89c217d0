"use strict";
// Figures in the colours of the page, light or dark, on the screen and on paper.
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const theme = (layout) => {
    const changes = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      "font.color": colour("--text"),
      "hoverlabel.bgcolor": colour("--raised"),
      "hoverlabel.bordercolor": colour("--line"),
      "hoverlabel.font.color": colour("--text"),
      "modebar.color": colour("--faint"),
      "modebar.activecolor": colour("--link"),
      "modebar.bgcolor": "rgba(0,0,0,0)",
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      changes[`${axis}.gridcolor`] = colour("--grid");
      changes[`${axis}.zerolinecolor`] = colour("--line");
      changes[`${axis}.linecolor`] = colour("--line");
    }
    return changes;
  };
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const figures = [...document.querySelectorAll(".plotly-figure")];
  for (const place of figures) {
    const { data, layout } = JSON.parse(place.nextElementSibling.textContent);
    // A finger on a figure scrolls the page; the buttons zoom.
    layout.dragmode = isTouch ? false : "zoom";
    const options = {
      displaylogo: false,
      responsive: true,
      displayModeBar: isTouch || "hover",
      modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
    };
    Plotly.newPlot(place, data, layout, options).then(() => Plotly.relayout(place, theme(layout)));
  }
  const repaint = () => figures.forEach((place) => Plotly.relayout(place, theme(place.layout)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  const paper = matchMedia("print");
  paper.addEventListener("change", () => {
    for (const place of figures) {
      // Paper is narrower than the window: 180 mm, of which two figures take half each.
      const isWide = place.parentElement.classList.contains("wide");
      const width = paper.matches ? (isWide ? 655 : 315) : undefined;
      Plotly.relayout(place, { ...theme(place.layout), width, autosize: !paper.matches });
    }
  });
})();
// Tables sort by the column whose title is clicked, the largest first; cells without a number last.
for (const table of document.querySelectorAll("table")) {
  const [body] = table.tBodies;
  const titles = [...table.querySelectorAll("th")];
  const isNumber = (cell) => cell.dataset.value !== undefined;
  titles.forEach((title, column) => {
    const cells = [...body.rows].map((row) => row.cells[column]);
    const hasNumbers = cells.some(isNumber);
    if (hasNumbers && cells.every((cell) => isNumber(cell) || cell.textContent === "–")) {
      for (const cell of [title, ...cells]) cell.classList.add("number");
    }
    const compare = (a, b) =>
      hasNumbers
        ? a.dataset.value - b.dataset.value || 0
        : a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
    title.firstElementChild.addEventListener("click", () => {
      const rising = title.getAttribute("aria-sort") === "descending";
      for (const other of titles) other.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const sorted = cells.filter((cell) => isNumber(cell) || !hasNumbers);
      sorted.sort((a, b) => (rising ? compare(a, b) : compare(b, a)));
      const last = cells.filter((cell) => !sorted.includes(cell));
      body.append(...[...sorted, ...last].map((cell) => cell.parentElement));
    });
  });
}
