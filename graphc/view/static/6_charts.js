// Charts: the arena over time, the memory's tables, the roofline, and times of kernels.

const KIND_SIDE = { activations: 0, derivatives: 1, scratch: 2 };
const sideColour = (side) => ["var(--forward)", "var(--backward)", "var(--update)"][side];

/** A table whose columns sort when their heads are clicked: columns are [name, cell(row), sort key(row) or null, class]. */
function sorted(columns, rows, by, onrow) {
  let order = by, descending = true;
  const body = h("tbody");
  const head = h("tr", null, columns.map(([name, , key, cls], i) => h(`th${cls ? `.${cls}` : ""}${key ? ".sort" : ""}`, { title: key ? "Sort" : null, onclick: () => { if (!key) return; descending = order === i ? !descending : true; order = i; fill(); } }, name)));
  const fill = () => {
    const key = order >= 0 ? columns[order][2] : null;
    const list = key ? [...rows].sort((a, b) => { const [p, q] = [key(a), key(b)]; return (p < q ? -1 : p > q ? 1 : 0) * (descending ? -1 : 1); }) : rows;
    const shown = list.slice(0, 1000);
    body.replaceChildren(...shown.map((r) => h(onrow ? "tr.go" : "tr", { onclick: () => onrow && onrow(r) }, columns.map(([, cell, , cls]) => h(`td${cls ? `.${cls}` : ""}`, null, cell(r))))),
      ...(list.length > shown.length ? [h("tr", null, h("td", { colspan: columns.length }, `and ${count(list.length - shown.length)} more`))] : []));
  };
  fill();
  return h("table", null, h("thead", null, head), body);
}

views.memory = () => {
  const place = $("memory");
  const m = data.memory;
  if (!m) { place.replaceChildren(h("h2", null, "Memory"), h("p.empty", null, "An interpreted program has no memory plan.")); return; }
  const tensors = m.tensors.map(([name, kind, type, size, offset, first, last, what]) => ({ name, kind, type, size, offset, first, last, what }));
  const [peak, most] = m.peak;
  const atPeak = tensors.filter((t) => t.offset !== null && t.first <= peak && peak <= t.last).sort((a, b) => b.size - a.size);
  const largest = Math.max(...m.kinds.map(([, n]) => n), 1);
  place.replaceChildren(
    h("h2", null, "Memory"),
    h("p.empty", null, `${bytes(m.total)} in all: ${bytes(m.arguments)} of arguments, an arena of ${bytes(m.arena)}, known before the program runs.`),
    h(".card", null, h("h2", null, "The arena"),
      h("p", null, "Each box is a tensor: steps of the program to the right, its place in the arena upwards.", m.used.length ? ` Most is alive at step ${peak} (${m.steps[peak]?.kernel ?? ""}): ${bytes(most)}.` : ""),
      arenaChart(m, tensors, peak, atPeak)),
    h(".card.tall", null, h("h2", { style: "padding:14px 16px 4px" }, `Alive at the peak (step ${peak})`), sorted([
      ["bytes", (t) => count(t.size), (t) => t.size, "num"], ["tensor", (t) => h("b", null, `%${t.name}`)], ["type", (t) => h("span.mono", null, t.type)], ["kind", (t) => h(`span.s${KIND_SIDE[t.kind] ?? 2}`, null, t.kind), (t) => t.kind], ["steps", (t) => `${t.first} .. ${t.last}`], ["made by", (t) => m.steps[t.first]?.kernel ?? ""], ["what it is", (t) => t.what],
    ], atPeak, 0, (t) => chooseStep(t.first))),
    h(".card", null, h("h2", null, "By kind"), h("table", null, h("tbody", null, m.kinds.map(([kind, n, what]) => h("tr", null, h("td", null, h(`b.s${KIND_SIDE[kind] ?? 2}`, null, kind)), h("td.num", null, count(n)), h("td", { style: "width:30%" }, h(`span.bar.s${KIND_SIDE[kind] ?? 2}`, { style: `width:${100 * n / largest}%` })), h("td.wide", null, what)))))),
    h(".card.tall", null, h("h2", { style: "padding:14px 16px 4px" }, "Every tensor"), sorted([
      ["bytes", (t) => count(t.size), (t) => t.size, "num"], ["tensor", (t) => `%${t.name}`, (t) => t.name], ["type", (t) => h("span.mono", null, t.type)], ["kind", (t) => t.kind, (t) => t.kind], ["offset", (t) => (t.offset === null ? "" : count(t.offset)), (t) => t.offset ?? -1, "num"], ["steps", (t) => (t.offset === null ? "argument" : `${t.first} .. ${t.last}`), (t) => t.first],
    ], tensors, 0, (t) => t.offset !== null && chooseStep(t.first))),
  );
};
function chooseStep(step) {
  const k = data.kernels.findIndex((kernel) => kernel.steps.includes(step));
  if (k >= 0) { state.kernel = k; choose({ kernel: k }); }
}
function arenaChart(m, tensors, peak, atPeak) {
  const W = 1000, H = 330, L = 74, B = 46, T = 12;
  const steps = Math.max(m.steps.length, 1), top = Math.max(m.arena, 1);
  const x = (s) => L + (s / steps) * (W - L - 8), y = (o) => T + (1 - o / top) * (H - T - B);
  const chart = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "The arena over time" });
  for (let i = 0; i <= 4; i++) {
    const at = (top * i) / 4;
    chart.append(svg("line", { class: "axis", x1: L, x2: W - 8, y1: y(at), y2: y(at) }), svg("text", { x: L - 8, y: y(at) + 4, "text-anchor": "end" }, bytes(Math.round(at))));
  }
  chart.append(svg("rect", { x: x(peak), y: T, width: x(peak + 1) - x(peak), height: H - T - B, fill: "var(--ink)", opacity: 0.07 }));
  const named = new Set(atPeak);
  for (const t of tensors) {
    if (t.offset === null || !t.size) continue;
    const w = x(t.last + 1) - x(t.first), hgt = y(t.offset) - y(t.offset + t.size);
    const text = `%${t.name}: ${t.type}, ${t.kind}\n${t.what ? `${t.what}\n` : ""}${count(t.size)} bytes at ${count(t.offset)}, steps ${t.first} .. ${t.last}`;
    const box = svg("rect", { class: "go", x: x(t.first) + 0.5, y: y(t.offset + t.size), width: Math.max(1, w - 1), height: Math.max(0.75, hgt - 0.75), rx: 2, fill: sideColour(KIND_SIDE[t.kind] ?? 2), opacity: named.has(t) ? 0.85 : 0.38,
      onclick: () => chooseStep(t.first), onpointermove: (event) => showTip(text, event), onpointerleave: hideTip });
    chart.append(box);
    const label = `${t.name}  ${t.what ? t.what.split(", ").slice(0, 2).join(", ") : t.type}`, room = w - 10;
    const font = "600 11px system-ui, sans-serif";
    if (hgt > 15 && room > 26) {
      const shown = textWidth(label, font) <= room ? label : textWidth(t.name, font) <= room ? t.name : "";
      if (shown) chart.append(svg("text", { x: x(t.first) + w / 2, y: y(t.offset + t.size / 2) + 4, "text-anchor": "middle", style: `pointer-events:none;font-weight:600;fill:${named.has(t) ? "var(--panel)" : "var(--ink)"}` }, shown));
    }
  }
  const every = Math.max(1, Math.ceil(steps / 12));
  m.steps.forEach((s, i) => {
    if (i % every) return;
    const room = (x(every) - x(0)) - 6;
    chart.append(svg("text", { x: (x(i) + x(i + 1)) / 2, y: H - B + 17, "text-anchor": "middle" }, String(i)));
    chart.append(svg("text", { x: (x(i) + x(i + 1)) / 2, y: H - B + 32, "text-anchor": "middle" }, shorten(s.kernel, "11px system-ui", room)));
  });
  return chart;
}

views.profile = () => {
  const place = $("profile");
  const p = data.profile;
  if (!p) { place.replaceChildren(h("h2", null, "Profile"), h("p.empty", null, "No profile was taken. ", h("code", null, "graphc view FILE --profile"), " or ", h("code", null, "compiled.view(path, *arguments)"), " takes one.")); return; }
  const steps = p.steps.map((s, i) => ({ ...s, position: i, flops: s.operations / s.seconds / 1e9, intensity: s.bytes ? s.operations / s.bytes : 0, known: s.seconds >= p.tick }));
  const most = Math.max(...steps.map((s) => s.seconds), 1e-12);
  const last = stages[stages.length - 1];
  for (const s of steps) {
    s.k = data.kernels.findIndex((kernel) => kernel.steps.includes(s.position));
    s.side = s.k >= 0 && data.kernels[s.k].groups.length ? last.groups[data.kernels[s.k].groups[0]].s : 2;
  }
  place.replaceChildren(
    h("h2", null, "Profile"),
    h("p.empty", null, `${duration(p.seconds)} a call, the median of ${plural(p.runs, "run")}; measured roofs: ${(p.peaks.operations / 1e9).toFixed(1)} GFLOP/s in registers, ${(p.peaks.bytes / 1e9).toFixed(1)} GB/s through memory.${data.note ? ` ${data.note}` : ""}`),
    h(".card", null, h("h2", null, "Time of each kernel"), h("p", null, "The bar's light end is the 10th to 90th percentile."), timeBars(steps, most)),
    h(".card", null, h("h2", null, "Roofline"), h("p", null, "A dot is a kernel, its size the share of time. Dots left of the corner are bound by memory; a kernel whose arrays are in a cache may pass the slanted roof."), roofline(p, steps)),
    h(".card.tall", null, h("h2", { style: "padding:14px 16px 4px" }, "Numbers"), sorted([
      ["kernel", (s) => h(`b.s${s.side}`, null, s.kernel), (s) => s.kernel], ["time", (s) => briefly(s.seconds), (s) => s.seconds, "num"], ["share", (s) => `${s.percent.toFixed(1)} %`, (s) => s.percent, "num"],
      ["GFLOP/s", (s) => (s.known ? s.flops.toFixed(1) : ""), (s) => s.flops, "num"], ["of peak", (s) => (s.known ? `${s.percent_of_peak.toFixed(0)} %` : ""), (s) => s.percent_of_peak, "num"], ["of bandwidth", (s) => (s.known ? `${s.percent_of_bandwidth.toFixed(0)} %` : ""), (s) => s.percent_of_bandwidth, "num"],
      ["bound", (s) => (s.known ? s.bound : "")], ["what", (s) => s.what], ["line", (s) => (s.loc.file ? `${fileName(s.loc.file)}:${s.loc.line}` : "")],
    ], steps, 1, (s) => s.k >= 0 && chooseStep(s.position))),
  );
};
function timeBars(steps, most) {
  const shown = [...steps].sort((a, b) => b.seconds - a.seconds).slice(0, 40);
  const W = 1000, R = 24, L = 190, RIGHT = 130;
  const widest = Math.max(most, ...shown.map((s) => s.high));
  const x = (t) => L + (t / widest) * (W - L - RIGHT);
  const chart = svg("svg", { viewBox: `0 0 ${W} ${shown.length * R + 4}`, role: "img", "aria-label": "Times" });
  shown.forEach((s, i) => {
    const y = i * R;
    chart.append(svg("g", { class: "go", onclick: () => s.k >= 0 && chooseStep(s.position), onpointermove: (event) => showTip(`${s.kernel}: ${s.what}\n${duration(s.low)} .. ${duration(s.high)}`, event), onpointerleave: hideTip },
      svg("rect", { x: 0, y, width: W, height: R, fill: "transparent" }),
      svg("text", { class: "strong", x: L - 10, y: y + 16, "text-anchor": "end" }, shorten(s.kernel, "600 11px system-ui", L - 20)),
      svg("rect", { x: L, y: y + 5, width: Math.max(1, x(s.high) - L), height: 14, rx: 3, fill: sideColour(s.side), opacity: 0.22 }),
      svg("rect", { x: L, y: y + 5, width: Math.max(1, x(s.seconds) - L), height: 14, rx: 3, fill: sideColour(s.side) }),
      svg("text", { x: x(Math.max(s.high, s.seconds)) + 8, y: y + 16 }, `${briefly(s.seconds)}  ${s.percent.toFixed(1)} %`)));
  });
  return h("div", null, chart, steps.length > shown.length ? h("small.empty", null, `the ${shown.length} costliest of ${steps.length}`) : null);
}
function roofline(p, steps) {
  const dots = steps.filter((s) => s.known && s.operations > 0 && s.bytes > 0);
  if (!dots.length) return h("p.empty", null, "No kernel has arithmetic that the clock can resolve.");
  const W = 1000, H = 380, L = 74, B = 44, T = 16, R = 20;
  const peak = p.peaks.operations / 1e9, slope = p.peaks.bytes / 1e9, ridge = peak / slope;
  const floor = (v) => Math.floor(Math.log10(v)), ceil = (v) => Math.ceil(Math.log10(v));
  const x0 = Math.min(floor(Math.min(...dots.map((s) => s.intensity))), floor(ridge)), x1 = Math.max(ceil(Math.max(...dots.map((s) => s.intensity)) * 1.3), ceil(ridge * 2));
  const y0 = floor(Math.min(...dots.map((s) => s.flops), slope * 10 ** x0 * 3)), y1 = ceil(Math.max(peak, ...dots.map((s) => s.flops)) * 1.2);
  const x = (v) => L + ((Math.log10(v) - x0) / (x1 - x0)) * (W - L - R), y = (v) => T + (1 - (Math.log10(v) - y0) / (y1 - y0)) * (H - T - B);
  const chart = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Roofline" });
  const power = (n) => (n >= 0 && n < 4 ? String(10 ** n) : n < 0 && n > -3 ? (10 ** n).toFixed(-n) : `1e${n}`);
  for (let n = x0; n <= x1; n++) chart.append(svg("line", { class: "axis", x1: x(10 ** n), x2: x(10 ** n), y1: T, y2: H - B }), svg("text", { x: x(10 ** n), y: H - B + 16, "text-anchor": "middle" }, power(n)));
  for (let n = y0; n <= y1; n++) chart.append(svg("line", { class: "axis", x1: L, x2: W - R, y1: y(10 ** n), y2: y(10 ** n) }), svg("text", { x: L - 8, y: y(10 ** n) + 4, "text-anchor": "end" }, power(n)));
  chart.append(svg("text", { x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle" }, "operations for each byte moved"), svg("text", { x: 14, y: (T + H - B) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(T + H - B) / 2})` }, "GFLOP/s"));
  const from = Math.max(10 ** x0, 10 ** y0 / slope);
  chart.append(svg("polyline", { points: `${x(from)},${y(from * slope)} ${x(ridge)},${y(peak)} ${x(10 ** x1)},${y(peak)}`, fill: "none", stroke: "var(--ink)", "stroke-width": 1.6 }));
  chart.append(svg("text", { class: "strong", x: x(10 ** x1) - 6, y: y(peak) - 7, "text-anchor": "end" }, `${peak.toFixed(1)} GFLOP/s`));
  const along = (Math.atan2(y(ridge * slope) - y(from * slope), x(ridge) - x(from)) * 180) / Math.PI, mid = 10 ** ((Math.log10(from) + Math.log10(ridge)) / 2);
  chart.append(svg("text", { class: "strong", "text-anchor": "middle", transform: `translate(${x(mid)} ${y(mid * slope) - 8}) rotate(${along})` }, `${slope.toFixed(1)} GB/s`));
  const taken = [];
  for (const s of [...dots].sort((a, b) => b.seconds - a.seconds)) {
    const cx = x(s.intensity), cy = y(s.flops), r = 4 + 14 * Math.sqrt(s.percent / 100);
    const text = `${s.kernel}: ${s.what}\n${s.flops.toFixed(1)} GFLOP/s, ${s.intensity.toPrecision(3)} operations a byte\n${duration(s.seconds)}, ${s.percent.toFixed(1)} % of a call, bound by ${s.bound}`;
    chart.append(svg("circle", { class: "go", cx, cy, r, fill: sideColour(s.side), "fill-opacity": 0.55, stroke: sideColour(s.side), onclick: () => s.k >= 0 && chooseStep(s.position), onpointermove: (event) => showTip(text, event), onpointerleave: hideTip }));
    const w = textWidth(s.kernel, "600 11px system-ui");
    for (const [lx, ly] of [[cx + r + 5, cy + 4], [cx - r - 5 - w, cy + 4], [cx - w / 2, cy - r - 6], [cx - w / 2, cy + r + 14]]) {
      const box = [lx, ly - 11, lx + w, ly + 3];
      const free = box[0] > L && box[2] < W - R && !taken.some((t) => box[0] < t[2] && box[2] > t[0] && box[1] < t[3] && box[3] > t[1]) && !dots.some((o) => o !== s && x(o.intensity) > box[0] - 6 && x(o.intensity) < box[2] + 6 && y(o.flops) > box[1] - 6 && y(o.flops) < box[3] + 6);
      if (!free) continue;
      taken.push(box);
      chart.append(svg("text", { class: "strong", x: lx, y: ly, style: "pointer-events:none" }, s.kernel));
      break;
    }
  }
  return chart;
}
