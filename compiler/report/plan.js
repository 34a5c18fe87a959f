// The groups of a plan: which parts of the picture belong to which, their table, and what is told of one.

const plan = data.plan ?? null;

// The groups of each node by path: the one that it is executed in, or those that it comes with, carried.
const homes = new Map();
const carriers = new Map();
plan?.groups.forEach((group, i) => {
    group.number = i;
    for (const path of group.nodes) homes.set(path, i);
    for (const path of group.carried) carriers.set(path, [...(carriers.get(path) ?? []), i]);
});

// Nodes that no input of the model determines: they are computed before anything runs.
const early = new Set();
for (const node of plan ? stages.at(-1).graph.nodes.values() : []) {
    if (node.family !== "input" && node.inputs.every((ref) => !ref || ref.parameter || early.has(ref.path))) early.add(node.path);
}

// Groups are those of the last graph.
const grouping = () => plan !== null && state.stage.graph === stages.at(-1).graph;

// The groups that an item's nodes are in, and whether that is all that it holds.
function groupsOf(item) {
    if (!item.groups) {
        const found = new Set();
        let carried = true;
        for (const leaf of item.leaves()) {
            if (!leaf.node) continue;
            const home = homes.get(leaf.node.path);
            if (home !== undefined) carried = false;
            for (const i of home === undefined ? carriers.get(leaf.node.path) ?? [] : [home]) found.add(i);
        }
        item.groups = { list: [...found].sort((a, b) => a - b), carried };
    }
    return item.groups;
}

// The one group that a box is wholly in, or none.
function groupOf(item) {
    const { list } = groupsOf(item);
    return list.length === 1 && item.kind !== "input" && item.kind !== "output" ? list[0] : null;
}

// What a card says of groups: a label, how wide it is, and the group whose colour it has.
function tagOf(item) {
    if (!plan || item.kind === "input" || item.kind === "output") return null;
    const { list, carried } = groupsOf(item);
    if (!list.length) return null;
    const label = list.length === 1 ? plan.groups[list[0]].label : item.node ? list.map((i) => i + 1).join(", ") : `${list.length} groups`;
    const shown = cut(label, 24);
    return { label: shown, width: 12 + 6.4 * shown.length, group: list.length === 1 ? list[0] : null, carried };
}

function drawTag(item, w, height) {
    const tag = grouping() ? tagOf(item) : null;
    if (!tag) return null;
    const colour = tag.group === null ? "" : ` c${plan.groups[tag.group].colour}`;
    const place = `translate(${w - tag.width - 7},${height - 21})`;
    return s("g", { class: `tag${colour}${tag.carried ? " carried" : ""}`, "data-group": tag.group, transform: place },
        s("rect", { width: tag.width, height: 15, rx: 4 }),
        s("text", { x: tag.width / 2, y: 11.5 }, tag.label));
}

// Behind the cards of each group of several nodes, one shape that joins them.
function drawBlobs(picture) {
    if (!grouping()) return [];
    const shapes = new Map();
    const within = (item) => {
        const group = item.node && early.has(item.node.path) ? null : groupOf(item);
        return group !== null && plan.groups[group].nodes.length > 1 ? group : null;
    };
    const shape = (i) => {
        if (!shapes.has(i)) shapes.set(i, []);
        return shapes.get(i);
    };
    const room = 7;
    for (const { item, open, x, y, w, h: height } of picture.boxes) {
        const group = open ? null : within(item);
        if (group !== null) shape(group).push(s("rect", { x: x - room, y: y - room, width: w + 2 * room, height: height + 2 * room, rx: 13 }));
    }
    // An edge through the border of a module has an end outside of it: it belongs where all that read the value do.
    const ends = new Map();
    for (const { net, to } of picture.edges) {
        if (!ends.has(net)) ends.set(net, new Set());
        if (to && !isOpen(to)) ends.get(net).add(within(to));
    }
    for (const { net, to, d } of picture.edges) {
        const group = within(net);
        if (group === null) continue;
        if (to && !isOpen(to) ? within(to) === group : [...ends.get(net)].every((other) => other === group)) shape(group).push(s("path", { d }));
    }
    return [...shapes].map(([i, parts]) => s("g", { class: `blob c${plan.groups[i].colour}`, "data-blob": i }, parts));
}

const rate = (number, unit) => {
    const [power, name] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]].find(([p]) => number >= p) ?? [1, ""];
    return `${Number((number / power).toPrecision(3))}\u202f${name}${unit}`;
};
const bytes = (number) => (number === null || number === undefined ? "–" : brief(number, "B"));
const saved = (before, after) => (before && after !== undefined && after !== null ? 1 - after / before : null);
const percent = (share) => (share === null ? "" : share < 0.0005 && share > -0.0005 ? "0 %" : `${share < 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0)} %`);
const several = (count, name) => `${exact(count)} ${name}${count === 1 ? "" : "s"}`;
const intensity = (group) => (group.dram && group.macs ? (2 * group.macs) / group.dram : null);
const significant = (number) => (number === null ? "–" : number >= 100 ? exact(Math.round(number)) : String(Number(number.toPrecision(2))));

// The last node of a group, without what its name has in common with the group's.
function until(group) {
    if (group.nodes.length < 2) return "";
    const [name, end] = [group.name.split("."), group.nodes.at(-1).split(".")];
    let same = 0;
    while (same < end.length - 1 && end[same] === name[same]) same += 1;
    return `… ${end.slice(same).join(".")}`;
}

// What hovering over a node adds.
function groupTitle(item) {
    if (!grouping()) return "";
    const { list, carried } = groupsOf(item);
    if (list.length !== 1) return list.length ? `in ${several(list.length, "group")}` : "";
    const group = plan.groups[list[0]];
    const room = plan.machine.buffer ? ` of ${bytes(plan.machine.buffer)}` : "";
    return [
        "", `${carried && item.node ? "comes with group" : "group"} ${group.label}: ${several(group.nodes.length, "node")}${group.kernel ? `, ${group.kernel}` : ""}`,
        group.fits ? `${bytes(group.buffer)} on chip${room} · DRAM ${bytes(group.dram)}${group.nodes.length > 1 ? `, layer by layer ${bytes(group.dram_before)}` : ""}` : "does not fit the buffer",
        group.fits ? `${significant(intensity(group))} operations per byte · ${group.schedule.text}` : "",
    ].filter((line, i) => !i || line).join("\n");
}

// ---------------------------------------------------------------------------------------------- choosing a group

// The group that is chosen, by itself or with one of its nodes.
function chosenGroup() {
    if (!grouping()) return null;
    if (state.group !== null) return state.group;
    const item = selected();
    return item && item !== tree().root ? groupOf(item) : null;
}

function chooseGroup(number, where = true) {
    if (!grouping()) chooseStage(stages.length - 1);
    state.group = number;
    state.selected = null;
    const nodes = plan.groups[number].nodes.map((path) => tree().items.get(`n:${path}`));
    if (where) {
        for (const item of nodes) for (const above of item.up()) if (above !== tree().root) state.opened.add(above.key);
        draw();
        bring(nodes.map((item) => view.boxes.get(item.key)));
    }
    choose();
    tell();
    remember();
    say(`group ${plan.groups[number].label} selected`);
}

// Bring boxes into sight, all of them where they can be read.
function bring(boxes) {
    const { width, height } = frame();
    const [left, top] = [Math.min(...boxes.map((b) => b.x)), Math.min(...boxes.map((b) => b.y))];
    const [w, tall] = [Math.max(...boxes.map((b) => b.x + b.w)) - left, Math.max(...boxes.map((b) => b.y + b.h)) - top];
    view.scale = Math.min(1, Math.max(0.5, Math.min((width - 60) / w, (height - 150) / tall)));
    view.x = w * view.scale < width - 40 ? (width - w * view.scale) / 2 - left * view.scale : width / 2 - (boxes[0].x + boxes[0].w / 2) * view.scale;
    view.y = Math.max(60, (height - 40 - tall * view.scale) / 2) - top * view.scale;
    move();
}

// Light up the chosen group in the picture, the table and the drawing.
function lightGroup() {
    if (!plan) return;
    const number = chosenGroup();
    $("world").classList.toggle("dimmed", number !== null);
    for (const blob of $("world").querySelectorAll("[data-blob]")) blob.classList.toggle("chosen", Number(blob.dataset.blob) === number);
    for (const row of document.querySelectorAll("#groups [data-group], #drawn [data-group]")) row.classList.toggle("chosen", number !== null && Number(row.dataset.group) === number);
    const row = document.querySelector("#groups tr.chosen");
    if (row) row.scrollIntoView({ block: "nearest" });
}

// ---------------------------------------------------------------------------------------------- what is told

const COLUMNS = [
    { title: "#", key: (g) => g.number, show: (g) => h("span", { class: `swatch c${g.colour}` }, String(g.number + 1)), text: true },
    { title: "group", key: (g) => g.name, kind: "called", hint: (g) => `${g.name}\n${g.nodes.length > 1 ? g.nodes.slice(0, 40).join("\n") : ""}`.trim(), show: (g) => [h("b", {}, g.name), until(g) && h("small", {}, ` ${until(g)}`)], text: true },
    { title: "kernel", key: (g) => g.kernel, kind: "kernel", show: (g) => g.kernel.replaceAll("_", " "), text: true, if: () => plan.groups.some((g) => g.kernel) },
    { title: "nodes", key: (g) => g.nodes.length, show: (g) => exact(g.nodes.length) },
    { title: "on chip", key: (g) => g.buffer ?? -1, show: (g) => (g.fits ? [bytes(g.buffer), plan.machine.buffer ? meter(g.buffer / plan.machine.buffer) : null] : "too large"), long: "the most bytes at once, and their part of the buffer", wide: true },
    { title: "DRAM before", key: (g) => g.dram_before ?? -1, show: (g) => bytes(g.dram_before), long: "layer by layer" },
    { title: "after", key: (g) => g.dram ?? -1, show: (g) => bytes(g.dram), long: "as one group" },
    { title: "", key: (g) => saved(g.dram_before, g.dram) ?? 0, show: (g) => h("span", { class: "saved" }, g.nodes.length > 1 ? percent(saved(g.dram_before, g.dram)) : ""), long: "change", name: "change" },
    { title: "MACs", key: (g) => g.macs, show: (g) => (g.macs ? brief(g.macs) : "–") },
    { title: "ops/B", key: (g) => intensity(g) ?? -1, show: (g) => significant(intensity(g)), long: "operations, two for each multiply-accumulate, per byte of DRAM traffic" },
].filter((c) => plan && (!c.if || c.if()));
const order = { column: 0, down: false };

function tellTable() {
    const column = COLUMNS[order.column];
    const compare = (a, b) => { const [x, y] = [column.key(a), column.key(b)]; return typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y; };
    const rows = [...plan.groups].sort((a, b) => (order.down ? -1 : 1) * compare(a, b) || a.number - b.number);
    const sign = order.down ? " ▾" : " ▴";
    const head = COLUMNS.map((c, i) => h("th", { scope: "col", class: c.text ? null : "number", "aria-sort": i === order.column ? (order.down ? "descending" : "ascending") : "none" },
        h("button", { type: "button", title: c.long ?? null, "aria-label": c.name ?? null, onclick: () => sortBy(i) }, c.title || "±", i === order.column ? sign : "")));
    $("groups").replaceChildren(h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((g) =>
        h("tr", { "data-group": g.number, tabindex: 0, onclick: () => chooseGroup(g.number), onkeydown: (e) => { if (e.key === "Enter") { e.stopPropagation(); chooseGroup(g.number); } } },
            COLUMNS.map((c) => h("td", { class: [c.kind, !c.text && "number", c.wide && "wide"].filter(Boolean).join(" ") || null, title: c.hint?.(g) }, c.show(g)))))));
    lightGroup();
}

function sortBy(column) {
    // Numbers begin with the largest.
    Object.assign(order, { column, down: column === order.column ? !order.down : !COLUMNS[column].text });
    tellTable();
    $("groups").querySelectorAll("thead button")[column].focus();
}

function tellPlan() {
    const rows = [
        ["groups", `${exact(plan.groups.length)}`, ` of ${several(plan.groups.reduce((sum, g) => sum + g.nodes.length, 0), "node")}`],
        ["DRAM layer by layer", bytes(plan.dram_before)],
        ["DRAM of the plan", bytes(plan.dram), plan.dram_before && plan.dram !== null ? ` ${percent(saved(plan.dram_before, plan.dram))}` : ""],
        plan.bound && ["no plan moves less than", bytes(plan.bound), plan.gap === null ? "" : plan.gap < 1 ? ` gap ${(100 * plan.gap).toFixed(plan.gap < 0.0995 ? 1 : 0)} %` : `, this ${(1 + plan.gap).toFixed(1)} times it`],
        ["most on chip", bytes(plan.buffer), plan.machine.buffer ? ` of ${bytes(plan.machine.buffer)}` : ""],
        plan.dram && plan.macs > 0 && ["intensity", `${significant((2 * plan.macs) / plan.dram)}`, " operations per byte"],
        plan.seconds && ["a run takes at least", time(plan.seconds), ` of DRAM ${time(plan.dram / plan.machine.dram)}${plan.machine.macs ? `, of MACs ${time(plan.macs / plan.machine.macs)}` : ""}`],
    ].filter(Boolean);
    const { buffer, dram, macs } = plan.machine;
    const machine = [buffer && `buffer ${bytes(buffer)}`, dram && `DRAM ${rate(dram, "B/s")}`, macs && `${rate(macs, "MACs/s")}`, plan.dtype].filter(Boolean);
    $("plan-name").replaceChildren(plan.plan, h("small", {}, ` on ${plan.target}: ${machine.join(", ")}`));
    $("plan-totals").replaceChildren(...rows.map(([name, value, more]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, more && h("small", {}, more)))));
    tellMeasured();
}

const time = (seconds) => (seconds >= 0.1 ? `${seconds.toPrecision(3)} s` : seconds >= 1e-4 ? `${Number((1e3 * seconds).toPrecision(3))} ms` : `${Number((1e6 * seconds).toPrecision(3))} µs`);

// Candidates that were run on the machine: as one kernel and as several.
function tellMeasured() {
    const notes = plan.notes.map((note) => h("p", { class: "note" }, note));
    if (!plan.measured.length) return $("measured").replaceChildren(...notes);
    const most = Math.max(...plan.measured.flatMap((m) => [m.fused_ms, m.unfused_ms]));
    const bar = (ms, kind) => h("td", { class: `wide ${kind}` }, h("span", { class: "ms" }, time(ms / 1e3)), meter(ms / most));
    const rows = plan.measured.map((m) => h("tr", { class: m.chosen ? "taken" : "refused" },
        h("td", {}, h("b", {}, cut(m.group, 40)), h("small", {}, ` ${several(m.nodes.length, "node")}`)),
        bar(m.fused_ms, "fused"), bar(m.unfused_ms, "unfused"),
        h("td", { class: "number" }, `${(m.unfused_ms / m.fused_ms).toFixed(2)}×`),
        h("td", {}, h("span", { class: `chip ${m.chosen ? "added" : "removed"}` }, m.chosen ? "chosen" : "not chosen"), " ", m.reason)));
    const head = ["candidate", "as one", "as several", "faster", "what became of it"].map((title, i) => h("th", { scope: "col", class: i === 3 ? "number" : null }, title));
    return $("measured").replaceChildren(h("h3", {}, "Measured on the machine at hand"), h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)), ...notes);
}

function tellPlanned(number) {
    const group = plan.groups[number];
    const chart = $(`chip-${number}`)?.content.cloneNode(true);
    const moved = group.fits ? [["inputs", group.inputs], ["outputs", group.outputs], ["weights", group.weights]].filter(([, n]) => n) : [];
    const again = group.fits && group.computed_macs > group.macs ? h("small", {}, ` ${brief(group.computed_macs)} with those repeated`) : null;
    const list = (paths) => h("ul", {}, paths.slice(0, LISTED).map((path) => h("li", {}, nodeLink(path), h("small", {}, ` ${state.stage.graph.nodes.get(path)?.op ?? ""}`))),
        paths.length > LISTED && h("li", { class: "note" }, `and ${paths.length - LISTED} more`));
    const origin = data.origins[number];
    return [
        h("p", { class: "crumbs" }, anchor(plan.plan, () => { state.group = null; select(null); }), " › "),
        h("h2", {}, h("span", { class: `swatch c${group.colour}` }, String(number + 1)), " ", group.name, group.kernel ? [" ", h("span", { class: "op" }, group.kernel)] : null),
        h("p", {}, several(group.nodes.length, "node"), group.maker ? h("small", {}, ` by ${group.maker}`) : null),
        group.fits ? [
            h("h3", {}, "On chip"), chart,
            h("table", { class: "pairs" },
                pair("schedule", group.schedule.text),
                pair("most at once", bytes(group.buffer), plan.machine.buffer ? h("small", {}, `of ${bytes(plan.machine.buffer)}`) : null),
                group.schedule.kept_weights.length > 0 && pair("weights kept", several(group.schedule.kept_weights.length, "tensor"))),
            h("h3", {}, "DRAM"),
            h("table", { class: "cost" }, moved.map(([name, n]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, bytes(n)), h("td", { class: "meter" }, meter(n / group.dram)))),
                h("tr", {}, h("th", { scope: "row" }, "all"), h("td", { class: "number" }, bytes(group.dram)), h("td", { class: "number" }, group.nodes.length > 1 ? percent(saved(group.dram_before, group.dram)) : "")),
                group.nodes.length > 1 && h("tr", {}, h("th", { scope: "row" }, "layer by layer"), h("td", { class: "number" }, bytes(group.dram_before)), h("td", {}))),
            group.macs > 0 && h("p", {}, `${brief(group.macs)} MACs, ${significant(intensity(group))} operations per byte`, again),
        ] : h("p", { class: "verdict removed" }, "does not fit the buffer"),
        origin === null || origin === undefined ? null : sourceOf([origin], null),
        h("h3", {}, "Nodes"), list(group.nodes),
        group.carried.length > 0 ? [h("h3", {}, "Carried with it"), list(group.carried)] : null,
    ].flat(Infinity).filter(Boolean);
}

// In the panel of a node: the group that it is in.
function membership(item) {
    if (!grouping()) return null;
    const { list, carried } = groupsOf(item);
    if (!list.length) return null;
    const links = list.slice(0, LISTED).map((i) => h("li", {}, h("span", { class: `swatch c${plan.groups[i].colour}` }, String(i + 1)), " ",
        anchor(plan.groups[i].name, () => chooseGroup(i, false)), h("small", {}, ` ${several(plan.groups[i].nodes.length, "node")}${plan.groups[i].fits ? `, ${bytes(plan.groups[i].buffer)} on chip` : ""}`)));
    return [h("h3", {}, carried && item.node ? "Comes with" : list.length > 1 ? `In ${list.length} groups` : "Group"), h("ul", {}, links)];
}

function beginPlan() {
    document.querySelector("main").classList.add("planned");
    for (const id of ["plan", "drawn"]) $(id).hidden = false;
    $("drawn").addEventListener("click", (e) => {
        const mark = e.target.closest("[data-group]");
        if (mark) chooseGroup(Number(mark.dataset.group));
    });
    tellPlan();
    tellTable();
}
