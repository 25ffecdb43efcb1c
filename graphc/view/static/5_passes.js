// The passes as a timeline, and two stages side by side; the kernels with their texts.

const ROW = 21;
const fusedStage = (stage) => stage.groups.some((g) => g.kind === "kernel");

function tally(stage) {
  const nodes = stage.nodes.filter((n) => n.kind === "op");
  const kinds = { added: 0, changed: 0 };
  for (const n of nodes) { const c = changeOf(n); if (c) kinds[c]++; }
  const before = stages[stage.index - 1];
  return { ...kinds, removed: before ? stage.removed.filter((i) => before.nodes[i].kind === "op").length : 0, again: again(stage).size };
}
/** Rows that stand for a row of the stage before that another one stands for too: computed more than once. */
function again(stage) {
  const found = new Set();
  const before = stages[stage.index - 1];
  if (before) for (const ids of before.after) ids.slice(1).forEach((i) => stage.nodes[i].kind === "op" && found.add(i));
  return found;
}

views.passes = () => {
  const place = $("passes");
  const line = h(".timeline");
  stages.forEach((stage, i) => {
    if (i) {
      const t = tally(stage);
      line.append(h("button.step", { type: "button", "aria-pressed": String(state.step === i), title: "Show what this pass changed", onclick: () => { state.step = i; views.passes(); } },
        h("span.plus", null, `+${t.added} `), h("span.minus", null, `−${t.removed} `), h("span.tilde", null, `~${t.changed}`), fusedStage(stage) ? h("span", null, " grouped") : null));
    }
    const kernels = stage.groups.filter((g) => g.kind === "kernel").length;
    const ops = stage.nodes.filter((n) => n.kind === "op").length;
    line.append(h(".stop", null, h("b", null, stage.name), h("small", null, kernels ? `${plural(ops, "op")} in ${plural(kernels, "call")}` : plural(ops, "op"))));
  });
  const low = h(".stop", null, h("b", null, "machine code"), h("small", null, data.kernels.length ? plural(data.kernels.length, "kernel") : "none"));
  const seconds = ["schedule", "emit", "llvm"].reduce((s, part) => s + (data.seconds[part] || 0), 0);
  if (data.kernels.length) line.append(h(".step", null, h("small", null, seconds ? duration(seconds) : "from the cache")), low);
  place.replaceChildren(h("h2", null, "Passes"), line);
  if (stages.length < 2) { place.append(h("p.empty", null, "This program has one stage.")); return; }
  const only = h("input", { type: "checkbox", checked: state.only });
  only.addEventListener("change", () => { state.only = only.checked; views.passes(); });
  const after = stages[state.step], before = stages[state.step - 1];
  const t = tally(after);
  place.append(h(".controls", null, h("label", null, only, "only what changed"),
    h("span", null, h("span.plus", null, `${t.added} added`), " · ", h("span.minus", null, `${t.removed} removed`), " · ", h("span.tilde", null, `${t.changed} changed`),
      t.again ? ` · ${t.again} computed again in another kernel` : ""),
    h("span", null, "↕ moved · n and p go to the next and previous change")));
  const rows = sideBySide(before, after);
  const scroll = h(".scroll", { tabindex: 0 });
  const space = h("div", { style: `height:${rows.length * ROW}px;position:relative` });
  scroll.append(space);
  const draw = () => {
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - 20), last = Math.min(rows.length, first + Math.ceil(scroll.clientHeight / ROW) + 40);
    space.replaceChildren(...rows.slice(first, last).map((row, i) => drawRow(row, first + i)));
  };
  scroll.addEventListener("scroll", () => requestAnimationFrame(draw));
  place.append(h(".diff", null, h(".head", null, h("span", null, before.name), h("span", null, after.name)), scroll));
  views.passes.rows = rows;
  views.passes.scroll = scroll;
  views.passes.draw = draw;
  draw();
};

function sideBySide(before, after) {
  const rows = [];
  const twice = again(after);
  let kernel = -1;
  for (const [b, a] of after.lines) {
    const left = b >= 0 ? before.nodes[b] : null, right = a >= 0 ? after.nodes[a] : null;
    const row = {
      left: left && left.kind !== "input" && !left.hidden ? left : null, right: right && right.kind !== "input" && !right.hidden ? right : null,
      leftKind: left && before.after[b].length === 0 ? "removed" : "", rightKind: right ? changeOf(right) || (twice.has(a) ? "again" : "") : "",
    };
    if (!row.left && !row.right) continue;
    if (row.rightKind === "changed" && row.left) row.leftKind = "changed";
    if (row.right && fusedStage(after)) {
      const k = right.g >= 0 && after.groups[right.g].kind === "kernel" ? right.g : -1;
      if (k !== kernel && !state.only && k >= 0) rows.push({ head: after.groups[k] });
      kernel = k;
    }
    // a row that only moved stands on both sides, unmarked
    if (!state.only || row.leftKind || row.rightKind) rows.push(row);
  }
  return rows;
}
function drawRow(row, position) {
  const made = h(".row", { style: `top:${position * ROW}px` });
  if (row.head) {
    made.append(h("div", null, ""), h(`div.kern.side${row.head.s}`, null, `${groupTitle(stages[state.step], row.head)}  `, h("em", null, row.head.detail)));
    return made;
  }
  for (const [node, kind] of [[row.left, row.leftKind], [row.right, row.rightKind]]) {
    if (!node) { made.append(h("div.none")); continue; }
    const chosen = state.choice && state.choice.stage === node.stage && state.choice.node === node.id;
    const text = rowText(node);
    const cell = h(`div.side${node.s}${kind ? `.${kind}` : ""}${chosen ? ".on" : ""}`, { title: text, onclick: () => { choose({ stage: node.stage, node: node.id }); views.passes.draw(); } });
    const [head, ...type] = text.split(" : ");
    const alone = !row.left || !row.right;
    cell.append(`${{ added: "+ ", removed: "− ", changed: "~ ", again: "× " }[kind] || (alone ? "↕ " : "  ")}${head}`, h("em", null, ` : ${type.join(" : ")}`));
    made.append(cell);
  }
  return made;
}
function nextChange(direction) {
  const { rows, scroll } = views.passes;
  if (!rows) return;
  const changed = (r) => r && (r.leftKind || r.rightKind);
  let at = Math.floor(scroll.scrollTop / ROW + 3.01);
  while (changed(rows[at]) && at >= 0 && at < rows.length) at += direction; // out of this run
  while (at >= 0 && at < rows.length && !changed(rows[at])) at += direction;
  if (direction < 0) while (at > 0 && changed(rows[at - 1])) at--;
  if (at >= 0 && at < rows.length) scroll.scrollTop = (at - 3) * ROW;
}

views.kernels = () => {
  const place = $("kernels");
  if (!data.kernels.length) { place.replaceChildren(h("h2", null, "Kernels"), h("p.empty", null, "This program was not compiled to machine code.")); return; }
  const last = stages[stages.length - 1];
  const list = h(".list", { role: "listbox" });
  data.kernels.forEach((kernel, k) => {
    const time = timeOfKernel(k);
    const side = kernel.groups.length ? last.groups[kernel.groups[0]].s : 0;
    const rows = kernel.groups.flatMap((g) => last.groups[g].nodes).map((r) => last.nodes[r]);
    const lines = [...new Set(rows.map(lineOf).filter(Boolean))];
    const note = rows.map((n) => n.loc[3]).filter(Boolean).pop();
    list.append(h(`button.s${side}`, { type: "button", "aria-pressed": String(state.kernel === k), onclick: () => { state.kernel = k; choose({ kernel: k }); views.kernels(); } },
      h("span.right", null, time ? briefly(time.seconds) : kernel.steps.length > 1 ? `${kernel.steps.length} calls` : ""),
      h("b", null, kernel.name), h("small", null, kernel.what || ""), h("small", null, [lines.slice(0, 3).join(", ") + (lines.length > 3 ? " …" : ""), note].filter(Boolean).join(" · "))));
  });
  const kernel = data.kernels[state.kernel];
  const kinds = { kernel: "KERNEL", llvm: "LLVM IR", asm: "assembly", plan: "PLAN" };
  const text = state.code === "plan" ? data.plan : kernel[state.code] || "The target gives none.";
  place.replaceChildren(h(".split", null, list, h(".body", null,
    h(".controls", null, h("span.pills", { role: "tablist" }, Object.entries(kinds).map(([id, name]) => h("button", { type: "button", "aria-pressed": String(state.code === id), onclick: () => { state.code = id; views.kernels(); } }, name, h("small", null, id === "plan" ? "" : plural((kernel[id] || "").split("\n").length, "line"))))),
      h("button", { type: "button", style: "border-color:var(--line)", onclick: (event) => { navigator.clipboard?.writeText(text); event.target.textContent = "copied"; } }, "copy"),
      kernel.groups.length ? h("button", { type: "button", style: "border-color:var(--line)", onclick: () => go(last.nodes[last.groups[kernel.groups[0]].nodes[0]]) }, "show in the graph") : null),
    coloured(text, state.code === "plan" ? "kernel" : state.code))));
  list.querySelector('[aria-pressed="true"]')?.scrollIntoView({ block: "nearest" });
};
