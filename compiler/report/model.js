"use strict";
// The data of the page: stages, and for each the tree of what can be opened and closed.

const data = JSON.parse(document.getElementById("data").textContent);
const text = (number) => data.strings[number];

const METRICS = [
    { key: "macs", title: "MACs", of: 0, long: "multiply-accumulates" },
    { key: "other", title: "other operations", of: 1, long: "operations outside matrix products" },
    { key: "memory", title: "activations", of: 2, unit: "B", long: "bytes of outputs" },
    { key: "parameters", title: "parameters", of: 3, long: "parameters" },
    { key: "weights", title: "weights", of: 4, unit: "B", long: "bytes of parameters and buffers" },
];
const NOTHING = [0, 0, 0, 0, 0];
const PHASES = ["", "train", "infer"];

// Among more siblings than this, repetitions and neighbours are put into groups.
const CROWD = 48;

function brief(number, unit = "") {
    const step = unit === "B" ? 1024 : 1000;
    const names = unit === "B" ? ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] : ["", "k", "M", "G", "T", "P"];
    let at = 0;
    while (number >= step && at < names.length - 1) {
        number /= step;
        at += 1;
    }
    const digits = at === 0 || number >= 100 ? 0 : number >= 10 ? 1 : 2;
    return `${number.toFixed(digits)}${names[at] ? (unit === "B" ? "\u202f" : "") + names[at] : ""}`;
}

const exact = (number) => number.toLocaleString("en-US").replaceAll(",", "\u202f");

function reference(ref) {
    if (ref === null) return null;
    if (Array.isArray(ref)) return { path: text(ref[0]), index: ref[1], parameter: false };
    return ref < 0 ? { path: text(-1 - ref), index: 0, parameter: true } : { path: text(ref), index: 0, parameter: false };
}

const written = (ref) => (ref.parameter ? `@${ref.path}` : `%${ref.path}${ref.index ? `:${ref.index}` : ""}`);

function lines(attributes) {
    return attributes ? attributes.split("\n").map((line) => {
        const at = line.indexOf(" = ");
        return [line.slice(0, at), line.slice(at + 3)];
    }) : [];
}

const nodeRecords = [];
function nodeRecord(number) {
    return (nodeRecords[number] ??= decodeNode(data.nodes[number]));
}

function decodeNode([path, op, inputs, types, attributes, origin, phase, maker, cost]) {
    const [family, operands] = data.operators[text(op)];
    return {
        path: text(path), op: text(op), family, operands: operands.split(" "), inputs: inputs.map(reference),
        types: types.map(text), attributes: text(attributes), origin, phase: PHASES[phase], maker: text(maker),
        cost: cost ?? NOTHING, live: cost !== null || family === "input",
    };
}

function decodeParameter([path, type, kind, initial, origin]) {
    return { path: text(path), type: text(type), kind: text(kind), initial: text(initial), origin };
}

function decodeScope([path, module, instance, origin]) {
    return { path: text(path), module: text(module), instance: text(instance), origin };
}

function* unrun(runs) {
    for (let i = 0; i < runs.length; i += 2) {
        for (let k = 0; k < runs[i + 1]; k += 1) yield runs[i] + k;
    }
}

// One stage: the model as a pass left it. Everything is made when it is first asked for.
class Stage {
    constructor(number) {
        this.number = number;
        this.told = data.stages[number];
        this.quiet = number > 0 && !this.told.nodes;
        this.title = number === 0 ? "as written" : this.told.name;
    }

    // The stage whose graph this one shows: its own, or the last that changed something.
    get graph() {
        return this.quiet ? stages[this.number - 1].graph : this;
    }

    get before() {
        return this.number > 0 ? stages[this.number - 1].graph : null;
    }

    get nodes() {
        this._nodes ??= new Map(Array.from(unrun(this.told.nodes), (n) => [nodeRecord(n).path, nodeRecord(n)]));
        return this._nodes;
    }

    get parameters() {
        this._parameters ??= new Map(
            Array.from(unrun(this.told.parameters), (n) => decodeParameter(data.parameters[n])).map((p) => [p.path, p]));
        return this._parameters;
    }

    get scopes() {
        this._scopes ??= new Map(Array.from(unrun(this.told.scopes), (n) => decodeScope(data.scopes[n])).map((s) => [s.path, s]));
        return this._scopes;
    }

    get outputs() {
        return this.told.outputs.map(([name, ref]) => ({ name, ref: reference(ref) }));
    }

    get taps() {
        return this.told.taps.map(([name, ref]) => ({ name, ref: reference(ref) }));
    }

    // Readers of each node and of each parameter ("@path"), each once.
    get readers() {
        if (!this._readers) {
            this._readers = new Map();
            for (const node of this.nodes.values()) {
                for (const key of new Set(node.inputs.filter(Boolean).map((r) => (r.parameter ? "@" : "%") + r.path))) {
                    if (!this._readers.has(key)) this._readers.set(key, []);
                    this._readers.get(key).push(node.path);
                }
            }
        }
        return this._readers;
    }

    get added() {
        this._added ??= new Set(this.number && !this.quiet ? [...this.nodes.keys()].filter((p) => !this.before.nodes.has(p)) : []);
        return this._added;
    }

    get changed() {
        this._changed ??= new Set((this.told.changed ?? []).map(text));
        return this._changed;
    }

    // What the pass removed: the old node and the value that stands in its place, if any.
    get removed() {
        this._removed ??= new Map((this.told.removed ?? []).map(([n, by]) => [nodeRecord(n).path, { node: nodeRecord(n), by: reference(by) }]));
        return this._removed;
    }

    get tree() {
        this._tree ??= grow(this);
        return this._tree;
    }
}

const stages = data.stages.map((_, number) => new Stage(number));

// -- the tree of a stage: what can be opened and closed

// A part of the picture: a node, an output, or a group of parts. `key` is the same in every stage.
class Item {
    constructor(kind, key, name, node = null) {
        Object.assign(this, { kind, key, name, node, parent: null, children: null });
        this.cost = node ? node.cost : NOTHING;
        this.count = node ? 1 : 0;
        this.marks = { added: 0, changed: 0, removed: 0 };
    }

    get group() {
        return this.children !== null;
    }

    *up() {
        for (let item = this.parent; item; item = item.parent) yield item;
    }

    *leaves() {
        if (!this.group) yield this;
        else for (const child of this.children) yield* child.leaves();
    }
}

function grow(stage) {
    const graph = stage.graph;
    const paths = groupPaths(graph);
    const items = new Map();
    const root = Object.assign(new Item("module", "g:", data.model), { children: [], path: "", scope: graph.scopes.get("") });
    items.set(root.key, root);

    const around = (path) => {
        for (let at = path.lastIndexOf("."); at > 0; at = path.lastIndexOf(".", at - 1)) {
            if (paths.has(path.slice(0, at))) return path.slice(0, at);
        }
        return "";
    };
    const group = (path) => {
        const known = items.get(`g:${path}`);
        if (known) return known;
        const scope = graph.scopes.get(path);
        const made = Object.assign(new Item("module", `g:${path}`, path), { children: [], path, scope });
        items.set(made.key, made);
        group(around(path)).children.push(made);
        return made;
    };
    for (const node of graph.nodes.values()) {
        const leaf = new Item(node.family === "input" ? "input" : "node", `n:${node.path}`, node.path, node);
        items.set(leaf.key, leaf);
        group(around(node.path)).children.push(leaf);
    }
    for (const { name, ref } of graph.outputs) {
        const leaf = Object.assign(new Item("output", `o:${name}`, name), { ref });
        items.set(leaf.key, leaf);
        root.children.push(leaf);
    }
    settle(root, items);
    for (const path of stage.added) mark(items.get(`n:${path}`), "added");
    for (const path of stage.changed) mark(items.get(`n:${path}`), "changed");
    for (const path of stage.removed.keys()) {
        let above = around(path);
        while (!items.has(`g:${above}`)) above = around(above);
        mark(items.get(`g:${above}`), "removed");
    }
    return { root, items };
}

// Modules are groups. A graph that came without any is grouped by the dots of its paths.
function groupPaths(graph) {
    const paths = new Set([...graph.scopes.keys()].filter(Boolean));
    if (paths.size) return paths;
    const counts = new Map();
    for (const path of graph.nodes.keys()) {
        for (let at = path.indexOf("."); at > 0; at = path.indexOf(".", at + 1)) {
            counts.set(path.slice(0, at), (counts.get(path.slice(0, at)) ?? 0) + 1);
        }
    }
    return new Set([...counts].filter(([, count]) => count > 1).map(([path]) => path));
}

function mark(item, what) {
    for (let at = item; at; at = at.parent) at.marks[what] += 1;
}

// Bring the tree into the form that is shown: a group of one is that one, crowds are folded; links and sums.
function settle(item, items) {
    item.children = item.children.map((child) => {
        if (!child.group) return child;
        settle(child, items);
        if (child.children.length > 1 || child.children[0].group) return child;
        items.delete(child.key);
        return child.children[0];
    });
    if (item.children.length > CROWD) fold(item, items);
    link(item);
}

function link(item) {
    item.cost = [0, 0, 0, 0, 0];
    item.count = 0;
    for (const child of item.children) {
        child.parent = item;
        item.count += child.count;
        child.cost.forEach((number, i) => { item.cost[i] += number; });
    }
    return item;
}

// What an item looks like from outside: items of one kind can repeat each other.
const kindOf = (item) => (item.node ? item.node.op : item.kind === "output" ? "output" : item.scope?.module ?? item.name);

function fold(item, items) {
    const bundle = (kind, name, children, of = "") => {
        const made = Object.assign(new Item(kind, "", name), { children, of });
        made.key = `${kind}:${first(children).key}…${last(children).key}`;
        items.set(made.key, made);
        return link(made);
    };
    const whole = item.children.filter((c) => c.kind !== "input" && c.kind !== "output");
    let parts = repeats(whole).map((part) => {
        if (part.length === 1) return part[0][0];
        const names = part[0].slice(0, 4).map(kindOf).join(" · ") + (part[0].length > 4 ? " …" : "");
        const copies = part[0].length === 1 ? part.map((copy) => copy[0]) : part.map((copy, i) => bundle("copy", `${exact(i + 1)} of ${exact(part.length)}`, copy));
        const made = bundle("repeat", names, crowded(copies, bundle, names));
        made.times = part.length;
        return made;
    });
    parts = parts.length === 1 && parts[0].kind === "repeat" ? parts[0].children : crowded(parts, bundle);
    const ends = (kind) => crowded(item.children.filter((c) => c.kind === kind), bundle);
    item.children = [...ends("input"), ...parts, ...ends("output")];
}

const first = (list) => (list[0].group && list[0].kind !== "module" ? first(list[0].children) : list[0]);
const last = (list) => (list.at(-1).group && list.at(-1).kind !== "module" ? last(list.at(-1).children) : list.at(-1));

// Runs of neighbours in order of computation, so that no edge leaves a run and comes back. Round numbers of them.
function crowded(list, bundle, of = "", before = 0, all = list.length) {
    if (list.length <= CROWD) return list;
    const sizes = [10, 20, 50].flatMap((n) => [1, 10, 100, 1000, 10000].map((m) => n * m)).sort((a, b) => a - b);
    const size = sizes.find((n) => list.length / n <= 30);
    const runs = [];
    for (let i = 0; i < list.length; i += size) {
        const run = list.slice(i, i + size);
        const name = `${exact(before + i + 1)} – ${exact(before + i + run.length)} of ${exact(all)}`;
        runs.push(run.length === 1 ? run[0] : bundle("run", name, crowded(run, bundle, of, before + i, all), of));
    }
    return runs;
}

// The list cut into pieces: single items, and sequences of kinds that follow themselves at least three times.
function repeats(list) {
    const kinds = list.map(kindOf);
    const pieces = [];
    for (let i = 0; i < list.length;) {
        let best = { period: 1, times: 1 };
        for (let period = 1; period <= 64 && i + 3 * period <= list.length; period += 1) {
            let same = 0;
            while (i + period + same < list.length && kinds[i + period + same] === kinds[i + same]) same += 1;
            const times = 1 + Math.floor(same / period);
            if (times >= 3 && times * period >= 8 && times * period > best.times * best.period) best = { period, times };
        }
        pieces.push(Array.from({ length: best.times }, (_, k) => list.slice(i + k * best.period, i + (k + 1) * best.period)));
        i += best.times * best.period;
    }
    return pieces;
}
