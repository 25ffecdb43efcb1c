// The panel of details: of a node, a group, or the program.

const KEYWORDS = {
  kernel: /("(?:[^"\\]|\\.)*")|(#[^\n]*)|\b(kernel|for|to|step|let|store|load|alloc|if|else|call|atomic|barrier|prefetch|serial|unroll|vector|parallel|block|thread|scalars|in|out|inout|scratch|reg|stack|shared|select|cast|reduce|fma)\b|(%[\w.]+|@[\w.]+)|(\b-?\d[\w.+-]*\b)/g,
  llvm: /("(?:[^"\\]|\\.)*")|(;[^\n]*)|\b(define|internal|declare|ret|br|phi|load|store|call|getelementptr|fadd|fsub|fmul|fdiv|fneg|fcmp|icmp|select|add|sub|mul|and|or|xor|shl|lshr|ashr|shufflevector|insertelement|extractelement|bitcast|zext|sext|trunc|sitofp|fptosi|label|to)\b|(%[\w.]+|@[\w.]+)|(\b-?\d[\w.+-]*\b)/g,
  asm: /("(?:[^"\\]|\\.)*")|((?:#|\/\/|;)[^\n]*)|(^[^\s:]+:)|(%\w+|\b[xwvdsqzr]\d+\b)|((?:\$|#)?\b-?\d\w*\b)/gm,
};
/** Text with its words coloured; the longest texts are left plain. */
function coloured(text, language) {
  const made = h("pre.code", { tabindex: 0 });
  if (text.length > 120000) { made.textContent = text; return made; }
  let last = 0;
  for (const match of text.matchAll(KEYWORDS[language])) {
    const kind = match[1] || match[2] ? "c" : match[3] ? "k" : match[4] ? "v" : "n";
    made.append(text.slice(last, match.index), h(`span.${kind}`, null, match[0]));
    last = match.index + match[0].length;
  }
  made.append(text.slice(last));
  return made;
}
function fold(name, detail, make, open) {
  const made = h("details", { open });
  made.append(h("summary", null, name, detail ? h("small", null, detail) : null));
  const fill = () => made.children.length < 2 && made.append(make());
  if (open) fill();
  made.addEventListener("toggle", () => made.open && fill());
  return made;
}
function fact(list, name, value) {
  if (value !== "" && value !== null && value !== undefined) list.append(h("dt", null, name), h("dd", null, value));
}

views.inspector = () => {
  const panel = $("inspector");
  const c = state.choice;
  const children = !c ? aboutProgram() : c.node !== undefined ? aboutNode(stages[c.stage].nodes[c.node]) : c.group !== undefined ? aboutGroup(stages[c.stage], stages[c.stage].groups[c.group]) : aboutKernel(c.kernel);
  panel.replaceChildren(...children);
  panel.scrollTop = 0;
};

function aboutProgram() {
  const facts = h("dl.facts");
  fact(facts, "target", data.target);
  for (const stage of stages) fact(facts, stage.name, plural(stage.nodes.filter((n) => n.kind === "op").length, "op"));
  if (data.kernels.length) fact(facts, "kernels", `${plural(data.kernels.length, "kernel")}`);
  if (data.memory) { fact(facts, "arena", bytes(data.memory.arena)); fact(facts, "arguments", bytes(data.memory.arguments)); }
  if (data.profile) fact(facts, "one call", duration(data.profile.seconds));
  fact(facts, "graphc", data.version);
  const parts = Object.entries(data.seconds).filter(([, s]) => s >= 5e-5);
  const most = Math.max(...parts.map(([, s]) => s), 1e-9);
  return [
    h(".lead", null, h("h2", null, `@${data.name}`)), facts,
    h("h3", null, data.cached ? "compiling (from the object cache)" : "compiling"),
    h("table", null, h("tbody", null, parts.map(([name, s]) => h("tr", null, h("td", null, name), h("td.num", null, duration(s)), h("td", { style: "width:50%" }, h("span.bar.s2", { style: `width:${100 * s / most}%` })))))),
    h("h3", null, "look closer"),
    h(".empty", null,
      h("p", null, "Click a node for its source line, type, values, derivative and kernel. The triangle before a group's name closes it."),
      h("p", null, "Forward runs down on the left, backward up on the right: a line across is a value that the backward pass keeps."),
      h("p", null, h("kbd", null, "?"), " shows the keys.")),
  ];
}

function sourceOf(loc) {
  const [file, line] = loc;
  if (!file) return h("p.empty", null, "No source line: a pass made it.");
  const lines = data.files[file];
  const name = h("div.mono", { title: file }, `${fileName(file)}:${line}`);
  if (!lines || !lines[line]) return h("div", null, name, h("small.empty", null, "The file's text was not found."));
  const shared = Math.min(...Object.values(lines).filter((t) => t.trim()).map((t) => t.match(/^\s*/)[0].length));
  const near = Object.entries(lines).filter(([n]) => Math.abs(n - line) <= 2);
  return h("div", null, name, h(".source.mono", { style: "margin-top:4px" }, near.map(([n, text]) => h(Number(n) === line ? "div.on" : "div", null, h("i", null, n), text.slice(shared)))));
}
function rangeOf(node) {
  if (!node.r) return [];
  const [low, high, mean, odd] = node.r;
  const found = [h("h3", null, "values")];
  if (low !== null && high > low && Number.isFinite(high - low)) {
    const start = Math.min(low, 0), span = Math.max(high, 0) - start;
    const at = (v) => 100 * (v - start) / span;
    found.push(h(`.range.s${node.s}`, { title: "smallest, mean, largest; the thin line is 0" },
      h("u", { style: `left:${at(0)}%` }), h("i", { style: `left:${at(low)}%;width:${at(high) - at(low)}%` }), mean === null ? null : h("b", { style: `left:${at(mean)}%` })));
  }
  const facts = h("dl.facts");
  fact(facts, "min .. max", low === null ? "no finite value" : h("span.mono", null, Number(low) === Number(high) ? `${number(low)} everywhere` : `${number(low)} .. ${number(high)}`));
  if (mean !== null && low !== high) fact(facts, "mean", h("span.mono", null, number(mean)));
  if (odd) fact(facts, "NaN or inf", h("span.badge.removed", null, count(odd)));
  found.push(facts);
  return found;
}
function linksTo(rows, stage, label) {
  if (!rows.length) return [];
  const shown = rows.slice(0, 40);
  return [h("h3", null, `${label} (${rows.length})`), h(".links", null, shown.map(([row, name]) => {
    const to = stage.nodes[row];
    return h("button", { type: "button", onclick: () => go(to) }, h(`i.dot.s${to.s}`), h("span", null, h("b", null, title(to)), to.kind === "op" ? h("span.mono", null, ` ${name}`) : ""), h("small", null, to.types[0]));
  }), rows.length > shown.length ? h("small", null, `and ${rows.length - shown.length} more`) : null)];
}
function aboutNode(node) {
  const stage = stages[node.stage];
  const change = changeOf(node);
  const gone = fate(node);
  const facts = h("dl.facts");
  fact(facts, "value", h("span.mono", null, `%${node.n}`));
  fact(facts, "type", h("span.mono", null, node.types.join(", ")));
  fact(facts, "derivative", node.loc[3] ? h(`b.s${node.s}`, null, node.loc[3]) : "");
  fact(facts, "module", node.loc[2]);
  fact(facts, "attributes", node.a ? h("span.mono", null, node.a) : "");
  fact(facts, "output", (node.out || []).join(", "));
  const before = node.m >= 0 ? stages[node.stage - 1].nodes[node.m] : null;
  if (before && change === "changed") fact(facts, `was in ${stages[node.stage - 1].name}`, h("button.mono", { type: "button", style: "text-align:left;padding:0", onclick: () => go(before) }, rowText(before)));
  const found = [
    h(".lead", null, h("h2", null, title(node)), h(`span.badge.s${node.s}`, null, node.kind === "op" ? data.sides[node.s] : node.kind),
      node.d ? h(`span.badge.s${node.s}`, null, h("i.diag"), "diagonal Jacobian") : null, change ? h(`span.badge.${change}`, null, `${change} by ${stage.name}`) : null,
      gone.gone && node.kind === "op" ? h("span.badge.removed", null, `gone in ${gone.gone}`) : null),
    facts,
    h("h3", null, "source"), sourceOf(node.loc),
    ...(node.others || []).slice(0, 5).map((l) => h("div.mono", { title: data.locs[l][0] }, data.locs[l][0] ? `also ${fileName(data.locs[l][0])}:${data.locs[l][1]}` : "")),
    ...rangeOf(node),
    ...linksTo(node.o.map(([row]) => [row, `%${stage.nodes[row].n}`]), stage, "reads"),
    ...linksTo(node.users.map((u) => [u, `%${stage.nodes[u].n}`]), stage, "read by"),
  ];
  for (const k of gone.kernels.slice(0, 4)) found.push(...kernelParts(k, gone.kernels.length === 1, gone.gone ? "kernel of what took it in" : "kernel"));
  return found;
}
function kernelParts(k, open, heading = "kernel") {
  const kernel = data.kernels[k];
  const time = timeOfKernel(k);
  return [
    h("h3", null, heading),
    h(".links", null, h("button", { type: "button", onclick: () => { state.kernel = k; show("kernels"); } }, h("b", null, kernel.name), h("span", null, kernel.what || ""), h("small", null, time ? briefly(time.seconds) : `step ${kernel.steps.join(", ")}`))),
    fold("KERNEL", "loops over buffers", () => coloured(kernel.kernel, "kernel"), open),
    fold("LLVM IR", plural(kernel.llvm.split("\n").length, "line"), () => coloured(kernel.llvm, "llvm")),
    fold("assembly", kernel.asm ? plural(kernel.asm.split("\n").length, "line") : "none", () => coloured(kernel.asm || "The target gives none.", "asm")),
  ];
}
function aboutGroup(stage, group) {
  const facts = h("dl.facts");
  const inside = (g) => [...g.nodes, ...g.groups.flatMap((i) => inside(stage.groups[i]))];
  const members = inside(group).map((i) => stage.nodes[i]).filter((n) => n.kind === "op");
  fact(facts, "operations", count(members.length));
  fact(facts, "does", group.kind === "kernel" ? group.detail : "");
  const tally = new Map();
  for (const n of members) tally.set(n.op, (tally.get(n.op) || 0) + 1);
  fact(facts, "ops", [...tally].sort((a, b) => b[1] - a[1]).slice(0, 12).map(([op, n]) => (n > 1 ? `${n} ${op}` : op)).join(", "));
  const lines = [...new Set(members.map(lineOf).filter(Boolean))];
  fact(facts, "lines", lines.slice(0, 8).join(", ") + (lines.length > 8 ? ` and ${lines.length - 8} more` : ""));
  const notes = [...new Set(members.map((n) => n.loc[3]).filter(Boolean))];
  fact(facts, "derivatives", notes.slice(0, 8).join(", ") + (notes.length > 8 ? ` and ${notes.length - 8} more` : ""));
  const closed = state.collapsed[stage.index].has(group.id);
  return [
    h(".lead", null, h("h2", null, groupTitle(stage, group)), h(`span.badge.s${group.s}`, null, `${data.sides[group.s]} ${group.kind}`)), facts,
    h("p", null, h("button", { type: "button", style: "border-color:var(--line)", onclick: () => { toggleGroup(group.id); views.inspector(); } }, closed ? "Open" : "Close")),
    ...(group.k !== undefined ? kernelParts(group.k, true) : []),
    ...linksTo(members.slice(0, 200).map((n) => [n.id, `%${n.n}`]), stage, "inside"),
  ];
}
function aboutKernel(k) {
  const kernel = data.kernels[k];
  const stage = stages[stages.length - 1];
  const rows = kernel.groups.flatMap((g) => stage.groups[g].nodes);
  const time = timeOfKernel(k);
  const facts = h("dl.facts");
  fact(facts, "does", kernel.what);
  fact(facts, "steps", kernel.steps.join(", "));
  if (time) {
    fact(facts, "time", `${briefly(time.seconds)} (${time.percent.toFixed(1)} % of a call)`);
    if (time.seconds >= data.profile.tick) fact(facts, "bound", `${time.bound}: ${time.percent_of_peak.toFixed(0)} % of peak, ${time.percent_of_bandwidth.toFixed(0)} % of bandwidth`);
  }
  const first = rows.map((r) => stage.nodes[r]).find((n) => n.loc[0]);
  return [
    h(".lead", null, h("h2", null, kernel.name), h("span.badge", null, "kernel")), facts,
    ...(first ? [h("h3", null, "source"), sourceOf(first.loc)] : []),
    ...linksTo(rows.map((r) => [r, `%${stage.nodes[r].n}`]), stage, "computes"),
  ];
}
/** A time; less than a tick of the clock says only that. */
function briefly(seconds) {
  return seconds >= data.profile.tick ? duration(seconds) : `< ${duration(data.profile.tick)}`;
}
function timeOfKernel(k) {
  if (!data.profile) return null;
  const mine = data.kernels[k].steps.map((s) => data.profile.steps[s]);
  if (!mine.length) return null;
  return { ...mine[0], seconds: mine.reduce((s, m) => s + m.seconds, 0), percent: mine.reduce((s, m) => s + m.percent, 0) };
}
