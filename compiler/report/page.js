// The page itself: what is chosen, the picture, the panels, search, keys.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// An element with properties and children. Text is always text: nothing of the data is ever parsed as HTML.
function h(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    set(made, properties);
    made.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
    return made;
}

function s(tag, properties = {}, ...children) {
    const made = document.createElementNS(SVG, tag);
    set(made, properties);
    made.append(...children.flat(Infinity).filter(Boolean));
    return made;
}

function set(element, properties) {
    for (const [name, value] of Object.entries(properties)) {
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
}

const state = { stage: stages[0], opened: new Set(), selected: null, group: null, metric: METRICS[0], quiet: false };
const view = { x: 0, y: 0, scale: 1, picture: null };

// How long the page took to show what was asked for, until the frame is painted: read them with
// performance.getEntriesByType("measure").
function timed(name, start) {
    requestAnimationFrame(() => setTimeout(() => performance.measure(name, { start, end: performance.now() })));
}

// ---------------------------------------------------------------------------------------------- the picture

const CHARACTER = { title: 7.8, line: 6.3 };

const tree = () => state.stage.tree;
const isOpen = (item) => state.opened.has(item.key);
const selected = () => (state.selected ? tree().items.get(state.selected) : null);

// The name without what the group around it says already.
function local(item) {
    const around = [...item.up()].find((above) => above.path);
    const name = item.name;
    return around && name.startsWith(`${around.path}.`) ? name.slice(around.path.length + 1) : name;
}

const counted = (count) => `${exact(count)} node${count === 1 ? "" : "s"}`;

function captions(item) {
    if (item.kind === "output") return [item.name, "output"];
    if (item.node) {
        const types = item.node.types.join(", ");
        const name = local(item);
        const op = name === item.node.op || new RegExp(`^${item.node.op}_\\d+$`).test(name) ? "" : item.node.op;
        return [name, [op, types].filter(Boolean).join(" · ")];
    }
    const nodes = counted(item.count);
    if (item.kind === "module") return [local(item) || item.name, item.scope ? `${item.scope.module} · ${nodes}` : nodes];
    if (item.kind === "repeat") return [`${item.times} × ${item.name}`, nodes];
    if (item.of) return [item.name, `each ${item.of} · ${nodes}`];
    const [from, to] = [local(first(item.children)), local(last(item.children))];
    return [item.name, `${from === to ? from : `${from} … ${to}`} · ${nodes}`];
}

const cut = (string, length) => (string.length > length ? `${string.slice(0, length - 1)}…` : string);

function size(item) {
    if (!item.size) {
        const [title, line] = captions(item);
        item.captions = [cut(title, 36), cut(line, 46)];
        const amount = 58;
        const tag = tagOf(item)?.width ?? -8;
        const w = Math.max(item.captions[0].length * CHARACTER.title + amount, item.captions[1].length * CHARACTER.line + tag + 8);
        item.size = { w: Math.max(110, Math.ceil(w + (item.group ? 62 : 28))), h: 46 };
        item.bar = 60 + item.captions[0].length * CHARACTER.title + item.captions[1].length * CHARACTER.line;
    }
    return item.size;
}

function draw() {
    const { root, items } = tree();
    const picture = layout(root, state.stage.graph.nodes, items, isOpen, size);
    view.picture = picture;
    view.boxes = new Map(picture.boxes.map((box) => [box.item.key, box]));
    const most = root.cost[state.metric.of] || 1;
    const groups = picture.boxes.filter((box) => box.open).map(drawOpen);
    const edges = picture.edges.map(drawEdge);
    const cards = picture.boxes.filter((box) => !box.open).map((box) => drawCard(box, most));
    const world = s("g", { id: "world" }, s("g", {}, groups.map((g) => g.back)), s("g", {}, drawBlobs(picture)), s("g", {}, edges), s("g", {}, groups.map((g) => g.front)), s("g", {}, cards));
    $("canvas").replaceChildren(arrowhead(), world);
    move();
    choose();
}

function arrowhead() {
    const shape = () => s("path", { d: "M0,0L7,3.5L0,7z" });
    const marker = (id) => s("marker", { id, viewBox: "0 0 7 7", refX: 6.5, refY: 3.5, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" }, shape());
    return s("defs", {}, marker("arrow"), marker("arrow-lit"));
}

function marks(item) {
    if (grouping()) return [];
    const { added, changed, removed } = item.marks;
    return [["added", "+", added], ["changed", "~", changed], ["removed", "−", removed]].filter(([, , count]) => count);
}

function marked(item) {
    if (grouping()) return "";
    if (item.group) return item.marks.added + item.marks.changed + item.marks.removed ? " touched" : "";
    return item.marks.added ? " added" : item.marks.changed ? " changed" : "";
}

function drawEdge(edge) {
    const path = s("path", { class: `edge${edge.back ? " back" : ""}`, d: edge.d, "marker-end": edge.arrow ? "url(#arrow)" : null });
    path.edge = edge;
    return path;
}

function title(item) {
    const [name] = captions(item);
    const type = item.node ? `${item.node.op} → ${item.node.types.join(", ")}` : item.scope ? item.scope.module : "";
    const cost = METRICS.filter((m) => item.cost[m.of]).map((m) => `${brief(item.cost[m.of], m.unit)} ${m.title}`).join(" · ");
    return s("title", {}, [item.node?.path ?? item.path ?? name, type, cost, groupTitle(item)].filter(Boolean).join("\n"));
}

function drawOpen({ item, x, y, w, h: height }) {
    const [name, line] = (size(item), item.captions);
    const back = s("rect", { class: `group${marked(item)}`, x, y, width: w, height, rx: 10 });
    const front = s("g", { class: "header", "data-key": item.key, transform: `translate(${x},${y})`, role: "button", "aria-label": `${name}, ${line}, open` },
        title(item),
        s("rect", { class: "bar", x: 1, y: 1, width: w - 2, height: 27, rx: 9 }),
        toggle(item, 6, 4, true),
        s("text", { class: "name", x: 32, y: 19 }, name, s("tspan", { class: "line", dx: 8 }, line)));
    return { back, front };
}

function toggle(item, x, y, open) {
    return s("g", { class: "toggle", "data-toggle": item.key, transform: `translate(${x},${y})` },
        s("rect", { width: 20, height: 20, rx: 5 }),
        s("path", { d: open ? "M5.5,10H14.5" : "M5.5,10H14.5M10,5.5V14.5" }));
}

function drawCard({ item, x, y, w, h: height }, most) {
    const [name, line] = item.captions;
    const amount = item.cost[state.metric.of];
    const share = Math.min(1, amount / most);
    const label = `${name}, ${line}${marks(item).map(([what, , n]) => `, ${n} ${what}`).join("")}${item.group ? ", closed" : ""}`;
    const family = item.node ? item.node.family : item.kind;
    const left = item.group ? 36 : 14;
    return s("g", { class: `card ${item.kind}${marked(item)}${item.node && !item.node.live ? " unused" : ""}`, "data-key": item.key, "data-family": family,
        transform: `translate(${x},${y})`, role: "button", "aria-label": label },
    title(item),
    item.group && s("rect", { class: "stack", x: 4, y: 4, width: w, height, rx: 8 }),
    s("rect", { class: "face", width: w, height, rx: 8 }),
    share > 0 && s("rect", { class: "heat", width: w, height, rx: 8, "fill-opacity": (0.06 + 0.42 * Math.sqrt(share)).toFixed(3) }),
    s("rect", { class: "accent", x: 0.5, y: 8, width: 4, height: height - 16, rx: 2 }),
    item.group && toggle(item, 10, 6, false),
    s("text", { class: "name", x: left, y: 20 }, name),
    s("text", { class: "line", x: left, y: 36 }, line),
    amount > 0 && s("text", { class: "amount", x: w - 9, y: 20 }, brief(amount, state.metric.unit)),
    share > 0 && s("rect", { class: "share", x: 12, y: height - 4.5, width: Math.max(1.5, (w - 24) * share), height: 2.5, rx: 1.2 }),
    drawTag(item, w, height),
    badges(item, w));
}

function badges(item, width) {
    let x = width + 4;
    return marks(item).reverse().map(([what, sign, count]) => {
        const label = item.group ? `${sign}${count}` : sign;
        const w = 9 + 6.6 * label.length;
        x -= w + 3;
        return s("g", { class: `badge ${what}`, transform: `translate(${x},-8)` }, s("rect", { width: w, height: 16, rx: 8 }), s("text", { x: w / 2, y: 12 }, label));
    });
}

// -- moving about

function move() {
    $("world").setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.scale})`);
    $("canvas").classList.toggle("far", view.scale < 0.42);
}

const frame = () => $("canvas").getBoundingClientRect();

function fit() {
    const { width, height } = frame();
    const [w, tall] = [view.picture.width + 80, view.picture.height + 110];
    // All of it where that can be read; else its beginning.
    const scale = Math.min(1.1, width / w, height / tall);
    view.scale = Math.max(scale, Math.min(0.5, Math.max(0.3, width / w)));
    view.x = Math.max(20, (width - view.picture.width * view.scale) / 2);
    view.y = scale < view.scale ? 56 : Math.max(50, (height - 10 - view.picture.height * view.scale) / 2);
    move();
}

function zoom(factor, cx, cy) {
    const { width, height } = frame();
    const scale = Math.min(3, Math.max(0.04, view.scale * factor));
    const [x, y] = [cx ?? width / 2, cy ?? height / 2];
    view.x = x - ((x - view.x) * scale) / view.scale;
    view.y = y - ((y - view.y) * scale) / view.scale;
    view.scale = scale;
    move();
}

function centre(key) {
    const box = view.boxes.get(key);
    if (!box) return;
    const { width, height } = frame();
    view.scale = Math.min(Math.max(view.scale, 0.75), 1.2);
    view.x = width / 2 - (box.x + box.w / 2) * view.scale;
    view.y = box.open ? 60 - box.y * view.scale : height / 2 - (box.y + box.h / 2) * view.scale;
    move();
}

// Only as far as needed.
function reveal(key) {
    const box = view.boxes.get(key);
    if (!box) return;
    const { width, height } = frame();
    const [x, y] = [view.x + box.x * view.scale, view.y + box.y * view.scale];
    if (x < 10 || y < 10 || x + box.w * view.scale > width - 10 || y + Math.min(box.h, 80) * view.scale > height - 10) centre(key);
}

// ---------------------------------------------------------------------------------------------- choosing

function select(key) {
    state.selected = key;
    state.group = null;
    choose();
    tell();
    remember();
}

// Light up what is selected with its edges.
function choose() {
    const item = selected();
    const key = item ? shownFor(item) : null;
    for (const element of $("world").querySelectorAll(".chosen, .lit")) element.classList.remove("chosen", "lit");
    for (const element of $("world").querySelectorAll("[data-key]")) if (element.dataset.key === key) element.classList.add("chosen");
    for (const path of $("world").querySelectorAll(".edge")) {
        const lit = path.edge.net.key === key || path.edge.to?.key === key;
        path.classList.toggle("lit", lit);
        if (path.hasAttribute("marker-end")) path.setAttribute("marker-end", lit ? "url(#arrow-lit)" : "url(#arrow)");
    }
    lightGroup();
}

// The box that stands for an item: itself, or the closed group it is in.
function shownFor(item) {
    const closed = [...item.up()].reverse().find((above) => above !== tree().root && !isOpen(above));
    return (closed ?? item).key;
}

function turn(key) {
    const start = performance.now();
    const item = tree().items.get(key);
    const before = view.boxes.get(key);
    const opening = !isOpen(item);
    if (opening) state.opened.add(key);
    else state.opened.delete(key);
    if (!opening && selected() && [...selected().up()].includes(item)) state.selected = key;
    draw();
    const after = view.boxes.get(key);
    view.x += (before.x - after.x + (before.w - after.w) / 2) * view.scale;
    view.y += (before.y - after.y) * view.scale;
    move();
    select(key);
    say(`${item.captions?.[0] ?? item.name} ${opening ? `opened: ${item.children.length} parts` : "closed"}`);
    timed(opening ? "expand" : "collapse", start);
}

// Open everything around an item, select it and bring it into sight.
function jump(key) {
    const item = tree().items.get(key);
    if (!item) return;
    for (const above of item.up()) if (above !== tree().root) state.opened.add(above.key);
    draw();
    select(key);
    centre(key);
    say(`${item.name} selected`);
}

const jumpTo = (path) => jump(`n:${path}`);

// A removed node has no box: what stands in its place comes into sight.
function showGone(path) {
    const { by } = stages.find((stage) => !stage.quiet && stage.removed.has(path)).removed.get(path);
    const stand = by && !by.parameter ? `n:${by.path}` : null;
    if (stand) jump(stand);
    select(`n:${path}`);
    say(`${path} was removed`);
}

function chooseStage(number) {
    const start = performance.now();
    state.stage = stages[number];
    draw();
    if (selected()) reveal(shownFor(selected()));
    tellStages();
    tellTotals();
    tell();
    remember();
    say(`${state.stage.title}: ${state.stage.quiet ? "changed nothing" : `${state.stage.added.size} added, ${state.stage.changed.size} changed, ${state.stage.removed.size} removed`}`);
    timed("stage", start);
}

function say(message) {
    $("said").textContent = message;
}

function remember() {
    const parts = new URLSearchParams();
    if (state.stage.number || plan) parts.set("stage", state.stage.number);
    if (state.selected) parts.set("at", state.selected);
    if (state.group !== null) parts.set("group", state.group);
    history.replaceState(null, "", parts.size ? `#${parts}` : "#");
}

// ---------------------------------------------------------------------------------------------- panels

const anchor = (label, go, properties = {}) => h("button", { type: "button", class: "link", onclick: go, ...properties }, label);

function nodeLink(path, label = path) {
    return tree().items.has(`n:${path}`) ? anchor(label, () => jumpTo(path)) : h("span", { class: "gone" }, label);
}

function tellTotals() {
    const { graph } = state.stage;
    const [macs, , memory, parameters, weights, peak] = graph.told.total;
    const start = stages[0].told.total;
    const rows = [
        ["nodes", exact(graph.nodes.size), graph.nodes.size - stages[0].nodes.size],
        ["parameters", brief(parameters), parameters - start[3]],
        ["weights", brief(weights, "B"), weights - start[4]],
        ["MACs", brief(macs), macs - start[0]],
        ["activations", brief(memory, "B"), memory - start[2]],
        ["peak", brief(peak, "B"), peak - start[5]],
    ];
    const unit = { weights: "B", activations: "B", peak: "B" };
    $("totals").replaceChildren(...rows.map(([name, value, change]) => h("div", {},
        h("dt", {}, name),
        h("dd", {}, value, change !== 0 && h("small", { class: change < 0 ? "less" : "more", title: "against the model as written" },
            ` ${change < 0 ? "−" : "+"}${name === "nodes" ? exact(Math.abs(change)) : brief(Math.abs(change), unit[name])}`)))));
}

function tellStages() {
    const quiet = stages.filter((stage) => stage.quiet).length;
    const rows = stages.filter((stage) => !stage.quiet || state.quiet || stage === state.stage).map(stageRow);
    const bind = Object.entries(data.bind).map(([name, number]) => `${name} = ${number}`).join(", ");
    $("stages").replaceChildren(...[
        h("h2", {}, "Passes"),
        h("ol", {}, rows),
        quiet > 0 && h("label", { class: "toggle-quiet" },
            Object.assign(h("input", { type: "checkbox", onchange: (e) => { state.quiet = e.target.checked; tellStages(); } }), { checked: state.quiet }),
            ` ${quiet} that changed nothing`),
        h("p", { class: "note" }, `Costs are of ${data.phase === "infer" ? "inference" : "training"}${bind ? ` at ${bind}` : ""}.`),
        changes()].filter(Boolean));
    const chosen = $("stages").querySelector("[aria-current]");
    chosen?.scrollIntoView({ block: "nearest" });
}

function stageRow(stage) {
    const chips = stage.number && !stage.quiet ? [["added", "+", stage.added.size], ["changed", "~", stage.changed.size], ["removed", "−", stage.removed.size]]
        .filter(([, , count]) => count).map(([what, sign, count]) => h("span", { class: `chip ${what}`, title: `${count} ${what}` }, `${sign}${count}`)) : [];
    const measured = stage.told.measured;
    return h("li", {}, h("button", { type: "button", class: `stage${stage.quiet ? " quiet" : ""}`, "aria-current": stage === state.stage ? "step" : null, title: stage.told.doc ?? null, onclick: () => chooseStage(stage.number) },
        h("span", { class: "name" }, stage.title),
        h("span", { class: "facts" },
            stage.quiet ? "no change" : chips,
            stage.number > 0 && h("span", { class: "ms" }, `${stage.told.ms} ms`),
            measured && h("span", { class: measured[0] ? "kept" : "broken", title: `${measured[2]} probes; largest relative difference ${measured[4]}` }, measured[0] ? `✓ ${measured[4]}` : `✗ ${measured[4]}`))));
}

const LISTED = 200;

function changes() {
    const stage = state.stage;
    if (!stage.number) return null;
    const measured = stage.told.measured;
    const told = h("section", { class: "changes" }, h("h2", {}, stage.told.name),
        stage.told.doc && h("p", {}, stage.told.doc.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part))),
        h("table", { class: "pairs" },
            pair("contract", stage.told.contract),
            measured && pair("measured", h("span", { class: measured[0] ? "kept" : "broken" }, measured[0] ? "kept" : `broken at ${measured[5]}`)),
            measured && pair("relative", measured[4]), measured && pair("absolute", measured[3]), measured && pair("probes", String(measured[2]))));
    if (stage.quiet) return told;
    const list = (what, rows) => rows.length && h("details", { open: rows.length <= 24 },
        h("summary", {}, h("span", { class: `chip ${what}` }, String(rows.length)), ` ${what}`),
        h("ul", {}, rows.slice(0, LISTED), rows.length > LISTED && h("li", { class: "note" }, `and ${rows.length - LISTED} more`)));
    const gone = [...stage.removed.values()].map(({ node, by }) => h("li", {},
        anchor(node.path, () => showGone(node.path)),
        h("div", { class: "by" }, `${node.op} → `, by ? (by.parameter ? `@${by.path}` : nodeLink(by.path, written(by))) : "nothing")));
    const row = (path) => h("li", {}, nodeLink(path), h("small", {}, ` ${stage.graph.nodes.get(path).op}`));
    told.append(...[list("removed", gone), list("changed", [...stage.changed].map(row)), list("added", [...stage.added].map(row))].filter(Boolean));
    return told;
}

const pair = (name, ...value) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value));

function tell() {
    const item = selected();
    const panel = $("details");
    if (state.group !== null && grouping()) panel.replaceChildren(...tellPlanned(state.group));
    else if (item?.node) panel.replaceChildren(...tellNode(item));
    else if (item?.kind === "output") panel.replaceChildren(h("h2", {}, item.name), h("p", {}, "output of the model"), item.ref.parameter ? `@${item.ref.path}` : nodeLink(item.ref.path, written(item.ref)));
    else if (item) panel.replaceChildren(...tellGroup(item));
    else if (state.selected?.startsWith("n:")) panel.replaceChildren(...tellGone(state.selected.slice(2)));
    else panel.replaceChildren(...tellGroup(tree().root));
    panel.scrollTop = 0;
    for (const source of panel.querySelectorAll(".source .text")) {
        const marked = source.querySelector("mark");
        if (marked && marked.offsetLeft + Math.min(marked.offsetWidth, 160) > source.clientWidth) source.scrollLeft = marked.offsetLeft - 70;
    }
}

function crumbs(item) {
    const above = [...item.up()].reverse().filter((a) => a.kind === "module");
    if (!above.length) return null;
    return h("p", { class: "crumbs" }, above.map((a) => [anchor(a === tree().root ? a.name : local(a), () => (a === tree().root ? select(null) : jump(a.key))), " › "]));
}

function tellNode(item) {
    const node = item.node;
    const { graph } = state.stage;
    const readers = graph.readers.get(`%${node.path}`) ?? [];
    const named = (list) => list.filter(({ ref }) => !ref.parameter && ref.path === node.path).map(({ name }) => name);
    const [outputs, taps] = [named(graph.outputs), named(graph.taps)];
    return [
        crumbs(item),
        h("h2", {}, local(item), " ", h("span", { class: "op", "data-family": node.family }, node.op)),
        h("p", { class: "path" }, `%${node.path}`),
        verdict(node.path),
        membership(item),
        sourceOf(node.origin, item),
        h("h3", {}, "Types"), h("ul", { class: "types" }, node.types.map((t, i) => h("li", {}, node.types.length > 1 && h("small", {}, `:${i} `), h("code", {}, t)))),
        node.inputs.length > 0 && [h("h3", {}, "Reads"), h("table", { class: "pairs" }, node.inputs.map((ref, i) => ref && pair(operandName(node, i), readRow(graph, ref))))].flat(),
        node.attributes && [h("h3", {}, "Attributes"), h("table", { class: "pairs" }, lines(node.attributes).map(([name, value]) => pair(name, h("code", {}, value))))],
        h("h3", {}, "Cost"), costTable(item.cost, node.live ? "" : "not needed in this phase"),
        h("h3", {}, `Read by ${readers.length + outputs.length || "nothing"}`),
        h("ul", {}, readers.slice(0, LISTED).map((path) => h("li", {}, nodeLink(path), h("small", {}, ` ${graph.nodes.get(path).op}`))), outputs.map((name) => h("li", {}, anchor(name, () => jump(`o:${name}`)), h("small", {}, " output"))),
            taps.map((name) => h("li", {}, name, h("small", {}, " tap")))),
        node.phase && h("p", {}, `only in ${node.phase === "train" ? "training" : "inference"}`),
        life(node.path),
    ].flat().filter(Boolean);
}

function operandName(node, i) {
    const last = node.operands.length - 1;
    return i >= last && node.operands[last]?.endsWith("*") ? `${node.operands[last].slice(0, -1)}[${i - last}]` : node.operands[i] ?? "";
}

function readRow(graph, ref) {
    if (!ref.parameter) {
        const type = graph.nodes.get(ref.path)?.types[ref.index];
        return [nodeLink(ref.path, written(ref)), h("code", { class: "type" }, type ?? "")];
    }
    const parameter = graph.parameters.get(ref.path);
    const shared = (graph.readers.get(`@${ref.path}`) ?? []).length;
    return [h("span", { class: "parameter" }, `@${ref.path}`), h("code", { class: "type" }, parameter?.type ?? ""),
        parameter && h("small", {}, `${parameter.kind} = ${parameter.initial}${shared > 1 ? ` · read by ${shared} nodes` : ""}`)];
}

function costTable(cost, note) {
    const total = tree().root.cost;
    const rows = METRICS.filter((m) => cost[m.of]).map((m) => h("tr", {},
        h("th", { scope: "row" }, m.title), h("td", { class: "number" }, m.unit === "B" ? brief(cost[m.of], "B") : exact(cost[m.of])),
        h("td", { class: "number" }, `${((100 * cost[m.of]) / total[m.of]).toFixed(1)} %`)));
    return rows.length ? h("table", { class: "cost" }, rows) : h("p", { class: "note" }, note || "none");
}

// What the chosen pass did to a path.
function verdict(path) {
    const { stage } = state;
    if (stage.quiet || !stage.number) return null;
    if (stage.added.has(path)) return h("p", { class: "verdict added" }, `added by ${stage.title}`);
    if (stage.changed.has(path)) return h("div", { class: "verdict changed" }, `changed by ${stage.title}`, differences(stage.before.nodes.get(path), stage.nodes.get(path)));
    return null;
}

function differences(old, now) {
    const rows = [];
    const add = (what, a, b) => a !== b && rows.push(h("tr", {}, h("th", { scope: "row" }, what), h("td", {}, h("del", {}, a || "nothing"), h("ins", {}, b || "nothing"))));
    const said = (ref) => (ref ? written(ref) : "");
    add("operator", old.op, now.op);
    for (let i = 0; i < Math.max(old.inputs.length, now.inputs.length); i += 1) add(operandName(now, i), said(old.inputs[i]), said(now.inputs[i]));
    const [was, is] = [new Map(lines(old.attributes)), new Map(lines(now.attributes))];
    for (const name of new Set([...was.keys(), ...is.keys()])) add(name, was.get(name), is.get(name));
    add("type", old.types.join(", "), now.types.join(", "));
    add("phase", old.phase || "both", now.phase || "both");
    return rows.length > 0 && h("table", { class: "pairs" }, rows);
}

// The life of a path over all stages.
function life(path) {
    const rows = [];
    for (const stage of stages.slice(1)) {
        if (stage.quiet) continue;
        const what = stage.added.has(path) ? "added" : stage.removed.has(path) ? "removed" : stage.changed.has(path) ? "changed" : null;
        if (what) rows.push(h("li", {}, h("span", { class: `chip ${what}` }, what), " ", anchor(stage.title, () => chooseStage(stage.number))));
    }
    return rows.length ? [h("h3", {}, "Passes"), h("ol", { class: "history" }, rows)] : null;
}

// A node that this stage does not have.
function tellGone(path) {
    const stage = stages.find((candidate) => !candidate.quiet && candidate.removed.has(path));
    if (!stage) return [h("h2", {}, path), h("p", { class: "note" }, `%${path} is not in this stage.`), life(path)].flat().filter(Boolean);
    const { node, by } = stage.removed.get(path);
    return [
        h("h2", {}, node.path, " ", h("span", { class: "op", "data-family": node.family }, node.op)),
        h("div", { class: "verdict removed" }, "removed by ", anchor(stage.title, () => chooseStage(stage.number)),
            h("p", {}, by ? ["In its place stands ", by.parameter ? `@${by.path}` : nodeLink(by.path, written(by)), "."] : "Nothing stands in its place: nothing read it any more.")),
        anchor("show it as it was before", () => { chooseStage(stage.before.number); jumpTo(path); }),
        sourceOf(node.origin, null),
        h("h3", {}, "Types"), h("ul", { class: "types" }, node.types.map((t) => h("li", {}, h("code", {}, t)))),
        node.attributes && [h("h3", {}, "Attributes"), h("table", { class: "pairs" }, lines(node.attributes).map(([name, value]) => pair(name, h("code", {}, value))))],
        life(path),
    ].flat().filter(Boolean);
}

function tellGroup(item) {
    const parts = [...item.children].filter((c) => c.kind !== "output").sort((a, b) => b.cost[state.metric.of] - a.cost[state.metric.of]);
    const most = Math.max(1, ...parts.map((p) => p.cost[state.metric.of]));
    const shared = item.scope && item.scope.instance !== item.scope.path;
    return [
        crumbs(item),
        h("h2", {}, item === tree().root ? item.name : captions(item)[0], " ", item.scope && h("span", { class: "op" }, item.scope.module)),
        item.path && item.kind === "module" && h("p", { class: "path" }, item.path),
        shared && h("p", {}, `another call of ${item.scope.instance}`),
        h("p", {}, counted(item.count)),
        item !== tree().root && membership(item),
        item.scope && sourceOf(item.scope.origin, item.parent),
        h("h3", {}, "Cost"), costTable(item.cost, ""),
        h("h3", {}, `Parts by ${state.metric.title}`),
        h("table", { class: "parts" }, parts.slice(0, LISTED).map((part) => h("tr", {},
            h("td", {}, anchor(cut(captions(part)[0], 34), () => jump(part.key)), h("small", {}, ` ${part.node ? part.node.op : part.scope?.module ?? ""}`)),
            h("td", { class: "number" }, part.cost[state.metric.of] ? brief(part.cost[state.metric.of], state.metric.unit) : ""),
            h("td", { class: "meter" }, meter(part.cost[state.metric.of] / most))))),
    ].flat(Infinity).filter(Boolean);
}

function meter(share) {
    const bar = h("i", {});
    bar.style.width = `${100 * share}%`;
    return h("span", { "aria-hidden": "true" }, bar);
}

// ---------------------------------------------------------------------------------------------- source

const starts = new Map();
function lineStarts(number) {
    if (!starts.has(number)) {
        const found = [0];
        const source = data.sources[number][1];
        for (let at = source.indexOf("\n"); at >= 0; at = source.indexOf("\n", at + 1)) found.push(at + 1);
        starts.set(number, found);
    }
    return starts.get(number);
}

function lineOf(number, offset) {
    const found = lineStarts(number);
    let [low, high] = [0, found.length - 1];
    while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (found[middle] <= offset) low = middle;
        else high = middle - 1;
    }
    return low;
}

const CONTEXT = 3;

function sourceOf(origin, item) {
    if (!origin.length) return null;
    const calls = item ? [item, ...item.up()].filter((above) => above.kind === "module" && above.scope?.origin.length).map(({ scope }) => {
        const [number, start] = data.spans[scope.origin[0]];
        return h("li", {}, `${data.sources[number][0]}:${lineOf(number, start) + 1} `, h("small", {}, `calls ${scope.module}`));
    }) : [];
    return [h("h3", {}, "Source"), origin.slice(0, 8).map(excerpt),
        calls.length > 0 && h("details", { class: "calls" }, h("summary", {}, `through ${calls.length} call${calls.length === 1 ? "" : "s"}`), h("ol", {}, calls))].flat().filter(Boolean);
}

function excerpt(span) {
    const [number, start, end] = data.spans[span];
    const [name, source] = data.sources[number];
    const begins = lineStarts(number);
    const [top, bottom] = [lineOf(number, start), lineOf(number, Math.max(start, end - 1))];
    const rows = [];
    for (let line = Math.max(0, top - CONTEXT); line <= Math.min(begins.length - 1, Math.min(bottom, top + 30) + CONTEXT); line += 1) {
        const from = begins[line];
        const to = line + 1 < begins.length ? begins[line + 1] - 1 : source.length;
        const [a, b] = [Math.min(Math.max(start, from), to), Math.min(Math.max(end, from), to)];
        rows.push(h("div", { class: line >= top && line <= bottom ? "row here" : "row" },
            h("span", { class: "line-number" }, String(line + 1)),
            h("code", {}, source.slice(from, a), b > a && h("mark", {}, source.slice(a, b)), source.slice(b, to))));
    }
    return h("figure", { class: "source" }, h("figcaption", {}, `${name}:${top + 1}:${start - begins[top] + 1}`), h("div", { class: "text", tabindex: 0 }, rows));
}

// ---------------------------------------------------------------------------------------------- search

const found = { list: [], at: -1 };
const SHOWN = 60;

// Every word must occur in the path, the operator or the module. Best: the last name itself, then its beginning.
function find(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const hits = [];
    const look = (key, path, kind, gone = null) => {
        const whole = path.toLowerCase();
        const all = `${whole} ${kind.toLowerCase()}`;
        if (!words.every((word) => all.includes(word))) return;
        const last = whole.slice(whole.lastIndexOf(".") + 1);
        const word = words.at(-1);
        const score = whole === word ? 0 : last === word ? 1 : kind.toLowerCase() === word ? 2 : last.startsWith(word) ? 3 : whole.includes(word) ? 4 : 5;
        hits.push({ key, path, kind, gone, score: score + (gone ? 0.5 : 0), order: hits.length });
    };
    for (const item of tree().items.values()) {
        if (item.kind === "module" && item !== tree().root) look(item.key, item.path, item.scope?.module ?? "group");
        else if (item.node) look(item.key, item.node.path, item.node.op);
        else if (item.kind === "output") look(item.key, item.name, "output");
    }
    for (const stage of stages) {
        if (stage.quiet) continue;
        for (const { node } of stage.removed.values()) {
            if (!tree().items.has(`n:${node.path}`)) look(`n:${node.path}`, node.path, node.op, stage);
        }
    }
    return hits.sort((a, b) => a.score - b.score || a.path.length - b.path.length || a.order - b.order);
}

function search() {
    const start = performance.now();
    const hits = find($("search").value);
    Object.assign(found, { list: hits.slice(0, SHOWN), at: hits.length ? 0 : -1 });
    const asked = $("search").value.trim() !== "";
    $("found").replaceChildren(
        ...found.list.map((hit, i) => h("li", { role: "option", id: `hit${i}`, onmousedown: (e) => e.preventDefault(), onclick: () => take(hit) },
            h("span", { class: "path" }, hit.path), h("small", {}, hit.gone ? `${hit.kind}, removed by ${hit.gone.title}` : hit.kind))),
        hits.length > SHOWN ? h("li", { class: "note", role: "presentation" }, `${exact(hits.length - SHOWN)} more`) : "",
        asked && !hits.length ? h("li", { class: "note", role: "presentation" }, "nothing found") : "");
    $("found").hidden = !asked;
    $("search").setAttribute("aria-expanded", String(asked));
    point(found.at);
    if (asked) {
        say(`${hits.length} found`);
        timed("search", start);
    }
}

function point(at) {
    found.at = at;
    $("found").querySelectorAll("[role=option]").forEach((row, i) => row.setAttribute("aria-selected", String(i === at)));
    const row = at >= 0 ? $(`hit${at}`) : null;
    if (row) {
        $("search").setAttribute("aria-activedescendant", row.id);
        row.scrollIntoView({ block: "nearest" });
    } else $("search").removeAttribute("aria-activedescendant");
}

function take(hit) {
    const start = performance.now();
    shut();
    if (tree().items.has(hit.key)) jump(hit.key);
    else showGone(hit.path);
    $("canvas").focus();
    timed("jump", start);
}

function shut() {
    $("found").hidden = true;
    $("search").setAttribute("aria-expanded", "false");
}

// ---------------------------------------------------------------------------------------------- hands

function clicked(event) {
    const toggled = event.target.closest("[data-toggle]");
    if (toggled) return turn(toggled.dataset.toggle);
    const tag = event.target.closest("[data-group]");
    if (tag) return chooseGroup(Number(tag.dataset.group), false);
    const card = event.target.closest("[data-key]");
    return select(card ? card.dataset.key : null);
}

function listenToMouse() {
    const canvas = $("canvas");
    const fingers = new Map();
    let dragged = false;
    canvas.addEventListener("pointerdown", (e) => {
        fingers.set(e.pointerId, [e.clientX, e.clientY]);
        if (fingers.size === 1) dragged = false;
    });
    canvas.addEventListener("pointermove", (e) => {
        const last = fingers.get(e.pointerId);
        if (!last) return;
        const other = [...fingers].find(([id]) => id !== e.pointerId)?.[1];
        if (other) {
            const { left, top } = frame();
            const distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
            zoom(distance([e.clientX, e.clientY]) / distance(last), other[0] - left, other[1] - top);
        } else if (dragged || Math.hypot(e.clientX - last[0], e.clientY - last[1]) > 3) {
            if (!dragged) canvas.setPointerCapture(e.pointerId);
            dragged = true;
            canvas.classList.add("dragged");
            view.x += e.clientX - last[0];
            view.y += e.clientY - last[1];
            move();
        } else return;
        fingers.set(e.pointerId, [e.clientX, e.clientY]);
    });
    for (const end of ["pointerup", "pointercancel"]) {
        canvas.addEventListener(end, (e) => {
            fingers.delete(e.pointerId);
            canvas.classList.remove("dragged");
        });
    }
    canvas.addEventListener("click", (e) => (dragged ? null : clicked(e)));
    canvas.addEventListener("dblclick", (e) => {
        const card = e.target.closest("[data-key]");
        if (card && !e.target.closest("[data-toggle]") && tree().items.get(card.dataset.key).group) turn(card.dataset.key);
    });
    canvas.addEventListener("wheel", (e) => {
        e.preventDefault();
        const { left, top } = frame();
        zoom(Math.exp(-e.deltaY * (e.ctrlKey ? 0.01 : 0.0015)), e.clientX - left, e.clientY - top);
    }, { passive: false });
}

// To what the selected box reads (up) or to what reads it (down), or sideways.
function walk(side) {
    const item = selected();
    const here = item && view.boxes.get(shownFor(item));
    if (!here) {
        const boxes = view.picture.boxes;
        return boxes.length ? step(boxes[0]) : null;
    }
    const middle = (box) => [box.x + box.w / 2, box.y + (box.open ? 14 : box.h / 2)];
    const [x, y] = middle(here);
    const linked = new Set();
    if (side === "up") for (const e of view.picture.edges) if (e.to === here.item) linked.add(e.net.key);
    if (side === "down") for (const e of view.picture.edges) if (e.net === here.item && e.to) linked.add(e.to.key);
    const near = (box) => {
        const [bx, by] = middle(box);
        if (side === "left" || side === "right") return side === "left" === bx < x && bx !== x && Math.abs(by - y) < 60 ? Math.abs(bx - x) : Infinity;
        return linked.has(box.item.key) ? Math.abs(bx - x) + Math.abs(by - y) : Infinity;
    };
    const best = view.picture.boxes.filter((box) => box !== here).map((box) => [near(box), box]).sort((a, b) => a[0] - b[0])[0];
    return best && best[0] < Infinity ? step(best[1]) : null;
}

function step(box) {
    select(box.item.key);
    reveal(box.item.key);
    const [name, line] = (size(box.item), box.item.captions);
    say(`${name}, ${line}`);
}

function nextStage(by) {
    for (let n = state.stage.number + by; n >= 0 && n < stages.length; n += by) if (!stages[n].quiet) return chooseStage(n);
}

function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape") return escape();
    if (typing) return;
    const anywhere = { "/": () => $("search").select(), "?": keys, "[": () => nextStage(-1), "]": () => nextStage(1) };
    const onCanvas = {
        ArrowUp: () => walk("up"), ArrowDown: () => walk("down"), ArrowLeft: () => walk("left"), ArrowRight: () => walk("right"),
        "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
        Enter: () => openSelected(), " ": () => openSelected(), Backspace: () => outward(),
    };
    const action = anywhere[event.key] ?? (document.activeElement === $("canvas") || document.activeElement === document.body ? onCanvas[event.key] : null);
    if (action) {
        event.preventDefault();
        if (event.key === "/") $("search").focus();
        action();
    }
}

function openSelected() {
    const item = selected();
    if (!item) return;
    const shown = tree().items.get(shownFor(item));
    if (shown.group) turn(shown.key);
    else $("details").focus();
}

function outward() {
    const above = selected()?.parent;
    if (above && above !== tree().root) {
        select(above.key);
        reveal(above.key);
    } else select(null);
}

function escape() {
    if (!$("keys").hidden) keys();
    else if (!$("found").hidden) shut();
    else select(null);
}

function keys() {
    $("keys").hidden = !$("keys").hidden;
    $("help").setAttribute("aria-expanded", String(!$("keys").hidden));
}

function typed(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves && found.list.length) {
        event.preventDefault();
        point((found.at + moves[event.key] + found.list.length) % found.list.length);
    } else if (event.key === "Enter" && found.at >= 0) take(found.list[found.at]);
}

// On paper the whole picture fits the page.
function listenToPrinter() {
    window.addEventListener("beforeprint", () => {
        $("canvas").setAttribute("viewBox", `-10 -10 ${view.picture.width + 20} ${view.picture.height + 20}`);
        $("world").removeAttribute("transform");
    });
    window.addEventListener("afterprint", () => {
        $("canvas").removeAttribute("viewBox");
        move();
    });
}

function legend() {
    const families = [["product", "products"], ["normalization", "normalisation"], ["activation", "activation"], ["arithmetic", "arithmetic"], ["pooling", "pooling, reduction"], ["layout", "layout"], ["creation", "constants"]];
    const changes_ = stages.length > 1 && !plan ? [["added", "added"], ["changed", "changed"], ["removed", "removed"]] : [];
    $("legend").replaceChildren(...families.map(([family, name]) => h("span", {}, h("i", { "data-family": family }), name)), ...changes_.map(([what, name]) => h("span", {}, h("i", { class: what }), name)));
}

// What is nearly the whole model is open from the start.
function unwrap() {
    const { root } = tree();
    for (let item = root; item; item = item.children.find((child) => child.group && child.count > 0.7 * root.count && child.children.length <= CROWD)) {
        if (item !== root) state.opened.add(item.key);
    }
}

function begin() {
    $("model").textContent = data.model;
    document.title = `${data.model} · netc report`;
    const available = METRICS.filter((m) => tree().root.cost[m.of]);
    state.metric = available[0] ?? METRICS[0];
    $("metric").replaceChildren(...(available.length ? available : METRICS).map((m) => h("option", { value: m.key, title: m.long }, m.title)));
    $("metric").addEventListener("change", (e) => {
        state.metric = METRICS.find((m) => m.key === e.target.value);
        draw();
        tell();
    });
    $("in").addEventListener("click", () => zoom(1.25));
    $("out").addEventListener("click", () => zoom(0.8));
    $("fit").addEventListener("click", fit);
    $("help").addEventListener("click", keys);
    $("collapse").addEventListener("click", () => {
        state.opened.clear();
        draw();
        fit();
    });
    $("search").addEventListener("input", search);
    $("search").addEventListener("focus", () => { if ($("search").value) search(); });
    $("search").addEventListener("blur", shut);
    $("search").addEventListener("keydown", typed);
    document.addEventListener("keydown", pressed);
    listenToMouse();
    listenToPrinter();
    legend();
    const asked = new URLSearchParams(location.hash.slice(1));
    const number = Number(asked.get("stage") ?? (plan ? stages.length - 1 : 0));
    if (stages[number]) state.stage = stages[number];
    unwrap();
    draw();
    if (plan) beginPlan();
    fit();
    tellStages();
    tellTotals();
    if (plan?.groups[asked.get("group")] && grouping()) chooseGroup(Number(asked.get("group")));
    else if (asked.get("at") && tree().items.has(asked.get("at"))) jump(asked.get("at"));
    else tell();
    timed("open", 0);
}

begin();
