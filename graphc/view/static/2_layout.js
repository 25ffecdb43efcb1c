// Layout: boxes in layers. Longest-path layers, barycentre order, positions by isotonic regression; boxes inside of boxes.
// (K. Sugiyama, S. Tagawa, M. Toda, Methods for visual understanding of hierarchical system structures, IEEE Trans. SMC 11(2), 1981.)

const GAP_X = 20, GAP_Y = 30, PAD = 14, HEAD = 27, COLUMN_GAP = 120, WIDEST = 3400;

/** Where non-decreasing positions nearest to `wanted` are, `apart[i]` from the one before (pool adjacent violators). */
function spread(wanted, apart) {
  let offset = 0;
  const blocks = []; // [sum, number]: a block of items that touch each other
  const offsets = wanted.map((_, i) => (offset += i ? apart[i] : 0));
  wanted.forEach((w, i) => {
    blocks.push([w - offsets[i], 1]);
    while (blocks.length > 1) {
      const [last, before] = [blocks[blocks.length - 1], blocks[blocks.length - 2]];
      if (before[0] / before[1] <= last[0] / last[1]) break;
      blocks.pop();
      before[0] += last[0];
      before[1] += last[1];
    }
  });
  return blocks.flatMap(([sum, n]) => Array(n).fill(sum / n)).map((at, i) => at + offsets[i]);
}

/** Places boxes {w, h} with edges [from, to]; gives {w, h, at: [{x, y}], ways: Map("a b" -> points)}. */
function layered(boxes, edges, options = {}) {
  const n = boxes.length;
  const out = boxes.map(() => []), into = boxes.map(() => []);
  const known = new Set();
  for (const [a, b] of edges) {
    if (a === b || known.has(a * n + b)) continue;
    known.add(a * n + b);
    out[a].push(b);
  }
  // edges that close a cycle are left out of the layers: depth first, without recursion
  const mark = new Uint8Array(n), order = [];
  for (let root = 0; root < n; root++) {
    if (mark[root]) continue;
    const stack = [[root, 0]];
    mark[root] = 1;
    while (stack.length) {
      const top = stack[stack.length - 1];
      if (top[1] < out[top[0]].length) {
        const next = out[top[0]][top[1]];
        if (mark[next] === 1) out[top[0]].splice(top[1], 1);
        else {
          top[1]++;
          if (!mark[next]) { mark[next] = 1; stack.push([next, 0]); }
        }
      } else { mark[top[0]] = 2; order.push(top[0]); stack.pop(); }
    }
  }
  order.reverse();
  out.forEach((list, a) => list.forEach((b) => into[b].push(a)));
  const rank = new Int32Array(n);
  for (const a of order) for (const b of out[a]) rank[b] = Math.max(rank[b], rank[a] + 1);
  for (const a of [...order].reverse()) if (!into[a].length && out[a].length) rank[a] = Math.min(...out[a].map((b) => rank[b])) - 1;

  // long edges get a thin box in each layer that they cross, so that they go around the others
  const items = boxes.map((box, i) => ({ w: box.w, h: box.h, rank: rank[i], up: [], down: [], real: i }));
  const ways = new Map();
  let thin = 0;
  for (let a = 0; a < n; a++) for (const b of out[a]) thin += rank[b] - rank[a] - 1;
  const route = thin < 6 * n + 3000;
  for (let a = 0; a < n; a++) {
    for (const b of out[a]) {
      let before = items[a];
      const way = [];
      for (let r = rank[a] + 1; route && r < rank[b]; r++) {
        const dummy = { w: 8, h: 0, rank: r, up: [before], down: [], real: -1 };
        items.push(dummy);
        way.push(dummy);
        before.down.push(dummy);
        before = dummy;
      }
      before.down.push(items[b]);
      items[b].up.push(before);
      if (way.length) ways.set(`${a} ${b}`, way);
    }
  }
  const lowest = items.reduce((m, i) => Math.min(m, i.rank), 0);
  const rows = [];
  const place = new Map(order.map((a, i) => [a, i]));
  for (const item of items) (rows[item.rank - lowest] ||= []).push(item);
  for (let r = 0; r < rows.length; r++) rows[r] ||= [];
  rows.forEach((row) => row.sort((p, q) => (place.get(p.real) ?? 0) - (place.get(q.real) ?? 0)).forEach((item, i) => (item.pos = i)));
  const sweeps = items.length > 6000 ? 2 : items.length > 1500 ? 4 : 10;
  for (let sweep = 0; sweep < sweeps; sweep++) {
    const down = sweep % 2 === 0;
    for (let k = 0; k < rows.length; k++) {
      const row = rows[down ? k : rows.length - 1 - k];
      for (const item of row) {
        const near = down ? item.up : item.down;
        item.key = near.length ? near.reduce((s, o) => s + (o.pos + 0.5) / rows[o.rank - lowest].length, 0) / near.length : (item.pos + 0.5) / row.length;
      }
      row.sort((p, q) => p.key - q.key || p.pos - q.pos).forEach((item, i) => (item.pos = i));
    }
  }
  // a layer that is too wide is broken into several
  const lines = [];
  for (const row of rows) {
    let line = [], width = 0;
    for (const item of row) {
      if (line.length && width + item.w + GAP_X > WIDEST) { lines.push(line); line = []; width = 0; }
      line.push(item);
      width += item.w + GAP_X;
    }
    if (line.length) lines.push(line);
  }
  for (const line of lines) {
    let x = -line.reduce((s, i) => s + i.w + GAP_X, -GAP_X) / 2;
    for (const item of line) { item.x = x + item.w / 2; x += item.w + GAP_X; }
  }
  const rounds = items.length > 6000 ? 2 : 8;
  for (let round = 0; round < rounds; round++) {
    for (let k = 0; k < lines.length; k++) {
      const line = lines[round % 2 === 0 ? k : lines.length - 1 - k];
      const wanted = line.map((item) => {
        const near = round < rounds - 2 ? (round % 2 === 0 ? item.up : item.down) : [...item.up, ...item.down];
        return near.length ? near.reduce((s, o) => s + o.x, 0) / near.length : item.x;
      });
      const apart = line.map((item, i) => (i ? (item.w + line[i - 1].w) / 2 + (item.real < 0 && line[i - 1].real < 0 ? 6 : GAP_X) : 0));
      spread(wanted, apart).forEach((x, i) => (line[i].x = x));
    }
  }
  let y = 0, left = Infinity, right = -Infinity;
  for (const line of lines) {
    if (options.wantedY) {
      const wishes = line.filter((i) => i.real >= 0).map((i) => options.wantedY(i.real)).filter((v) => v !== null);
      if (wishes.length) y = Math.max(y, wishes.reduce((s, v) => s + v, 0) / wishes.length - Math.max(...line.map((i) => i.h)) / 2);
    }
    const height = line.reduce((m, i) => Math.max(m, i.h), 0);
    for (const item of line) {
      item.y = y + height / 2;
      left = Math.min(left, item.x - item.w / 2);
      right = Math.max(right, item.x + item.w / 2);
    }
    y += height + GAP_Y;
  }
  if (!lines.length) left = right = 0;
  const found = new Map();
  for (const [key, way] of ways) found.set(key, way.map((i) => ({ x: i.x - left, y: i.y })));
  return { w: right - left, h: Math.max(0, y - GAP_Y), at: boxes.map((_, i) => ({ x: items[i].x - left, y: items[i].y })), ways: found };
}

const measure = document.createElement("canvas").getContext("2d");
const widths = new Map();
function textWidth(text, font) {
  const key = font + text;
  let found = widths.get(key);
  if (found === undefined) { measure.font = font; widths.set(key, (found = measure.measureText(text).width)); }
  return found;
}
const SANS = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif';
const MONO = 'ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, monospace';
const FONTS = { title: `600 13px ${SANS}`, small: `11px ${MONO}`, head: `600 12px ${SANS}`, note: `11px ${SANS}` };
function shorten(text, font, room) {
  if (textWidth(text, font) <= room) return text;
  const letters = [...text];
  let low = 0, high = letters.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(letters.slice(0, middle).join("") + "…", font) <= room) low = middle; else high = middle - 1;
  }
  return letters.slice(0, low).join("") + "…";
}

/** The drawn form of a stage with these groups collapsed: boxes of nodes and groups, and edges between them. */
function drawing(stage, collapsed) {
  const { nodes, groups } = stage;
  const home = nodes.map((node) => node.g);
  for (const node of nodes) if (node.kind === "input") home[node.id] = inputHome(stage, node);
  const shownAs = (id) => { // the outermost collapsed group around a node, else the node itself
    let found = null;
    for (let g = home[id]; g >= 0; g = groups[g].p) if (collapsed.has(g)) found = g;
    return found === null ? `n${id}` : `g${found}`;
  };
  const boxes = new Map();
  const root = [0, 1, 2].map((side) => ({ key: `c${side}`, side, inside: [], parent: null, root: true }));
  const boxOfGroup = (g) => {
    const key = `g${g}`;
    if (boxes.has(key)) return boxes.get(key);
    const group = groups[g];
    const parent = group.p >= 0 ? boxOfGroup(group.p) : root[group.s];
    const box = { key, group, side: group.s, inside: [], parent, closed: collapsed.has(g), first: Infinity };
    boxes.set(key, box);
    parent.inside.push(box);
    return box;
  };
  for (const node of nodes) {
    if (node.hidden) continue;
    const key = shownAs(node.id);
    if (boxes.has(key)) continue;
    if (key[0] === "g") { boxOfGroup(+key.slice(1)).first = node.id; continue; }
    const parent = home[node.id] >= 0 ? boxOfGroup(home[node.id]) : root[node.s];
    const label = title(node), under = node.types.join(" ");
    const w = Math.max(64, Math.min(230, Math.max(textWidth(label, FONTS.title) + (node.d ? 18 : 0), Math.min(206, textWidth(under, FONTS.small))) + 24));
    const box = { key, node, side: node.s, parent, w, h: node.out ? 57 : 42, inside: [] };
    if (node.out) { box.w = Math.max(w, Math.min(180, textWidth(`→ ${node.out.join(", ")}`, FONTS.note) + 26)); box.out = shorten(`→ ${node.out.join(", ")}`, FONTS.note, box.w - 20); }
    box.label = shorten(label, FONTS.title, w - 20 - (node.d ? 18 : 0));
    box.under = shorten(under, FONTS.small, w - 20);
    box.first = node.id;
    boxes.set(key, box);
    parent.inside.push(box);
  }
  const edges = new Map();
  for (const node of nodes) {
    if (node.hidden) continue;
    const to = boxes.get(shownAs(node.id));
    for (const [row] of node.o) {
      if (nodes[row].hidden) continue;
      const from = boxes.get(shownAs(row));
      if (from === to) continue;
      const key = `${from.key} ${to.key}`;
      const edge = edges.get(key) || { from, to, way: [], quiet: nodes[row].kind === "input", pairs: 0 };
      edge.pairs++;
      edges.set(key, edge);
    }
  }
  const list = [...edges.values()];
  for (const edge of list) { // at the level where the two sides part
    const chain = (box) => { const up = []; for (let b = box; b; b = b.parent) up.push(b); return up.reverse(); };
    const a = chain(edge.from), b = chain(edge.to);
    let k = 0;
    while (k < a.length && k < b.length && a[k] === b[k]) k++;
    edge.cross = k === 0;
    if (k > 0) {
      edge.at = a[k - 1];
      edge.ends = [a[k], b[k]];
      if (a[k] && b[k]) (a[k - 1].edges ||= []).push(edge);
    }
  }
  const column = root.map(() => null);
  const middle = (box) => box.y + box.h / 2;
  const arrange = (box, options) => {
    box.inside.sort((p, q) => p.first - q.first);
    box.inside.forEach((b, i) => (b.number = i));
    const size = layered(box.inside, (box.edges || []).map((e) => [e.ends[0].number, e.ends[1].number]), options);
    const flip = box.side === 1;
    box.ways = size.ways;
    const [dx, dy] = box.root ? [0, 0] : [PAD, HEAD];
    box.inside.forEach((b, i) => {
      b.dx = size.at[i].x - b.w / 2 + dx;
      b.dy = (flip ? size.h - size.at[i].y : size.at[i].y) - b.h / 2 + dy;
    });
    for (const way of size.ways.values()) for (const p of way) { p.x += dx; p.y = (flip ? size.h - p.y : p.y) + dy; }
    box.w = size.w + (box.root ? 0 : 2 * PAD);
    box.h = size.h + (box.root ? 0 : HEAD + PAD);
    if (box.group) {
      box.w = Math.max(box.w, Math.min(320, textWidth(groupTitle(stage, box.group), FONTS.head) + 44));
      const slack = box.w - size.w - 2 * PAD;
      box.inside.forEach((b) => (b.dx += slack / 2));
      for (const way of size.ways.values()) for (const p of way) p.x += slack / 2;
    }
  };
  const sizeUp = (box) => {
    if (box.node) return;
    if (box.closed) {
      box.label = shorten(groupTitle(stage, box.group), FONTS.head, 250);
      box.under = shorten(box.group.kind === "module" ? [...kernelsIn(stage, box.group), plural(box.group.size, "op")].join(", ") : box.group.detail, FONTS.small, 250);
      box.w = Math.max(96, textWidth(box.label, FONTS.head) + 46, textWidth(box.under, FONTS.small) + 42);
      box.h = 46;
      return;
    }
    box.inside.forEach(sizeUp);
    box.first = box.inside.reduce((m, b) => Math.min(m, b.first), Infinity);
    if (!box.root) arrange(box, {});
  };
  root.forEach(sizeUp);
  const settle = (box, x, y) => {
    box.x = x;
    box.y = y;
    for (const b of box.inside) if (!box.closed) settle(b, x + b.dx, y + b.dy);
    if (box.ways) for (const way of box.ways.values()) for (const p of way) { p.x += x; p.y += y; }
  };
  // forward flows down on the left, backward up beside it, each layer of it near the forward layer that it belongs to
  arrange(root[0], {});
  settle(root[0], 0, 0);
  const reach = (side) => { // boxes on this side, with the middles of those elsewhere that they are joined to
    const near = new Map();
    for (const e of list) {
      if (!e.cross) continue;
      for (const [mine, other] of [[e.to, e.from], [e.from, e.to]]) {
        if (mine.side !== side && !inColumn(mine, side)) continue;
        if (other.y === undefined) continue;
        let top = mine;
        while (top.parent && !top.parent.root) top = top.parent;
        if (top.parent !== root[side]) continue;
        if (!near.has(top)) near.set(top, []);
        near.get(top).push(middle(other));
      }
    }
    return near;
  };
  const inColumn = (box, side) => { let b = box; while (b.parent) b = b.parent; return b === root[side]; };
  const total = root[0].h;
  const ofBackward = reach(1);
  const mean = (list) => list.reduce((s, v) => s + v, 0) / list.length;
  arrange(root[1], { wantedY: (i) => { const ys = ofBackward.get(root[1].inside[i]); return ys ? total - mean(ys) : null; } });
  settle(root[1], root[0].w + (root[0].inside.length ? COLUMN_GAP : 0), total - root[1].h);
  // updates: each chain beside the gradient that it takes in
  const ofUpdate = reach(2);
  const chains = components(root[2]);
  const x2 = Math.max(root[0].w, root[1].inside.length ? root[1].x + root[1].w : 0) + (root[0].inside.length ? Math.max(COLUMN_GAP, Math.min(700, total * 0.11)) : 0); // room for names at a distance
  const placed = chains.map((boxes) => {
    const numbers = new Map(boxes.map((b, i) => [b, i]));
    const own = (root[2].edges || []).filter((e) => numbers.has(e.ends[0]) && numbers.has(e.ends[1]));
    const size = layered(boxes, own.map((e) => [numbers.get(e.ends[0]), numbers.get(e.ends[1])]));
    const ys = boxes.flatMap((b) => ofUpdate.get(b) || []);
    return { boxes, size, wanted: ys.length ? mean(ys) : -Infinity };
  }).sort((p, q) => p.wanted - q.wanted);
  const highest = placed.reduce((m, c) => (c.wanted > -Infinity ? Math.min(m, c.wanted) : m), root[0].h);
  for (const chain of placed) if (chain.wanted === -Infinity) chain.wanted = highest - 60;
  // more chains than there is height for stand in several columns, so that each stays near its gradient
  const height = Math.max(total, root[1].h, 500) * 1.15;
  const number = Math.max(1, Math.ceil(placed.reduce((sum, c) => sum + c.size.h + GAP_Y, 0) / height));
  let x3 = x2;
  for (let k = 0; k < number; k++) {
    const mine = placed.filter((_, i) => i % number === k);
    const centres = spread(mine.map((c) => c.wanted), mine.map((c, i) => (i ? (c.size.h + mine[i - 1].size.h) / 2 + GAP_Y : 0)));
    mine.forEach((chain, i) => chain.boxes.forEach((b, n) => settle(b, x3 + chain.size.at[n].x - b.w / 2, centres[i] - chain.size.h / 2 + chain.size.at[n].y - b.h / 2)));
    x3 += mine.reduce((m, c) => Math.max(m, c.size.w), 0) + 2 * GAP_X;
  }
  for (const edge of list) {
    if (edge.at && edge.ends[0] && edge.ends[1] && edge.at.ways) edge.way = edge.at.ways.get(`${edge.ends[0].number} ${edge.ends[1].number}`) || [];
    edge.up = !edge.cross && inColumn(edge.from, 1);
  }
  const all = [...boxes.values()].filter((b) => b.x !== undefined);
  const ends = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
  for (const b of all) {
    ends.left = Math.min(ends.left, b.x); ends.top = Math.min(ends.top, b.y);
    ends.right = Math.max(ends.right, b.x + b.w); ends.bottom = Math.max(ends.bottom, b.y + b.h);
  }
  if (!all.length) Object.assign(ends, { left: 0, top: 0, right: 1, bottom: 1 });
  const columns = root.filter((c) => c.inside.length).map((c) => {
    const mine = c.inside;
    return { side: c.side, x: Math.min(...mine.map((b) => b.x)), right: Math.max(...mine.map((b) => b.x + b.w)), y: Math.min(...mine.map((b) => b.y)) };
  });
  return { boxes: all, edges: list, box: (key) => boxes.get(key), shownAs, ends, columns };
}

function components(box) {
  const owner = new Map(box.inside.map((b) => [b, b]));
  const find = (b) => { while (owner.get(b) !== b) { owner.set(b, owner.get(owner.get(b))); b = owner.get(b); } return b; };
  const readers = new Map();
  const fed = new Set((box.edges || []).filter((e) => !e.quiet).map((e) => e.to));
  for (const e of box.edges || []) readers.set(e.from, (readers.get(e.from) || 0) + 1);
  for (const e of box.edges || []) { // a rate that all updates read joins none of them
    e.many = e.quiet && readers.get(e.from) > 2;
    e.faint = readers.get(e.from) > 2 && !fed.has(e.from); // a rate that is broadcast joins none of them either
    if (!e.many && !e.faint) owner.set(find(e.ends[0]), find(e.ends[1]));
  }
  const found = new Map();
  for (const b of box.inside) { const r = find(b); if (!found.has(r)) found.set(r, []); found.get(r).push(b); }
  return [...found.values()];
}

/** The box of a parameter is that of its module, where all who read it on its side are in there. */
function inputHome(stage, node) {
  const readers = node.users.map((u) => stage.nodes[u]).filter((u) => u.s === node.s && u.g >= 0);
  if (!readers.length) return -1;
  for (let g = readers[0].g; g >= 0; g = stage.groups[g].p) {
    const group = stage.groups[g];
    if (group.kind === "module" && group.s === node.s && `.${node.n}`.includes(`.${group.label}.`)) return g;
  }
  return -1;
}
function kernelsIn(stage, group) {
  return group.groups.flatMap((g) => (stage.groups[g].k !== undefined ? [data.kernels[stage.groups[g].k].name] : kernelsIn(stage, stage.groups[g])));
}
function groupTitle(stage, group) {
  return group.k !== undefined ? data.kernels[group.k].name : group.label;
}
