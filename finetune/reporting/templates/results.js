"use strict";
// The charts of classes show the result that the menu has.
(() => {
  const select = document.getElementById("results-menu");
  if (!select) return;
  const { menu, classes, cells, pairs } = report.data("results");
  const specs = report.charts("results");
  const notes = document.getElementById("results-notes");

  function bars(spec, about) {
    spec.height = 18 * Math.min(about.bars, 60);
    spec.layer[0].encoding.x.title = about.measure;
  }

  // Few classes are named and have their counts in the cells; of many, the cells alone are left.
  function matrix(spec, about) {
    spec.height = Math.min(640, Math.max(200, 30 * about.classes));
    if (about.classes > 20) spec.layer.pop();
    if (about.classes > 60)
      for (const { encoding } of spec.layer)
        for (const side of [encoding.x, encoding.y]) side.axis.labels = false;
  }

  function worst(spec, about) {
    spec.height = 22 * about.pairs;
  }

  async function show() {
    const about = menu[Number(select.value)];
    notes.replaceChildren(...about.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
    const charts = [
      ["class-bars", about.bars, { classes }, bars],
      ["confusion", about.classes, { cells }, matrix],
      ["confused-pairs", about.pairs, { pairs }, worst],
    ];
    for (const [id, count, tables, change] of charts) {
      document.getElementById(id).closest("figure").hidden = count === 0;
      if (count === 0) continue;
      const spec = structuredClone(specs[id]);
      spec.params.find((param) => param.name === "chosen").value = about.title;
      change(spec, about);
      await report.draw(id, spec, tables);
    }
  }

  report.drawn.then(() => {
    select.addEventListener("change", show);
    return show();
  });
})();
