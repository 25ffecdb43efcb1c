// The page's program: drawings to rows of 64 pixels, steps of training between frames, curves and bars.

const BATCH = 32, PIXELS = 64, HELD_OUT = 100, STEPS_A_FRAME = 4, RATE = 0.03;
const byId = (id) => document.getElementById(id);
const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// ---------------------------------------------------------------------------------------------------------- data

const rows = [];
const packed = decode(SAMPLES);
for (let at = 0; at < packed.length; at += PIXELS / 2 + 1) {
  const pixels = new Float32Array(PIXELS);
  for (let i = 0; i < PIXELS; i++) pixels[i] = ((packed[at + (i >> 1)] >> (4 * (i & 1))) & 15) / 16;
  rows.push({ pixels, label: packed[at + PIXELS / 2] });
}
const heldOut = rows.splice(rows.length - HELD_OUT);
const mean = new Float32Array(PIXELS);
for (const { pixels } of rows) pixels.forEach((p, i) => (mean[i] += p / rows.length));
const drawn = [];
const centred = (pixels, to, at = 0) => pixels.forEach((p, i) => (to[at + i] = p - mean[i]));

// --------------------------------------------------------------------------------------------------------- model

const bytes = decode(LIBRARY);
const library = await Library.instantiate(bytes);
const init = library.entry("init"), step = library.entry("train_step").use(init), predict = library.entry("predict").use(init);
let losses = [], seed = SEED, running = false;
byId("bytes").textContent = (bytes.length / 1024).toFixed(0);

// A linear congruential generator: batches are the same in every browser.
let state = 1;
const random = (below) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
};

function start() {
  init.call({ seed: [BigInt(seed++)] });
  predict.use(init);
  step.use(init).set("learning_rate", [RATE]);
  losses = [];
  state = 1;
}

function trainStep() {
  const x = step.array("x"), y = step.array("y");
  for (let i = 0; i < BATCH; i++) {
    // a quarter of each batch are drawings, where there are any
    const row = drawn.length && i % 4 === 0 ? drawn[random(drawn.length)] : rows[random(rows.length)];
    centred(row.pixels, x, i * PIXELS);
    y[i] = row.label;
  }
  step.call();
  losses.push(step.array("loss")[0]);
}

function scores(pixels) {
  centred(pixels, predict.array("x"));
  return predict.call().array("prediction");
}

const accuracy = () => heldOut.filter(({ pixels, label }) => {
  const found = scores(pixels);
  return found.indexOf(Math.max(...found)) === label;
}).length;

// ------------------------------------------------------------------------------------------------------- drawing

const pad = byId("pad"), pen = pad.getContext("2d");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let strokes = [], stroke = null;

function paintPad() {
  pen.clearRect(0, 0, pad.width, pad.height);
  pen.strokeStyle = style("--grid");
  pen.lineWidth = 1;
  for (let i = 1; i < 8; i++) {
    const at = (i * pad.width) / 8;
    pen.beginPath(); pen.moveTo(at, 0); pen.lineTo(at, pad.height); pen.moveTo(0, at); pen.lineTo(pad.width, at); pen.stroke();
  }
  pen.strokeStyle = style("--ink");
  pen.lineWidth = 34;
  pen.lineCap = pen.lineJoin = "round";
  for (const points of strokes) {
    pen.beginPath();
    points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (points.length === 1) pen.lineTo(points[0][0] + 0.1, points[0][1]);
    pen.stroke();
  }
}

// 64 pixels as those of the data set: the drawing fills 32 x 32 dots, of which each pixel counts 4 x 4.
function pixelsOfDrawing() {
  const points = strokes.flat();
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const left = Math.min(...xs), right = Math.max(...xs), top = Math.min(...ys), bottom = Math.max(...ys);
  const size = Math.max(bottom - top, (right - left) * 1.15, 60);
  const scale = 27 / size;
  const small = document.createElement("canvas");
  small.width = small.height = 32;
  const draw = small.getContext("2d", { willReadFrequently: true });
  draw.lineCap = draw.lineJoin = "round";
  draw.lineWidth = 3.6;
  draw.translate(16, 16);
  draw.scale(scale, scale);
  draw.lineWidth /= scale;
  draw.translate(-(left + right) / 2, -(top + bottom) / 2);
  for (const line of strokes) {
    draw.beginPath();
    line.forEach(([x, y], i) => (i ? draw.lineTo(x, y) : draw.moveTo(x, y)));
    if (line.length === 1) draw.lineTo(line[0][0] + 0.1, line[0][1]);
    draw.stroke();
  }
  const dots = draw.getImageData(0, 0, 32, 32).data, pixels = new Float32Array(PIXELS);
  for (let y = 0; y < 32; y++)
    for (let x = 0; x < 32; x++) if (dots[4 * (32 * y + x) + 3] > 127) pixels[8 * (y >> 2) + (x >> 2)] += 1 / 16;
  return pixels.map((p) => Math.min(p, 15 / 16));
}

const place = (event) => {
  const box = pad.getBoundingClientRect();
  return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
};
pad.addEventListener("pointerdown", (event) => {
  pad.setPointerCapture(event.pointerId);
  strokes.push((stroke = [place(event)]));
  update();
});
pad.addEventListener("pointermove", (event) => {
  if (stroke) { stroke.push(place(event)); update(); }
});
for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => (stroke = null));
byId("clear").onclick = () => { strokes = []; update(); };

// ------------------------------------------------------------------------------------------------------- display

const bars = byId("bars");
for (let k = 0; k < 10; k++) {
  bars.insertAdjacentHTML("beforeend",
    `<span>${k}</span><div class="track"><div class="fill" id="bar${k}"></div></div><span class="share" id="share${k}"></span>`);
  const button = document.createElement("button");
  button.textContent = k;
  button.onclick = () => addDrawing(k);
  byId("labels").append(button);
}

function addDrawing(label) {
  const pixels = pixelsOfDrawing();
  drawn.push({ pixels, label });
  if (drawn.length === 1) byId("album").replaceChildren();
  const figure = document.createElement("figure"), picture = document.createElement("canvas");
  picture.width = picture.height = 8;
  const image = new ImageData(8, 8);
  pixels.forEach((p, i) => image.data.set([47, 111, 94, 255 * p], 4 * i));
  picture.getContext("2d").putImageData(image, 0, 0);
  figure.append(picture, document.createElement("br"), String(label));
  byId("album").append(figure);
  byId("said").textContent = `added as ${label}`;
  strokes = [];
  update();
}

function update() {
  paintPad();
  const empty = !strokes.length;
  for (const button of byId("labels").children) button.disabled = empty;
  byId("clear").disabled = empty;
  const found = empty ? null : [...scores(pixelsOfDrawing())];
  const most = found && Math.max(...found);
  const powers = found?.map((s) => Math.exp(s - most));
  const total = powers?.reduce((a, b) => a + b, 0);
  for (let k = 0; k < 10; k++) {
    const share = found ? powers[k] / total : 0;
    byId(`bar${k}`).style.width = `${100 * share}%`;
    byId(`bar${k}`).classList.toggle("best", !!found && found[k] === most);
    byId(`share${k}`).textContent = found ? `${(100 * share).toFixed(0)} %` : "";
  }
  if (found) byId("said").textContent = "";
}

function paintCurve() {
  const canvas = byId("curve"), ratio = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const draw = canvas.getContext("2d");
  draw.scale(ratio, ratio);
  const width = canvas.clientWidth, height = canvas.clientHeight, left = 34, bottom = height - 22, top = 8;
  const highest = Math.max(2.4, ...losses.slice(0, 4));
  const y = (loss) => bottom - (Math.min(loss, highest) / highest) * (bottom - top);
  const x = (i) => left + (i / Math.max(200, losses.length)) * (width - left - 6);
  draw.font = "12px system-ui, sans-serif";
  draw.fillStyle = style("--soft");
  draw.strokeStyle = style("--line");
  for (let tick = 0; tick <= highest; tick += highest > 4 ? 2 : 1) {
    draw.beginPath(); draw.moveTo(left, y(tick)); draw.lineTo(width - 6, y(tick)); draw.stroke();
    draw.fillText(String(tick), 12, y(tick) + 4);
  }
  draw.fillText("steps", width - 42, height - 5);
  draw.fillText("loss", 4, height - 5);
  const line = (values, colour, thick) => {
    draw.strokeStyle = colour;
    draw.lineWidth = thick;
    draw.beginPath();
    values.forEach(([i, v], n) => (n ? draw.lineTo(x(i), y(v)) : draw.moveTo(x(i), y(v))));
    draw.stroke();
  };
  const every = Math.max(1, Math.floor(losses.length / 1500));
  line(losses.map((v, i) => [i, v]).filter(([i]) => i % every === 0), style("--accent-soft"), 1.2);
  let smooth = losses[0];
  line(losses.map((v, i) => [i, (smooth = 0.94 * smooth + 0.06 * v)]).filter(([i]) => i % every === 0), style("--accent"), 2.2);
}

function show(microseconds) {
  byId("steps").textContent = losses.length.toLocaleString("en");
  byId("loss").textContent = losses.length ? (losses.slice(-20).reduce((a, b) => a + b, 0) / Math.min(20, losses.length)).toFixed(3) : "–";
  byId("accuracy").textContent = losses.length ? accuracy() : "–";
  if (microseconds) byId("speed").textContent = microseconds.toFixed(0);
  paintCurve();
}

function frame() {
  if (!running) return;
  const begin = performance.now();
  for (let i = 0; i < STEPS_A_FRAME; i++) trainStep();
  show((1000 * (performance.now() - begin)) / STEPS_A_FRAME);
  update();
  requestAnimationFrame(frame);
}

function setRunning(on) {
  running = on;
  byId("train").textContent = on ? "Pause" : losses.length ? "Go on" : "Train";
  if (on) requestAnimationFrame(frame);
}
byId("train").onclick = () => setRunning(!running);
byId("reset").onclick = () => { start(); setRunning(false); show(); update(); };
addEventListener("resize", paintCurve);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paintCurve(); paintPad(); });
start();
show();
update();
