"use strict";
// Smoothing and logarithmic axes, of all curves at once.
(() => {
  const tables = report.data("curves");
  const charts = Object.entries(report.charts("curves"));
  const [smoothing, smoothed, logSteps, logValues] = ["smoothing", "smoothed", "log-steps", "log-values"].map((id) => document.getElementById(id));

  // The moving average of each run that weighs earlier values by `weight`, without the bias to 0 at its start.
  function averaged(rows, weight) {
    const sums = new Map();
    return rows.map((row) => {
      const [sum, weights] = sums.get(row.run) ?? [0, 0];
      const next = [weight * sum + row.value, weight * weights + 1];
      sums.set(row.run, next);
      return { ...row, smooth: next[0] / next[1] };
    });
  }

  function changed(spec) {
    const copy = structuredClone(spec);
    copy.params[0].value = Number(smoothing.value);
    if (logSteps.checked) copy.encoding.x.scale = { type: "log" };
    if (logValues.checked) {
      copy.transform.push({ filter: "datum.shown > 0 && datum.value > 0" });  // others have no place there
      for (const { encoding } of copy.layer) encoding.y.scale = { type: "log" };
    }
    return copy;
  }

  let drawing = false;
  let again = false;
  async function draw() {
    again = drawing;
    if (drawing) return;
    drawing = true;
    smoothed.value = smoothing.value;
    for (const [id, spec] of charts) {
      const name = spec.data.name;
      await report.draw(id, changed(spec), { [name]: averaged(tables[name], Number(smoothing.value)) });
    }
    drawing = false;
    if (again) draw();
  }

  report.drawn.then(() => {
    for (const control of [smoothing, logSteps, logValues]) control.addEventListener("input", draw);
  });
})();
