// The program: the data of the page, joined into nodes that know their users, kernels and fates.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** An element: h("p.cls", {title: "..."}, "text", child). Text is always text, never markup. */
function h(name, attributes, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag || "div");
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== ""));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.flat());
  return made;
}

const count = (n) => n.toLocaleString("en");
const plural = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;
function bytes(n) {
  if (n < 1024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let unit = -1;
  for (; n >= 1024 && unit < 3; unit++) n /= 1024;
  return `${n.toFixed(n < 10 ? 2 : n < 100 ? 1 : 0)} ${units[unit]}`;
}
function duration(s) {
  for (const [unit, size] of [["s", 1], ["ms", 1e-3], ["µs", 1e-6]]) if (s >= size) return `${(s / size).toPrecision(3)} ${unit}`;
  return `${(s * 1e9).toFixed(1)} ns`;
}
function number(x) {
  if (x === null || x === undefined) return "none";
  if (Number.isInteger(x) && Math.abs(x) < 1e7) return String(x);
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e6 ? String(Number(x.toPrecision(5))) : x.toExponential(3);
}
const fileName = (path) => path.replace(/\\/g, "/").split("/").pop();

const stages = data.stages.map((raw, index) => {
  const nodes = raw.nodes.map((n, id) => ({
    ...n, id, stage: index, kind: n.kind || "op", users: [], loc: data.locs[n.l], types: n.t.map((t) => data.types[t]),
  }));
  const groups = raw.groups.map((g, id) => ({ ...g, id, stage: index, nodes: [], groups: [], size: 0 }));
  for (const node of nodes) {
    for (const from of new Set(node.o.map(([row]) => row))) nodes[from].users.push(node.id);
    node.hidden = node.kind === "const" && !node.dense; // its value is written into those who read it
  }
  for (const g of groups) if (g.p >= 0) groups[g.p].groups.push(g.id);
  for (const node of nodes) if (node.g >= 0) groups[node.g].nodes.push(node.id);
  const sized = (g) => (g.size = g.nodes.filter((i) => nodes[i].kind === "op").length + g.groups.reduce((n, i) => n + sized(groups[i]), 0));
  groups.filter((g) => g.p < 0).forEach(sized);
  return { ...raw, index, nodes, groups, after: nodes.map(() => []) };
});
stages.forEach((stage, i) => i && stage.nodes.forEach((n) => n.m >= 0 && stages[i - 1].after[n.m].push(n.id)));

/** The kernel that a row's group, or one around it, has become: -1 where there is none. */
function kernelOfRow(stage, node) {
  for (let g = node.g; g >= 0; g = stage.groups[g].p) if (stage.groups[g].k !== undefined) return stage.groups[g].k;
  return -1;
}
/** Where a node went: {kernels, gone}: `gone` is the stage in which no node stands for it; those who read it took it in. */
function fate(node) {
  let ids = [node.id];
  let gone = "";
  for (let stage = stages[node.stage]; stage.index < stages.length - 1; stage = stages[stage.index + 1]) {
    let found = ids.flatMap((i) => stage.after[i]);
    if (!found.length) {
      gone ||= stages[stage.index + 1].name;
      const seen = new Set(ids);
      let front = ids;
      while (front.length && !found.length) { // the nearest readers that are still there
        front = [...new Set(front.flatMap((i) => stage.nodes[i].users))].filter((u) => !seen.has(u));
        front.forEach((u) => seen.add(u));
        found = front.flatMap((i) => stage.after[i]);
      }
    }
    ids = [...new Set(found)];
  }
  const last = stages[stages.length - 1];
  return { kernels: [...new Set(ids.map((i) => kernelOfRow(last, last.nodes[i])).filter((k) => k >= 0))], gone };
}
function changeOf(node) {
  if (node.m === undefined || node.kind === "input") return "";
  return node.m < 0 ? "added" : node.c ? "changed" : "";
}
function lineOf(node) {
  return node.loc[0] ? `${fileName(node.loc[0])}:${node.loc[1]}` : "";
}
/** The name of an operand as its reader shows it: a constant is its value. */
function operandName(node, row) {
  const from = stages[node.stage].nodes[row];
  if (from.hidden) return from.v;
  const own = kernelOfRow(stages[node.stage], node);
  const other = kernelOfRow(stages[node.stage], from);
  const place = other >= 0 && other !== own ? `${data.kernels[other].name}.` : "";
  return `%${place}${from.n}`;
}
function rowText(node) {
  const operands = node.o.map(([row]) => operandName(node, row)).join(", ");
  const attributes = [node.a, node.d ? "diagonal" : ""].filter(Boolean).join(", ");
  const what = node.kind === "input" ? "input" : node.kind === "const" ? `const ${node.v}` : `${node.op} ${operands}`;
  return `%${node.n} = ${what}${attributes ? ` {${attributes}}` : ""} : ${node.types.join(", ")}`;
}
function title(node) {
  return node.kind === "input" ? node.n : node.kind === "const" ? `const ${node.v}` : node.op;
}
/** The words that search looks through. */
function words(node) {
  return [title(node), node.op, `%${node.n}`, node.types.join(" "), lineOf(node), node.loc[0], node.loc[2], node.loc[3], (node.out || []).join(" "), node.d ? "diagonal" : ""].join(" ").toLowerCase();
}

// What is shown; `changed` tells the views. A choice is {stage, node}, {stage, group}, {kernel} or null.
const state = { tab: "graph", stage: 0, choice: null, kernel: 0, step: 1, code: "kernel", collapsed: stages.map(() => new Set()), marks: true };
const views = {};
