"use strict";
// Labels of the shown frame are bytes, one per pixel; the canvas only shows them.
const $ = (id) => document.getElementById(id);
const UNDO = 50, FEWEST_OBJECTS = 4, MOST_OBJECTS = 254, POLL = 400;
const canvas = $("paint"), context = canvas.getContext("2d");
let following = false, palette, state, t = 0, labels, image, object = 1, shown = FEWEST_OBJECTS, erasing = false;
let past = [], unsaved = "", stroke = null, waiting = false, saving = Promise.resolve(), showing = 0;

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || `the server answered ${answer.status}`);
  }
  return answer;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", wrong);
}

async function change(path, options) {
  try {
    state = await (await ask(path, options)).json();
    tell();
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  }
}

const kindOf = (index) =>
  state.by_hand.includes(index) ? "by hand" : state.done.includes(index) ? "propagated" : "no mask";

function tell() {
  const kind = kindOf(t);
  $("name").textContent = `${state.stems[t]} (${t + 1} of ${state.stems.length}): ${kind}`;
  if (unsaved) say(unsaved, true);
  else if (state.error) say(state.error, true);
  else say(state.running ? `propagating: frame ${state.at + 1}` : `${state.done.length} masks saved`);
  $("propagate").textContent = state.running ? "Stop" : "Propagate from here";
  $("undo").disabled = state.running || !past.length;
  $("release").disabled = state.running || !state.by_hand.includes(t);
  const strip = $("strip"), pen = strip.getContext("2d");
  strip.width = state.stems.length;
  for (const i of state.done) {
    pen.fillStyle = state.by_hand.includes(i) ? "#ffb020" : "#4a90d9";
    pen.fillRect(i, 0, 1, 6);
  }
}

function draw() {
  waiting = false;
  const pixels = image.data;
  for (let i = 0; i < labels.length; i++) {
    const id = labels[i];
    pixels[4 * i] = palette[3 * id];
    pixels[4 * i + 1] = palette[3 * id + 1];
    pixels[4 * i + 2] = palette[3 * id + 2];
    pixels[4 * i + 3] = id ? 255 : 0;
  }
  context.putImageData(image, 0, 0);
}

function redraw() {
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

async function go(index) {  // where somebody wants to look
  following = false;
  if (stroke) return;
  if (await settled()) show(index);
  else $("scrub").value = t;
}

async function settled() {  // whether what is drawn is saved, after one more try
  await saving;
  if (unsaved) {
    save();
    await saving;
  }
  return !unsaved;
}

async function show(index) {
  await saving;
  const mine = ++showing;  // of several calls the last one counts
  index = Math.max(0, Math.min(state.stems.length - 1, index));
  const picture = new Image();
  picture.src = `frame/${index}`;
  try {
    const [answer] = await Promise.all([ask(`mask/${index}`), picture.decode()]);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    if (mine !== showing) return;
    if (index !== t) past = [];
    [t, labels, stroke] = [index, bytes, null];
  } catch (error) {
    say(error.message, true);
    return;
  }
  $("frame").src = picture.src;
  $("scrub").value = t;
  shown = Math.min(MOST_OBJECTS, labels.reduce((most, id) => (id < 255 && id > most ? id : most), shown));
  listObjects();
  redraw();
  tell();
}

function listObjects() {
  const buttons = [];
  for (let id = 1; id <= shown; id++) {
    const button = document.createElement("button");
    const colour = `rgb(${palette.slice(3 * id, 3 * id + 3).join()})`;
    button.className = "object";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(!erasing && id === object));
    button.innerHTML = `<svg viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="${colour}"/></svg>${id}`;
    button.onclick = () => choose(id);
    buttons.push(button);
  }
  const more = document.createElement("button");
  more.textContent = "+";
  more.setAttribute("aria-label", "Another object");
  more.disabled = shown >= MOST_OBJECTS;
  more.onclick = () => choose(++shown);
  $("objects").replaceChildren(...buttons, more);
  $("erase").setAttribute("aria-pressed", String(erasing));
}

function choose(id) {
  [object, erasing] = [id, false];
  listObjects();
}

function dab(x, y, id) {
  const [height, width] = state.size, r = Number($("radius").value);
  for (let row = Math.max(0, Math.ceil(y - r)); row <= Math.min(height - 1, y + r); row++) {
    const half = Math.sqrt(r * r - (row - y) ** 2);
    const from = Math.max(0, Math.ceil(x - half)), to = Math.min(width - 1, Math.floor(x + half));
    if (from <= to) labels.fill(id, row * width + from, row * width + to + 1);
  }
}

function place(event) {
  const [height, width] = state.size, box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * width - 0.5;
  return [x, ((event.clientY - box.top) / box.height) * height - 0.5];
}

function move(event) {
  if (!stroke) return;
  const [x, y] = place(event), [fromX, fromY] = stroke;
  const steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY)));
  for (let i = 1; i <= steps; i++) {
    dab(fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps, erasing ? 0 : object);
  }
  stroke = [x, y];
  redraw();
}

canvas.onpointerdown = (event) => {
  if (event.button || state.running || !labels) return;
  canvas.setPointerCapture(event.pointerId);
  past.push([labels.slice(), past.length ? "by hand" : kindOf(t)]);
  past = past.slice(-UNDO);
  stroke = place(event);
  move(event);
};
canvas.onpointermove = move;
canvas.onpointerup = canvas.onpointercancel = () => {
  if (stroke) save();
  stroke = null;
};

function save(kind = "by hand") {
  const [index, bytes] = [t, labels.slice()];
  saving = saving.then(async () => {
    const body = kind === "no mask" ? undefined : await png(bytes, ...state.size);
    const kept = await change(`mask/${index}`, body ? { method: "PUT", body } : { method: "DELETE" });
    unsaved = kept ? "" : `not saved yet: ${$("status").textContent}`;
    if (kept && kind === "propagated") await change(`release/${index}`, { method: "POST" });
    tell();
  });
}

function undo() {
  if (state.running || stroke || !past.length) return;
  const [before, kind] = past.pop();
  labels = before;
  redraw();
  save(kind);
}

async function propagate() {
  if (!(await settled())) return;
  if (state.running) return change("stop", { method: "POST" });
  if (await change(`propagate/${t}`, { method: "POST" })) follow();
}

async function follow() {  // the frames as they come, until somebody looks elsewhere
  following = true;
  while (state.running) {
    await new Promise((done) => setTimeout(done, POLL));
    if (!(await change("state"))) return;
    if (following && !unsaved && !stroke && state.at !== t) await show(state.at);
  }
}

// A palette PNG, byte by byte: what a canvas writes may be altered by browsers that hide themselves.
async function png(bytes, height, width) {
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) rows.set(bytes.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  head.setUint8(8, 8);
  head.setUint8(9, 3);
  const data = new Uint8Array(await new Response(packed).arrayBuffer());
  const parts = [["IHDR", new Uint8Array(head.buffer)], ["PLTE", palette], ["IDAT", data], ["IEND", new Uint8Array()]];
  return new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), ...parts.map((part) => chunk(...part))]);
}

function chunk(name, data) {
  const bytes = new Uint8Array(data.length + 12), view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  let crc = -1;
  for (const byte of bytes.subarray(4, -4)) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  view.setUint32(data.length + 8, ~crc >>> 0);
  return bytes;
}

$("scrub").oninput = () => go(Number($("scrub").value));
$("back").onclick = () => go(t - 1);
$("forward").onclick = () => go(t + 1);
$("undo").onclick = undo;
$("propagate").onclick = propagate;
$("release").onclick = () => change(`release/${t}`, { method: "POST" });
$("erase").onclick = () => {
  erasing = !erasing;
  listObjects();
};
document.onkeydown = (event) => {
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  else if (event.key === "ArrowLeft") go(t - 1);
  else if (event.key === "ArrowRight") go(t + 1);
  else if (event.key === "[") $("radius").stepDown();
  else if (event.key === "]") $("radius").stepUp();
  else if (event.key === "e") $("erase").click();
  else if (event.key === " " && event.target.tagName !== "BUTTON") propagate();
  else return;
  event.preventDefault();
};

(async () => {
  palette = new Uint8Array(await (await ask("palette")).arrayBuffer());
  state = await (await ask("state")).json();
  const [height, width] = state.size;
  [canvas.width, canvas.height] = [width, height];
  $("stage").style.aspectRatio = `${width} / ${height}`;
  $("stage").style.width = `calc(70vh * ${width / height})`;
  image = context.createImageData(width, height);
  $("scrub").max = state.stems.length - 1;
  await show(state.running ? state.at : 0);
  follow();
})().catch((error) => say(error.message, true));
