"use strict";
// The slider over the steps of reconstructions, by hand or by itself.
for (const film of document.querySelectorAll(".film")) {
  const range = film.querySelector("input[type=range]");
  if (!range) continue;
  const play = film.querySelector(".play");
  const steps = range.dataset.steps.split(" ");
  const frames = film.querySelectorAll("[data-frame]");
  let timer = 0;

  function show() {
    range.setAttribute("aria-valuetext", `step ${steps[range.value]}`);
    film.querySelector("output").textContent = steps[range.value];
    for (const image of frames) image.hidden = image.dataset.frame !== range.value;
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }
  function next() {
    if (Number(range.value) >= steps.length - 1) return stop();
    range.value = Number(range.value) + 1;
    show();
  }
  range.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(range.value) >= steps.length - 1) range.value = 0;
    show();
    play.textContent = "Pause";
    timer = setInterval(next, 700);
  });
  range.hidden = play.hidden = false;
  show();
}
