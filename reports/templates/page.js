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
// Tables sort by the column whose title is clicked; empty cells stay last.
for (const table of document.querySelectorAll("table")) {
  const titles = [...table.querySelectorAll("th")];
  titles.forEach((title, column) => {
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
    if (cells.length && cells.every((cell) => cell.dataset.value || cell.textContent === "–")) {
      for (const cell of [title, ...cells]) cell.classList.add("number");
    }
    title.firstElementChild.addEventListener("click", () => {
      const rising = title.getAttribute("aria-sort") === "descending";
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [first, second] = [key(a), key(b)];
        if (first !== undefined && second !== undefined) return first - second || 0;
        if (first === undefined && second === undefined) {
          const [text, other] = [a, b].map((row) => row.cells[column].textContent);
          return text.localeCompare(other, undefined, { numeric: true });
        }
        return 0;
      };
      const isNumber = (row) => key(row) !== undefined;
      const rows = [...table.tBodies[0].rows];
      const hasNumbers = rows.some(isNumber);
      const [own, last] = [rows.filter((r) => !hasNumbers || isNumber(r)), rows.filter((r) => hasNumbers && !isNumber(r))];
      own.sort((a, b) => (rising ? compare(a, b) : compare(b, a)));
      table.tBodies[0].append(...own, ...last);
    });
  });
}
