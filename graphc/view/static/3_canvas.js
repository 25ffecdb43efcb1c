// The graph on a canvas: only what is in sight is drawn, so that thousands of nodes pan and zoom smoothly.

const canvas = $("canvas"), paper = canvas.getContext("2d");
const map = $("map");
const camera = { x: 0, y: 0, zoom: 1 };
let picture = null; // the drawing of the stage that is shown
let colours = {};
let pending = false;

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["bg", "panel", "ink", "muted", "faint", "line", "hover", "forward", "backward", "update", "forward-soft", "backward-soft", "update-soft", "added-ink", "changed-ink", "removed-ink"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
  colours.side = [colours.forward, colours.backward, colours.update];
  colours.soft = [colours["forward-soft"], colours["backward-soft"], colours["update-soft"]];
}
const currentStage = () => stages[state.stage];
const toScreen = (x, y) => [(x - camera.x) * camera.zoom, (y - camera.y) * camera.zoom];
const toWorld = (x, y) => [x / camera.zoom + camera.x, y / camera.zoom + camera.y];

function arrangeGraph(keep) {
  const before = keep && picture ? picture.box(keep) : null;
  const at = before && toScreen(before.x, before.y);
  picture = drawing(currentStage(), state.collapsed[state.stage]);
  const after = at && picture.box(keep);
  if (after) { // what was clicked stays under the pointer
    camera.x = after.x - at[0] / camera.zoom;
    camera.y = after.y - at[1] / camera.zoom;
  }
  mapPicture = null;
  redraw();
}

function fit() {
  const { left, top, right, bottom } = picture.ends;
  const { clientWidth: w, clientHeight: h } = canvas;
  const zoom = Math.min(1.15, (w - 60) / (right - left), (h - 150) / (bottom - top + 30));
  camera.zoom = Math.max(zoom, 0.02);
  camera.x = (left + right) / 2 - w / 2 / camera.zoom;
  camera.y = (top + bottom - 20) / 2 - h / 2 / camera.zoom;
  redraw();
}
/** The whole graph where it can be read so, else its beginning at a size that can. */
function open() {
  fit();
  const least = 0.7;
  if (camera.zoom >= least) return;
  const { left, top, right } = picture.ends;
  const { clientWidth: w } = canvas;
  camera.zoom = least;
  const start = picture.columns[0] || { x: left, right };
  const wide = (right - left) * least > w - 60;
  camera.x = (wide ? start.x : (left + right) / 2 - w / 2 / least) - (wide ? 40 / least : 0);
  if (wide && (start.right - start.x) * least > w) camera.x = (start.x + start.right) / 2 - w / 2 / least;
  camera.y = top - 96 / least;
  redraw();
}
function zoomAt(x, y, factor) {
  const [wx, wy] = toWorld(x, y);
  camera.zoom = Math.max(0.01, Math.min(4, camera.zoom * factor));
  camera.x = wx - x / camera.zoom;
  camera.y = wy - y / camera.zoom;
  redraw();
}
function reveal(box) {
  const { clientWidth: w, clientHeight: h } = canvas;
  if (camera.zoom < 0.45) camera.zoom = 0.9;
  const [x, y] = toScreen(box.x + box.w / 2, box.y + box.h / 2);
  if (x < 90 || x > w - 90 || y < 100 || y > h - 90) {
    camera.x = box.x + box.w / 2 - w / 2 / camera.zoom;
    camera.y = box.y + Math.min(box.h, h / camera.zoom) / 2 - h / 2 / camera.zoom;
  }
  redraw();
}
function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; if (state.tab === "graph") paint(); });
}

function chosenBox() {
  const c = state.choice;
  if (!c || c.stage !== state.stage || !picture) return null;
  if (c.group !== undefined) return picture.box(`g${c.group}`) || null;
  return c.node !== undefined ? picture.box(picture.shownAs(c.node)) || null : null;
}

function paint() {
  const ratio = window.devicePixelRatio || 1;
  const w = canvas.clientWidth, h = canvas.clientHeight;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
  }
  paper.setTransform(ratio, 0, 0, ratio, 0, 0);
  paper.clearRect(0, 0, w, h);
  const z = camera.zoom;
  paper.setTransform(ratio * z, 0, 0, ratio * z, -camera.x * z * ratio, -camera.y * z * ratio);
  const [x0, y0] = toWorld(0, 0), [x1, y1] = toWorld(w, h);
  const seen = (b) => b.x < x1 && b.x + b.w > x0 && b.y < y1 && b.y + b.h > y0;
  const chosen = chosenBox();
  const near = new Set();
  if (chosen) for (const e of picture.edges) { if (e.from === chosen) near.add(e.to); if (e.to === chosen) near.add(e.from); }
  const boxes = picture.boxes.filter(seen);
  for (const b of boxes) if (b.group && !b.closed) paintGroup(b, z, b === chosen);
  paintEdges(z, chosen, [x0, y0, x1, y1]);
  for (const b of boxes) if (b.node || b.closed) paintBox(b, z, b === chosen, near.has(b));
  for (const b of boxes) if (b.group && !b.closed) paintHead(b, z);
  paper.setTransform(ratio, 0, 0, ratio, 0, 0);
  const headings = [];
  for (const column of picture.columns) { // above each column, always readable
    if (picture.columns.length < 2) break;
    const [x, top] = toScreen((column.x + column.right) / 2, column.y);
    const crowded = headings.some(([px, py]) => Math.abs(px - x) < 84 && Math.abs(py - top) < 16);
    const y = crowded ? top - 16 : top;
    headings.push([x, y]);
    if (x < -100 || x > w + 100) continue;
    paper.font = `600 12px ${SANS}`;
    paper.textAlign = "center";
    paper.fillStyle = colours.side[column.side];
    const text = `${data.sides[column.side]} ${["↓", "↑", "→"][column.side]}`;
    if (y > 14) paper.fillText(text, x, y - 12);
    paper.textAlign = "left";
  }
  paintMap(x0, y0, x1, y1);
}

function trace(path, e) {
  const flow = e.up ? -1 : 1;
  if (e.cross) {
    const right = e.to.x > e.from.x;
    const ax = right ? e.from.x + e.from.w : e.from.x, ay = e.from.y + e.from.h / 2;
    const bx = right ? e.to.x : e.to.x + e.to.w, by = e.to.y + e.to.h / 2;
    const pull = Math.max(50, Math.abs(bx - ax) / 2) * (right ? 1 : -1);
    path.moveTo(ax, ay);
    path.bezierCurveTo(ax + pull, ay, bx - pull, by, bx, by);
    return;
  }
  let x = e.from.x + e.from.w / 2, y = flow > 0 ? e.from.y + e.from.h : e.from.y;
  path.moveTo(x, y);
  const points = [...e.way, { x: e.to.x + e.to.w / 2, y: flow > 0 ? e.to.y : e.to.y + e.to.h }];
  for (const p of points) {
    const pull = Math.max(14, Math.abs(p.y - y) * 0.45) * flow;
    path.bezierCurveTo(x, y + pull, p.x, p.y - pull, p.x, p.y);
    x = p.x;
    y = p.y;
  }
}
function arrow(e, path) {
  const size = 4.5;
  if (e.cross) {
    const right = e.to.x > e.from.x;
    const x = right ? e.to.x : e.to.x + e.to.w, y = e.to.y + e.to.h / 2, d = right ? -size : size;
    path.moveTo(x, y); path.lineTo(x + d * 1.4, y - size); path.lineTo(x + d * 1.4, y + size); path.closePath();
  } else {
    const x = e.to.x + e.to.w / 2, y = e.up ? e.to.y + e.to.h : e.to.y, d = e.up ? size : -size;
    path.moveTo(x, y); path.lineTo(x - size, y + d * 1.4); path.lineTo(x + size, y + d * 1.4); path.closePath();
  }
}
function paintEdges(z, chosen, [x0, y0, x1, y1]) {
  const plain = new Path2D(), cross = new Path2D(), heads = new Path2D(), strong = [new Path2D(), new Path2D()], strongHeads = [new Path2D(), new Path2D()];
  for (const e of picture.edges) {
    const mine = chosen && (e.from === chosen || e.to === chosen);
    if (!mine && e.quiet && (e.cross || e.many)) continue; // an input that is read far away: shown when it is chosen
    const left = Math.min(e.from.x, e.to.x, ...e.way.map((p) => p.x)), right = Math.max(e.from.x + e.from.w, e.to.x + e.to.w, ...e.way.map((p) => p.x));
    if (right < x0 || left > x1 || Math.max(e.from.y + e.from.h, e.to.y + e.to.h) < y0 || Math.min(e.from.y, e.to.y) > y1) continue;
    if (mine) {
      const k = e.to === chosen ? 0 : 1;
      trace(strong[k], e);
      arrow(e, strongHeads[k]);
      continue;
    }
    trace(e.cross || e.faint ? cross : plain, e);
    if (z > 0.35) arrow(e, heads);
  }
  paper.lineWidth = Math.max(1, 0.6 / z);
  paper.strokeStyle = colours.faint;
  paper.globalAlpha = 0.75;
  paper.stroke(plain);
  paper.fillStyle = colours.faint;
  paper.fill(heads);
  paper.globalAlpha = chosen ? 0.16 : 0.34;
  paper.stroke(cross);
  paper.globalAlpha = 1;
  paper.lineWidth = Math.max(2, 1.4 / z);
  for (const k of [0, 1]) { // what the chosen node reads, then who reads it
    paper.strokeStyle = paper.fillStyle = k ? colours.ink : colours.side[chosen ? chosen.side : 0];
    if (k) paper.setLineDash([6, 4]);
    paper.stroke(strong[k]);
    paper.setLineDash([]);
    paper.fill(strongHeads[k]);
  }
}
function rounded(x, y, w, h, r) {
  paper.beginPath();
  paper.roundRect(x, y, w, h, r);
}
function paintGroup(b, z, chosen) {
  rounded(b.x, b.y, b.w, b.h, 10);
  paper.globalAlpha = b.group.kind === "kernel" ? 0.75 : 0.42;
  paper.fillStyle = colours.soft[b.side];
  paper.fill();
  paper.globalAlpha = chosen ? 1 : 0.4;
  paper.lineWidth = chosen ? 2 : 1;
  paper.strokeStyle = colours.side[b.side];
  if (b.group.kind === "module") paper.setLineDash([5, 4]);
  paper.stroke();
  paper.setLineDash([]);
  paper.globalAlpha = 1;
}
function paintHead(b, z) {
  const text = groupTitle(currentStage(), b.group);
  paper.fillStyle = colours.side[b.side];
  if (z < 0.5) { // too small for its own line: beside the box, at a size that can be read
    if (!b.parent.root || b.h * z < 16) return;
    const size = 11 / z, left = b.side === 0;
    paper.font = `600 ${size}px ${SANS}`;
    paper.textAlign = left ? "right" : "left";
    const x = left ? b.x - size / 2 : b.x + b.w + size / 2;
    paper.lineWidth = size / 3;
    paper.lineJoin = "round";
    paper.strokeStyle = colours.bg;
    paper.strokeText(text, x, b.y + size);
    paper.fillText(text, x, b.y + size);
    paper.textAlign = "left";
    return;
  }
  paper.font = FONTS.head;
  const shown = shorten(text, FONTS.head, b.w - 34);
  const over = (words, x) => { // lines that pass below the words are kept off them
    paper.lineWidth = 4;
    paper.lineJoin = "round";
    paper.strokeStyle = colours.soft[b.side];
    paper.strokeText(words, x, b.y + 18);
    paper.fillText(words, x, b.y + 18);
  };
  over("▾", b.x + 9);
  over(shown, b.x + 24);
  const used = 24 + textWidth(shown, FONTS.head) + 9;
  if (b.group.kind !== "kernel" || b.w - used < 60) return;
  paper.fillStyle = colours.muted;
  paper.font = FONTS.small;
  over(shorten(b.group.detail, FONTS.small, b.w - used - 10), b.x + used);
}
function paintBox(b, z, chosen, near) {
  const { x, y, w, h } = b;
  const input = b.node && b.node.kind !== "op";
  rounded(x, y, w, h, input ? h / 2 : 7);
  paper.fillStyle = b.closed ? colours.soft[b.side] : colours.panel;
  paper.fill();
  paper.lineWidth = chosen ? Math.max(2.5, 2 / z) : near ? Math.max(1.6, 1.2 / z) : 1;
  const change = state.marks && b.node ? changeOf(b.node) : "";
  paper.strokeStyle = chosen || near ? colours.side[b.side] : b.closed ? colours.side[b.side] : colours.line;
  paper.stroke();
  if (!input && !b.closed) {
    paper.fillStyle = colours.side[b.side];
    paper.globalAlpha = b.node.s === 2 ? 0.6 : 1;
    paper.beginPath();
    paper.roundRect(x, y, 4.5, h, [7, 0, 0, 7]);
    paper.fill();
    paper.globalAlpha = 1;
    if (b.node.s !== b.side) { paper.fillStyle = colours.side[b.node.s]; paper.beginPath(); paper.roundRect(x, y, 4.5, h, [7, 0, 0, 7]); paper.fill(); }
  }
  if (z < 0.3) { // too small for words: the colour alone
    paper.fillStyle = colours.side[b.node ? b.node.s : b.side];
    paper.globalAlpha = input ? 0.25 : 0.5;
    rounded(x, y, w, h, input ? h / 2 : 7);
    paper.fill();
    paper.globalAlpha = 1;
    return;
  }
  paper.fillStyle = colours.ink;
  paper.font = b.closed ? FONTS.head : FONTS.title;
  paper.textAlign = input ? "center" : "left";
  const tx = input ? x + w / 2 : x + (b.closed ? 26 : 13);
  if (b.closed) { paper.fillStyle = colours.side[b.side]; paper.fillText("▸", x + 11, y + 20); }
  paper.fillText(b.label, tx, y + (b.closed ? 20 : 18));
  if (z > 0.42) {
    paper.fillStyle = colours.muted;
    paper.font = FONTS.small;
    paper.fillText(b.under, input ? tx : x + (b.closed ? 26 : 13), y + 33.5);
  }
  paper.textAlign = "left";
  if (!b.node) return;
  if (b.node.d) { // the diagonal of a Jacobian: a small matrix with its diagonal
    const size = 11, dx = x + w - size - 8, dy = y + 8;
    paper.strokeStyle = colours.side[b.node.s];
    paper.lineWidth = 1.2;
    paper.strokeRect(dx, dy, size, size);
    paper.lineWidth = 1.8;
    paper.beginPath(); paper.moveTo(dx + 1, dy + 1); paper.lineTo(dx + size - 1, dy + size - 1); paper.stroke();
  }
  if (change) {
    paper.fillStyle = colours[`${change}-ink`];
    paper.beginPath(); paper.arc(x + w - 1, y + 1, 4, 0, 7); paper.fill();
  }
  if (b.out && z > 0.42) {
    paper.fillStyle = colours.side[b.node.s];
    paper.font = FONTS.note;
    paper.textAlign = input ? "center" : "left";
    paper.fillText(b.out, tx, y + 49);
    paper.textAlign = "left";
  }
}

let mapPicture = null;
function paintMap(x0, y0, x1, y1) {
  const { left, top, right, bottom } = picture.ends;
  const inSight = x0 <= left && y0 <= top && x1 >= right && y1 >= bottom;
  map.hidden = inSight;
  if (inSight) return;
  const ratio = window.devicePixelRatio || 1, w = 150, h = 110;
  if (map.width !== w * ratio) { map.width = w * ratio; map.height = h * ratio; }
  const scale = Math.min((w - 12) / (right - left), (h - 12) / (bottom - top));
  const ox = (w - (right - left) * scale) / 2 - left * scale, oy = (h - (bottom - top) * scale) / 2 - top * scale;
  map.place = { scale, ox, oy };
  if (!mapPicture) {
    mapPicture = document.createElement("canvas");
    mapPicture.width = w * ratio; mapPicture.height = h * ratio;
    const pen = mapPicture.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.globalAlpha = 0.7;
    for (const b of picture.boxes) {
      if (b.group && !b.closed) continue;
      pen.fillStyle = colours.side[b.side];
      pen.fillRect(b.x * scale + ox, b.y * scale + oy, Math.max(1, b.w * scale), Math.max(1, b.h * scale));
    }
  }
  const pen = map.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, map.width, map.height);
  pen.drawImage(mapPicture, 0, 0);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.strokeStyle = colours.ink;
  pen.lineWidth = 1.2;
  pen.strokeRect(x0 * scale + ox, y0 * scale + oy, (x1 - x0) * scale, (y1 - y0) * scale);
}

function boxAt(x, y) {
  const [wx, wy] = toWorld(x, y);
  let group = null;
  for (const b of picture.boxes) {
    if (wx < b.x || wx > b.x + b.w || wy < b.y || wy > b.y + b.h) continue;
    if (b.node || b.closed) return b;
    if (!group || b.w * b.h < group.w * group.h) group = b;
  }
  return group;
}
function headHit(b, x, y) { // the triangle before a group's name
  const [wx, wy] = toWorld(x, y);
  return b.group && wx - b.x < Math.max(24, 14 / camera.zoom) && wy - b.y < Math.max(HEAD, 16 / camera.zoom);
}

const pointers = new Map();
let moved = false, pinch = 0;
const local = (event) => { const r = canvas.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, local(event));
  moved = false;
  hideTip();
});
canvas.addEventListener("pointermove", (event) => {
  const at = local(event), from = pointers.get(event.pointerId);
  if (!from) {
    const box = boxAt(...at);
    canvas.classList.toggle("over", Boolean(box && (box.node || box.closed || headHit(box, ...at))));
    return box && (camera.zoom < 0.6 || box.label?.endsWith("…") || box.under?.endsWith("…")) ? showTip(box.node ? `${rowText(box.node)}${lineOf(box.node) ? `\n${lineOf(box.node)}` : ""}` : `${groupTitle(currentStage(), box.group)}\n${box.group.detail || plural(box.group.size, "op")}`, event) : hideTip();
  }
  if (pointers.size === 2) {
    const others = [...pointers.entries()].find(([id]) => id !== event.pointerId)[1];
    const size = Math.hypot(at[0] - others[0], at[1] - others[1]);
    if (pinch) zoomAt((at[0] + others[0]) / 2, (at[1] + others[1]) / 2, size / pinch);
    pinch = size;
    moved = true;
  } else if (moved || Math.hypot(at[0] - from[0], at[1] - from[1]) > 3) {
    moved = true;
    canvas.classList.add("drag");
    camera.x -= (at[0] - from[0]) / camera.zoom;
    camera.y -= (at[1] - from[1]) / camera.zoom;
    redraw();
  } else return;
  pointers.set(event.pointerId, at);
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    pointers.delete(event.pointerId);
    pinch = 0;
    canvas.classList.remove("drag");
    if (moved || end === "pointercancel") return;
    const at = local(event), box = boxAt(...at);
    if (!box) return choose(null);
    if (box.group && (headHit(box, ...at) || (box.closed && state.choice?.group === box.group.id))) return toggleGroup(box.group.id);
    choose(box.node ? { stage: state.stage, node: box.node.id } : { stage: state.stage, group: box.group.id });
  });
}
canvas.addEventListener("dblclick", (event) => { const box = boxAt(...local(event)); if (box?.group && !box.closed) toggleGroup(box.group.id); });
canvas.addEventListener("pointerleave", () => hideTip());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  hideTip();
  if (event.ctrlKey || !event.shiftKey) return zoomAt(...local(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)));
  camera.x += (event.deltaX + event.deltaY) / camera.zoom;
  redraw();
}, { passive: false });
map.addEventListener("pointerdown", (event) => {
  const r = map.getBoundingClientRect(), { scale, ox, oy } = map.place;
  camera.x = (event.clientX - r.left - ox) / scale - canvas.clientWidth / 2 / camera.zoom;
  camera.y = (event.clientY - r.top - oy) / scale - canvas.clientHeight / 2 / camera.zoom;
  redraw();
});
new ResizeObserver(redraw).observe(canvas);

function toggleGroup(id) {
  const closed = state.collapsed[state.stage];
  if (closed.has(id)) closed.delete(id); else closed.add(id);
  arrangeGraph(`g${id}`);
}
function collapseAll(close) {
  const stage = currentStage();
  state.collapsed[state.stage] = new Set(close ? stage.groups.filter((g) => g.size).map((g) => g.id) : []);
  arrangeGraph();
  fit();
}
/** Opens what is around a node, so that it can be seen. */
function openTo(node) {
  const stage = stages[node.stage];
  const closed = state.collapsed[node.stage];
  let opened = false;
  const home = node.kind === "input" ? inputHome(stage, node) : node.g;
  for (let g = home; g >= 0; g = stage.groups[g].p) opened = closed.delete(g) || opened;
  return opened;
}
/** One step along an edge, to the neighbour that lies most in this direction. */
function stepTo(dx, dy) {
  const from = chosenBox();
  if (!from) {
    const first = picture.boxes.find((b) => b.node || b.closed);
    if (first) chooseBox(first);
    return;
  }
  const near = new Set();
  for (const e of picture.edges) { if (e.from === from) near.add(e.to); if (e.to === from) near.add(e.from); }
  let best = null, least = Infinity;
  for (const b of near) {
    const x = b.x + b.w / 2 - from.x - from.w / 2, y = b.y + b.h / 2 - from.y - from.h / 2;
    const along = x * dx + y * dy, off = Math.abs(x * dy) + Math.abs(y * dx);
    if (along <= 4) continue;
    const cost = along + 2.2 * off;
    if (off < along * 3 && cost < least) { least = cost; best = b; }
  }
  if (!best) { // no edge that way: the nearest box beside it
    for (const b of picture.boxes) {
      if (b === from || (b.group && !b.closed)) continue;
      const x = b.x + b.w / 2 - from.x - from.w / 2, y = b.y + b.h / 2 - from.y - from.h / 2;
      const along = x * dx + y * dy, off = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 4 && off < along && dx && along + 3 * off < least) { least = along + 3 * off; best = b; }
    }
  }
  if (best) chooseBox(best);
}
function chooseBox(b) {
  choose(b.node ? { stage: state.stage, node: b.node.id } : { stage: state.stage, group: b.group.id });
  reveal(b);
}
