// Sends what the person chooses, and puts the answers in their places. It knows no model.
"use strict";

const $ = (id) => document.getElementById(id);
const told = document.body.dataset;
const columns = Number(told.columns);
const patches = [];
const state = { picture: null, visible: null, patch: null, seed: 0 };
let asking = false;
let again = false;

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = text === "";
}

async function send(address, body) {
  const response = await fetch(address, { method: "POST", body });
  const answer = await response.json();
  if (answer.error) throw new Error(answer.error);
  return answer;
}

// One question at a time; what changes meanwhile is asked once the answer is there.
async function ask() {
  if (!state.picture) return;
  again = asking;
  if (asking) return;
  busy(true);
  const { picture, visible, patch, seed } = state;
  const ratio = Number($("ratio").value) / 100;
  try {
    const stage = Number($("stage").value);
    const question = { picture, visible, patch, seed, ratio, stage };
    const answer = await send("answer", JSON.stringify(question));
    fail("");
    if (!again) show(answer);
  } catch (error) {
    again = false;
    fail(error.message);
  }
  busy(false);
  if (again) ask();
}

function busy(now) {
  asking = now;
  $("panels").setAttribute("aria-busy", now);
}

function show(answer) {
  state.visible = answer.visible;
  $("mask").hidden = false;
  $("name").textContent = answer.name;
  $("shown").src = answer.shown;
  $("panels").innerHTML = answer.html;
  mark();
}

function mark() {
  const visible = [...(state.visible ?? "")];
  patches.forEach((button, i) => {
    button.setAttribute("aria-pressed", visible[i] === "1");
    button.classList.toggle("compared", i === state.patch);
  });
  const seen = visible.filter((letter) => letter === "1").length;
  $("count").textContent = `${seen} of ${patches.length} patches are visible`;
}

function press() {
  document.querySelectorAll("[data-picture]").forEach((button) => {
    button.setAttribute("aria-pressed", button.dataset.picture === state.picture);
  });
}

function choose(picture) {
  state.picture = picture;
  press();
  draw();
}

async function drop(file) {
  if (!file) return;
  if (file.size > Number(told.bytes)) {
    fail(`the file has ${Math.ceil(file.size / 1e6)} MB, and the page takes ${told.megabytes} MB: drop a smaller one`);
    return;
  }
  try {
    choose((await send("drop", file)).picture);
  } catch (error) {
    fail(error.message);
  }
}

function click(i) {
  if (document.querySelector("input[name=click]:checked").value === "compare") {
    state.patch = i;
  } else {
    const letters = [...state.visible];
    letters[i] = letters[i] === "1" ? "0" : "1";
    if (!letters.includes("1")) {
      fail("one patch has to stay visible, since the encoder needs something to see");
      return;
    }
    state.visible = letters.join("");
  }
  mark();
  ask();
}

function draw() {
  state.visible = null;
  ask();
}

function makePatches() {
  const group = $("patches");
  group.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  group.style.gridTemplateRows = `repeat(${told.rows}, 1fr)`;
  for (let i = 0; i < Number(told.rows) * columns; i++) {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = i === 0 ? 0 : -1;
    button.setAttribute("aria-label", `row ${Math.floor(i / columns) + 1}, column ${(i % columns) + 1}, visible`);
    button.addEventListener("click", () => click(i));
    button.addEventListener("focus", () => patches.forEach((other) => (other.tabIndex = other === button ? 0 : -1)));
    patches.push(button);
    group.append(button);
  }
  group.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = patches[patches.indexOf(document.activeElement) + step];
    if (!step) return;
    event.preventDefault();
    next?.focus();
  });
}

async function turn(page) {
  const response = await fetch(`images?page=${page}`);
  $("images").innerHTML = await response.text();
  press();
}

makePatches();
$("file").addEventListener("change", (event) => drop(event.target.files[0]));
$("draw").addEventListener("click", () => {
  state.seed += 1;
  draw();
});
$("show").addEventListener("click", () => {
  state.visible = "1".repeat(patches.length);
  mark();
  ask();
});
$("stage").addEventListener("change", ask);
$("ratio").addEventListener("input", () => {
  $("percent").value = $("ratio").value;
  draw();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  drop(event.dataTransfer.files[0]);
});
if (Number(told.images)) {
  $("images").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.picture) choose(button.dataset.picture);
    if (button?.dataset.page) turn(Number(button.dataset.page));
  });
  turn(0).then(() => choose(document.querySelector("[data-picture]").dataset.picture));
}
