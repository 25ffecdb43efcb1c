// The page: tabs, search, keys, light and dark, and what happens on a choice.

const TABS = [["graph", "Graph"], ["passes", "Passes"], ["kernels", "Kernels"], ["memory", "Memory"], ["profile", "Profile"]];
const drawn = {};

function showTip(text, event) {
  const tip = $("tip");
  tip.hidden = false;
  tip.textContent = text;
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
}
function hideTip() { $("tip").hidden = true; }

function show(tab) {
  state.tab = tab;
  hideTip();
  for (const [id] of TABS) $(id).hidden = id !== tab;
  for (const button of $("tabs").children) button.setAttribute("aria-selected", String(button.dataset.tab === tab));
  if (tab === "graph") redraw();
  else views[tab]();
}
function choose(choice) {
  state.choice = choice;
  views.inspector();
  redraw();
}
/** Shows a node in the graph of its stage, whatever is around it. */
function go(node) {
  if (state.tab !== "graph" && state.tab !== "passes") show("graph");
  const target = node.hidden ? stages[node.stage].nodes[node.users[0]] || node : node;
  if (node.stage !== state.stage) setStage(node.stage, true);
  if (openTo(target)) arrangeGraph();
  choose({ stage: node.stage, node: node.id });
  const box = picture.box(picture.shownAs(target.id));
  if (box) reveal(box);
}
function setStage(index, still) {
  const following = state.choice && state.choice.node !== undefined && !still ? follow(stages[state.choice.stage].nodes[state.choice.node], index) : null;
  state.stage = index;
  tools();
  arrangeGraph();
  if (following) go(following);
  else { if (!still) choose(null); open(); }
}
/** The node of another stage that stands for this one. */
function follow(node, index) {
  while (node && node.stage < index) node = stages[node.stage + 1].nodes[stages[node.stage].after[node.id][0]];
  while (node && node.stage > index) node = node.m >= 0 ? stages[node.stage - 1].nodes[node.m] : null;
  return node;
}
function tools() {
  const stage = currentStage();
  const button = (text, hint, action, pressed) => h("button", { type: "button", title: hint, "aria-pressed": pressed === undefined ? null : String(pressed), onclick: action }, text);
  $("tools").replaceChildren(
    h(".pills", { role: "group", "aria-label": "Stage" }, stages.map((s, i) => {
      const b = button(s.name, `The graph ${i ? `after ${s.name}` : "as traced"}`, () => setStage(i), i === state.stage);
      b.append(h("small", null, count(s.nodes.filter((n) => n.kind === "op").length)));
      return b;
    })),
    h(".pills", { role: "group", "aria-label": "Zoom" }, button("fit", "Fit the whole graph (0)", fit), button("+", "Zoom in (+)", () => zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, 1.3)), button("−", "Zoom out (-)", () => zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, 1 / 1.3))),
    stage.groups.some((g) => g.size) ? h(".pills", { role: "group", "aria-label": "Groups" }, button("close all", "Close all groups (c)", () => collapseAll(true)), button("open all", "Open all groups (o)", () => collapseAll(false))) : "",
    state.stage ? h(".pills", null, button("changes", `Mark what ${stage.name} changed (m)`, () => { state.marks = !state.marks; tools(); redraw(); }, state.marks)) : "",
  );
  const sides = [...new Set(stage.nodes.map((n) => n.s))].sort();
  $("legend").replaceChildren(
    ...sides.map((s) => h("span", null, h(`i.dot.s${s}`), data.sides[s])),
    ...(stage.nodes.some((n) => n.d) ? [h("span.s1", null, h("i.diag"), h("span", { style: "color:var(--muted)" }, "diagonal of a Jacobian"))] : []),
    ...(state.stage && state.marks ? [h("span", null, h("i.dot", { style: "background:var(--added-ink);border-radius:9px" }), "added"), h("span", null, h("i.dot", { style: "background:var(--changed-ink);border-radius:9px" }), "changed")] : []),
  );
}

// Search: every word must occur; op:, name:, line:, in: look in one place.
const index = new Map();
function matches(text) {
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  const places = { op: (n) => title(n).toLowerCase(), name: (n) => `%${n.n} ${(n.out || []).join(" ")}`.toLowerCase(), line: (n) => lineOf(n).toLowerCase(), in: (n) => n.loc[2].toLowerCase(), type: (n) => n.types.join(" ") };
  if (!index.has(state.stage)) index.set(state.stage, currentStage().nodes.map(words));
  const all = index.get(state.stage);
  return currentStage().nodes.filter((n) => !n.hidden && wanted.every((w) => {
    const [, place, rest] = w.match(/^(op|name|line|in|type):(.+)$/) || [];
    return place ? places[place](n).includes(rest) : all[n.id].includes(w);
  }));
}
let hits = [], hit = 0;
function search() {
  const text = $("search").value.trim(), list = $("results");
  list.hidden = !text;
  if (!text) { hits = []; return; }
  const found = matches(text);
  const first = text.toLowerCase().split(/\s+/)[0];
  hits = found.sort((a, b) => (title(b).toLowerCase() === first) - (title(a).toLowerCase() === first) || a.id - b.id).slice(0, 200);
  hit = 0;
  list.replaceChildren(h("p", null, `${plural(found.length, "node")} in ${currentStage().name}${found.length > hits.length ? `, the first ${hits.length}` : ""}`),
    ...hits.map((n, i) => h(i ? ".hit" : ".hit.on", { role: "option", onclick: () => { pick(i); } }, h(`i.dot.s${n.s}`), h("span", { style: "overflow:hidden;text-overflow:ellipsis;white-space:nowrap" }, h("b", null, title(n)), h("span.mono", null, n.kind === "op" ? ` %${n.n} : ${n.types[0]}` : ` : ${n.types[0]}`)), h("small", null, [n.loc[2], lineOf(n), n.loc[3]].filter(Boolean).join(" · ")))));
}
function pick(i) {
  if (!hits[i]) return;
  const node = hits[i];
  $("results").hidden = true;
  $("search").blur();
  show("graph");
  go(node);
  canvas.focus({ preventScroll: true });
}
$("search").addEventListener("input", search);
$("search").addEventListener("focus", search);
$("search").addEventListener("blur", () => setTimeout(() => ($("results").hidden = true), 200));
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") pick(hit);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const rows = $("results").querySelectorAll(".hit");
    rows[hit]?.classList.remove("on");
    hit = Math.max(0, Math.min(hits.length - 1, hit + (event.key === "ArrowDown" ? 1 : -1)));
    rows[hit]?.classList.add("on");
    rows[hit]?.scrollIntoView({ block: "nearest" });
  } else if (event.key === "Escape") { event.target.value = ""; event.target.blur(); search(); }
  event.stopPropagation();
});

const KEYS = [
  ["/", "search", () => $("search").focus()],
  ["Esc", "close what is open; choose nothing", () => { if ($("help").open) $("help").close(); else choose(null); }],
  ["← ↑ → ↓", "along the edges of the graph", null],
  ["Enter", "open or close the chosen group, or the group around the chosen node", () => { const c = state.choice; if (!c || state.tab !== "graph") return; const g = c.group ?? stages[c.stage].nodes[c.node]?.g; if (g >= 0) { if (c.node !== undefined) choose({ stage: c.stage, group: g }); toggleGroup(g); } }],
  ["+", "zoom in", () => zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, 1.3)],
  ["-", "zoom out", () => zoomAt(canvas.clientWidth / 2, canvas.clientHeight / 2, 1 / 1.3)],
  ["0", "fit the whole graph", () => fit()],
  ["[ ]", "stage before, stage after", null],
  ["c", "close all groups", () => collapseAll(true)],
  ["o", "open all groups", () => collapseAll(false)],
  ["m", "mark changes", () => { state.marks = !state.marks; tools(); redraw(); }],
  ["n", "next change (passes)", () => state.tab === "passes" && nextChange(1)],
  ["p", "previous change (passes)", () => state.tab === "passes" && nextChange(-1)],
  ["t", "light or dark", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark")],
  [`1 .. ${TABS.length}`, "tabs", null],
  ["?", "these keys", () => help()],
];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  if ($("help").open && event.key !== "Escape" && event.key !== "?") return;
  const tab = TABS[event.key - 1];
  if (tab) { show(tab[0]); return; }
  if (ARROWS[event.key]) {
    if (state.tab === "kernels" && data.kernels.length && (event.key === "ArrowUp" || event.key === "ArrowDown") && event.target.tagName !== "PRE") {
      state.kernel = Math.max(0, Math.min(data.kernels.length - 1, state.kernel + ARROWS[event.key][1]));
      choose({ kernel: state.kernel });
      views.kernels();
    } else if (state.tab === "graph") stepTo(...ARROWS[event.key]);
    else return;
    event.preventDefault();
    return;
  }
  if (event.key === "[" || event.key === "]") {
    const next = state.stage + (event.key === "]" ? 1 : -1);
    if (stages[next]) setStage(next);
    return;
  }
  if (event.key === "Enter" && event.target.tagName === "BUTTON") return;
  const key = KEYS.find(([k, , action]) => action && (k === event.key || (k === "Esc" && event.key === "Escape") || (k === "+" && event.key === "=")));
  if (key) { event.preventDefault(); key[2](); }
});
function help() {
  const dialog = $("help");
  if (dialog.open) { dialog.close(); return; }
  dialog.replaceChildren(h("h2", null, "Keys"), h("dl", null, KEYS.flatMap(([key, what]) => [h("dt", null, key.split(" ").map((k) => (k === ".." ? " to " : h("kbd", null, k)))), h("dd", null, what)])),
    h("p.empty", null, "Drag to move, the wheel zooms, with Shift it moves sideways. Search words: op: name: line: in: type: look in one place, as in “op:contract in:layers.0”."),
    h("button", { type: "button", style: "border-color:var(--line)", onclick: () => dialog.close() }, "Close"));
  dialog.showModal();
}
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readColours();
  mapPicture = null;
  redraw();
}

function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  readColours();
  $("program").append(h("strong", null, `@${data.name}`), h("span.more", null, `  ${data.target}`));
  TABS.forEach(([id, name], i) => $("tabs").append(h("button", { type: "button", role: "tab", "data-tab": id, onclick: () => show(id) }, name, h("kbd", null, String(i + 1)))));
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  $("ask").addEventListener("click", help);
  const notes = [data.note, ...stages.filter((s) => s.groups.some((g) => g.kind === "run")).slice(0, 1).map((s) => `${s.name} has ${count(s.nodes.length)} nodes: runs of them are drawn as one box until it is opened.`)].filter(Boolean);
  if (notes.length) {
    $("notice").hidden = false;
    $("notice").append(h("button", { type: "button", onclick: () => ($("notice").hidden = true) }, "close"), notes.join(" "));
  }
  for (const stage of stages) { // a graph too large to be read at once opens closed
    const large = stage.groups.some((g) => g.kind === "run");
    for (const g of stage.groups) if (large ? g.size : g.kind === "module" && stage.nodes.length > 700 && g.size) state.collapsed[stage.index].add(g.id);
  }
  show("graph");
  tools();
  arrangeGraph();
  open();
  views.inspector();
  window.graphcView = { // for tests and for the console
    state, stages, data, choose, go, fit, setStage, camera, fate,
    screen: (node) => { const b = picture.box(picture.shownAs(node)); const r = canvas.getBoundingClientRect(); const [x, y] = toScreen(b.x + b.w / 2, b.y + b.h / 2); return [x + r.left, y + r.top]; },
    boxes: () => picture.boxes.map((b) => ({ key: b.key, x: b.x, y: b.y, w: b.w, h: b.h, side: b.side, closed: Boolean(b.closed), parent: b.parent.key, node: b.node?.id })),
    paint: () => { const t = performance.now(); paint(); return performance.now() - t; },
  };
  document.documentElement.dataset.ready = "yes";
}
start();
