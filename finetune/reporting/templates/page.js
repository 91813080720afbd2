"use strict";
// What all sections share: the numbers of the page, and its charts.
const report = (() => {
  const content = JSON.parse(document.getElementById("data").textContent);
  const views = new Map();  // of the charts, by id

  // colours by name: the style sheet has them, for light, dark and print
  const axis = { labelColor: "var(--quiet)", titleColor: "var(--quiet)", gridColor: "var(--line)", domainColor: "var(--line)", tickColor: "var(--line)" };
  const small = { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  const config = {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...axis, ...small },
    legend: { labelColor: "var(--ink)", titleColor: "var(--quiet)", ...small, orient: "top", labelLimit: 260 },
    header: { labelColor: "var(--ink)", titleColor: "var(--quiet)", ...small },
    title: { color: "var(--ink)", subtitleColor: "var(--quiet)" },
    mark: { color: "var(--series-0)" },
    text: { color: "var(--ink)" },
    rule: { color: "var(--quiet)" },
    errorbar: { color: "var(--ink)" },
    range: { category: [0, 1, 2, 3, 4, 5].map((i) => `var(--series-${i})`) },
  };

  // Draw a chart, or draw it anew; `tables` are what its specification names as data.
  async function draw(id, spec, tables) {
    const whole = { width: "container", height: 210, autosize: { type: "fit-x", contains: "padding" }, ...structuredClone(spec) };
    whole.datasets = { ...tables, ...whole.datasets };
    views.get(id)?.finalize();
    // `ast`: expressions are interpreted, so that no text of a specification becomes a program
    const options = { mode: "vega-lite", ast: true, actions: false, renderer: "svg", config };
    const { view } = await vegaEmbed(document.getElementById(id), whole, options);
    views.set(id, view);
    return view;
  }

  function element(name, text = "", parts = []) {
    const made = document.createElement(name);
    made.textContent = text;
    made.append(...parts);
    return made;
  }

  // The numbers of a chart as a table, when somebody asks for it.
  function show(details) {
    const section = details.closest("section").id;
    const rows = content.sections[section].data[details.dataset.rows];
    const heads = [...new Set(rows.flatMap(Object.keys))];
    const cells = rows.map((row) => heads.map((head) => row[head] ?? ""));
    const head = element("thead", "", [element("tr", "", heads.map((text) => element("th", text)))]);
    const body = element("tbody", "", cells.map((row) => element("tr", "", row.map((value) => element("td", value)))));
    const box = element("div", "", [element("table", "", [head, body])]);
    box.className = "table-box";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", details.querySelector("summary").textContent);
    const copy = element("button", "Copy");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      const text = [heads, ...cells].map((row) => row.join("\t")).join("\n");
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(box);
        copy.textContent = "Selected: press Ctrl+C";
      }
    });
    details.append(copy, box);
  }
  for (const details of document.querySelectorAll("details.numbers"))
    details.addEventListener("toggle", () => details.open && show(details), { once: true });

  document.getElementById("save").addEventListener("click", () => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    link.download = "report.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  const drawn = (async () => {
    for (const { charts, data } of Object.values(content.sections))
      for (const [id, spec] of Object.entries(charts)) await draw(id, spec, data);
    document.documentElement.dataset.drawn = "all";
  })();

  return {
    data: (section) => content.sections[section].data,
    charts: (section) => content.sections[section].charts,
    view: (id) => views.get(id),
    draw,
    drawn,  // a promise: all charts are there
  };
})();
