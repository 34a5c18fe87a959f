// Where everything stands: a layered drawing (Sugiyama) of each open group by itself, the innermost first. What crosses
// a group's border passes through a port on it, so that a group is drawn as one box by those around it.

const SPACE = { layer: 34, node: 18, dummy: 10, pad: 18, header: 30, limit: 40 };

// Boxes and edges of what is visible. `open(item)` says which groups are, `size(item)` how large the others are.
// Returns {width, height, boxes: [{item, x, y, w, h}], edges: [{from, to, d, back}]}; `from` is the item a value comes from.
function layout(root, nodes, items, open, size) {
    if (!root.children.length) return { boxes: [], edges: [], width: 1, height: 1 };
    const shown = new Map();
    const show = (item) => {
        if (item === root || (item.group && open(item))) for (const child of item.children) show(child);
        else for (const leaf of item.leaves()) shown.set(leaf, item);
    };
    show(root);
    const levels = connect(root, pairs(nodes, items, shown));
    const picture = { boxes: [], edges: [] };
    const drawn = level(root, levels, open, size);
    place(drawn, 0, 0, picture);
    return { ...picture, width: drawn.w, height: drawn.h };
}

// Which visible items read which, each pair once.
function pairs(nodes, items, shown) {
    const found = new Map();
    const add = (path, reader) => {
        const source = shown.get(items.get(`n:${path}`));
        if (source === undefined || source === reader) return;
        if (!found.has(source)) found.set(source, new Set());
        found.get(source).add(reader);
    };
    for (const [leaf, reader] of shown) {
        if (leaf.kind === "output") {
            if (!leaf.ref.parameter) add(leaf.ref.path, reader);
        } else {
            for (const ref of leaf.node.inputs) if (ref && !ref.parameter) add(ref.path, reader);
        }
    }
    return found;
}

// For every group the edges inside it: {from, to, net}. An end is a child of the group, or the name of a port.
function connect(root, found) {
    const levels = new Map();
    const join = (group, from, to, net) => {
        if (!levels.has(group)) levels.set(group, new Map());
        const edges = levels.get(group);
        const key = `${name(from)}>${name(to)}>${net.key}`;
        edges.set(key, { from, to, net });
    };
    const name = (end) => (typeof end === "string" ? end : end.key);
    for (const [source, readers] of found) {
        const above = [source, ...source.up()];
        for (const reader of readers) {
            let child = reader;
            for (const group of reader.up()) {
                const at = above.indexOf(group);
                if (at > 0) {
                    join(group, above[at - 1], child, source);
                    for (let k = 1; k < at; k += 1) join(above[k], above[k - 1], `out ${source.key}`, source);
                    break;
                }
                join(group, `in ${source.key}`, child, source);
                child = group;
            }
        }
    }
    return levels;
}

// One group laid out: {item, w, h, vertices, edges, ports}.
function level(item, levels, open, size) {
    const vertices = new Map();
    for (const child of item.children) {
        const inner = child.group && open(child) ? level(child, levels, open, size) : null;
        vertices.set(child, { item: child, inner, number: vertices.size, ...(inner ? { w: inner.w, h: inner.h } : size(child)) });
    }
    const edges = [...(levels.get(item)?.values() ?? [])].map(({ from, to, net }) => {
        for (const end of [from, to]) {
            if (typeof end === "string" && !vertices.has(end)) {
                vertices.set(end, { port: end.startsWith("in ") ? "in" : "out", net, number: vertices.size, w: 2, h: 0 });
            }
        }
        return { from: vertices.get(from), to: vertices.get(to), net, back: false };
    });
    const list = [...vertices.values()];
    rank(list, edges);
    const layers = sort(layered(list, edges));
    const made = { item, vertices, edges, layers, ...straighten(layers) };
    const inside = item.parent !== null;
    const left = inside ? SPACE.pad : 0;
    let y = inside ? SPACE.header + SPACE.pad / 2 : 0;
    for (const [i, layer] of layers.entries()) {
        const height = Math.max(...layer.map((v) => v.h));
        layer.forEach((v) => Object.assign(v, { x: v.x + left, y: y + (height - v.h) * (v.anchored === false ? 1 : 0.5), top: y, bottom: y + height }));
        y += height + (i < layers.length - 1 ? gap(layer, layers[i + 1]) : 0);
    }
    made.w = Math.max(made.w + 2 * left, inside ? (size(item), item.bar) : 0);
    made.h = y + (inside ? SPACE.pad / 2 : 0);
    return made;
}

// Room for edges that have far to go sideways.
function gap(upper, lower) {
    if (upper.every((v) => v.port) || lower.every((v) => v.port)) return 14;
    const far = Math.max(0, ...upper.flatMap((v) => v.down.map((e) => Math.abs(v.x + v.w / 2 - e.end.x - e.end.w / 2))));
    return SPACE.layer + Math.min(60, far / 14);
}

// -- layers

function rank(list, edges) {
    for (const v of list) Object.assign(v, { outs: [], ins: [], rank: 0 });
    for (const e of edges) {
        e.from.outs.push(e);
        e.to.ins.push(e);
    }
    const order = topological(list, edges);
    const entered = list.some((v) => v.port === "in");
    for (const v of order) {
        v.rank = v.port === "in" ? 0 : Math.max(entered ? 1 : 0, ...v.ins.filter((e) => !e.back).map((e) => e.from.rank + 1));
        v.anchored = v.port === "in" || v.item?.kind === "input" || v.ins.some((e) => !e.back && e.from.anchored);
    }
    // What depends on no input (positions, masks, constants) stands just above its first reader.
    for (const v of [...order].reverse()) {
        const after = v.outs.filter((e) => !e.back).map((e) => e.to.rank);
        if (!v.anchored && after.length) v.rank = Math.min(...after) - 1;
    }
    const least = Math.min(...list.map((v) => v.rank));
    const bottom = Math.max(...list.filter((v) => v.port !== "out").map((v) => v.rank)) + 1;
    for (const v of list) v.rank = (v.port === "out" ? bottom : v.rank) - least;
}

// Order of computation. Groups may wait for each other where a pass moved values between them: then the edge that
// closes the circle points back.
function topological(list, edges) {
    const waiting = new Map(list.map((v) => [v, new Set(v.ins.map((e) => e.from)).size]));
    const done = new Set();
    const order = [];
    const ready = list.filter((v) => waiting.get(v) === 0);
    while (order.length < list.length) {
        const v = ready.length ? ready.shift() : list.find((u) => !done.has(u));
        if (done.has(v)) continue;
        done.add(v);
        order.push(v);
        for (const to of new Set(v.outs.map((e) => e.to))) {
            waiting.set(to, waiting.get(to) - 1);
            if (waiting.get(to) === 0 && !done.has(to)) ready.push(to);
        }
    }
    const at = new Map(order.map((v, i) => [v, i]));
    for (const e of edges) e.back = at.get(e.from) >= at.get(e.to);
    return order;
}

// Vertices by rank, with dummies where an edge passes a layer. Edges of one value share their dummies: a trunk.
function layered(list, edges) {
    const layers = Array.from({ length: Math.max(...list.map((v) => v.rank)) + 1 }, () => []);
    for (const v of list) {
        Object.assign(v, { down: [], up: [] });
        layers[v.rank].push(v);
    }
    const trunks = new Map();
    for (const e of edges) {
        if (e.back) continue;
        const trunk = `${e.from.number} ${e.net.key}`;
        if (!trunks.has(trunk)) trunks.set(trunk, []);
        const dummies = trunks.get(trunk);
        let from = e.from;
        for (let r = e.from.rank + 1; r < e.to.rank; r += 1) {
            const k = r - e.from.rank - 1;
            if (!dummies[k]) {
                dummies[k] = { dummy: true, w: 2, h: 0, rank: r, down: [], up: [] };
                layers[r].push(dummies[k]);
                tie(from, dummies[k], e, k > 0 ? 8 : 2);
            }
            from = dummies[k];
        }
        tie(from, e.to, e, from.dummy ? 2 : 1);
    }
    // A chain is a straight line.
    for (const v of layers.flat()) {
        const [only, more] = v.down;
        if (only && !more && only.end.up.length === 1) only.weight = only.end.up[0].weight = Math.max(5, only.weight);
    }
    return layers;
}

function tie(from, to, edge, weight) {
    const made = { net: edge.net, weight };
    from.down.push({ ...made, end: to });
    to.up.push({ ...made, end: from });
}

// -- order within layers: medians of neighbours, up and down, and the best order seen is kept

function sort(layers) {
    number(layers);
    let best = layers.map((layer) => [...layer]);
    let least = crossings(layers);
    for (let round = 0; round < 10 && least > 0; round += 1) {
        const down = round % 2 === 0;
        const order = down ? layers.slice(1) : layers.slice(0, -1).reverse();
        for (const layer of order) arrange(layer, down ? "up" : "down");
        const count = crossings(layers);
        if (count < least) {
            least = count;
            best = layers.map((layer) => [...layer]);
        }
    }
    best.forEach((layer, i) => layers[i].splice(0, layer.length, ...layer));
    number(layers);
    return layers;

    function number(all) {
        for (const layer of all) layer.forEach((v, i) => { v.at = i; });
    }

    function arrange(layer, side) {
        for (const v of layer) {
            const ends = v[side].map((e) => e.end.at).sort((a, b) => a - b);
            const middle = ends.length >> 1;
            v.wish = !ends.length ? v.at : ends.length % 2 ? ends[middle] : (ends[middle - 1] + ends[middle]) / 2;
        }
        layer.sort((a, b) => a.wish - b.wish || a.at - b.at).forEach((v, i) => { v.at = i; });
    }
}

function crossings(layers) {
    let count = 0;
    for (const layer of layers.slice(0, -1)) {
        const ends = layer.flatMap((v) => v.down.map((e) => e.end.at).sort((a, b) => a - b));
        for (let i = 0; i < ends.length; i += 1) {
            for (let k = i + 1; k < ends.length; k += 1) if (ends[i] > ends[k]) count += 1;
        }
    }
    return count;
}

// -- where along its layer each vertex stands: as near to its neighbours' middle as the others allow

function straighten(layers) {
    for (const layer of layers) {
        let x = 0;
        for (const v of layer) {
            v.x = x;
            x += v.w + (v.dummy ? SPACE.dummy : SPACE.node);
        }
        for (const v of layer) v.x -= x / 2;
    }
    for (let round = 0; round < 24; round += 1) {
        const down = round % 2 === 0;
        for (const layer of down ? layers : [...layers].reverse()) pull(layer, round < 18 ? [down ? "up" : "down"] : ["up", "down"]);
    }
    const left = Math.min(...layers.flat().map((v) => v.x));
    const right = Math.max(...layers.flat().map((v) => v.x + v.w));
    for (const v of layers.flat()) v.x -= left;
    return { w: right - left };
}

// The x of the end of an edge on a vertex: on an open group it is the port's, elsewhere the middle.
function socket(v, net, side) {
    const port = v.inner?.vertices.get(`${side === "down" ? "out" : "in"} ${net.key}`);
    return port ? port.x + port.w / 2 : v.w / 2;
}

function pull(layer, sides) {
    const blocks = [];
    let offset = 0;
    for (const v of layer) {
        let sum = 0;
        let weight = 0;
        for (const side of sides) {
            for (const e of v[side]) {
                const other = e.end.x + socket(e.end, e.net, side === "up" ? "down" : "up");
                sum += e.weight * (other - socket(v, e.net, side));
                weight += e.weight;
            }
        }
        const wish = weight ? sum / weight : v.x;
        weight = weight || 0.1;
        // Positions minus the room to the left must not fall: neighbours that would overlap move as one block.
        let block = { list: [[v, offset]], sum: (wish - offset) * weight, weight };
        while (blocks.length && blocks.at(-1).sum / blocks.at(-1).weight > block.sum / block.weight) {
            const before = blocks.pop();
            block = { list: [...before.list, ...block.list], sum: before.sum + block.sum, weight: before.weight + block.weight };
        }
        blocks.push(block);
        offset += v.w + (v.dummy || v.port ? SPACE.dummy : SPACE.node);
    }
    for (const block of blocks) for (const [v, room] of block.list) v.x = block.sum / block.weight + room;
}

// -- absolute places and paths

function place(made, x, y, picture) {
    for (const v of made.vertices.values()) {
        if (v.port) continue;
        picture.boxes.push({ item: v.item, open: v.inner !== null, x: x + v.x, y: y + v.y, w: v.w, h: v.h });
        if (v.inner) place(v.inner, x + v.x, y + v.y, picture);
    }
    for (const v of made.layers.flat()) {
        const spread = arrivals(v);
        v.up.forEach((e, i) => {
            const from = e.end;
            const x1 = x + from.x + socket(from, e.net, "down");
            const x2 = x + v.x + (spread ? spread[i] : socket(v, e.net, "up"));
            const y1 = y + (from.port ? 0 : from.dummy ? from.bottom : from.y + from.h);
            const y2 = y + v.y;
            const turn = y + from.bottom;
            const enter = y + v.top;
            const middle = (turn + enter) / 2;
            const end = v.port === "out" ? y + made.h : v.dummy ? y + v.bottom : y2;
            const tail = end > enter ? `V${round(end)}` : "";
            picture.edges.push({
                net: e.net, to: v.item ?? null,
                d: `M${round(x1)},${round(y1)}V${round(turn)}C${round(x1)},${round(middle)} ${round(x2)},${round(middle)} ${round(x2)},${round(enter)}${tail}`,
                arrow: v.item !== undefined && !v.inner, back: false,
            });
        });
    }
    for (const e of made.edges.filter((edge) => edge.back)) {
        const [a, b] = [e.from, e.to];
        const side = x + Math.max(a.x + a.w, b.x + b.w) + 30;
        const [ya, yb] = [y + a.y + a.h / 2, y + b.y + b.h / 2];
        const d = `M${round(x + a.x + a.w)},${round(ya)}C${round(side)},${round(ya)} ${round(side)},${round(yb)} ${round(x + b.x + b.w)},${round(yb)}`;
        picture.edges.push({ net: e.net, to: b.item ?? null, d, arrow: true, back: true });
    }
}

// Where the edges that end on a node's top arrive, in the order of where they come from.
function arrivals(v) {
    if (!v.item || v.inner || v.up.length < 2) return null;
    const order = v.up.map((e, i) => [e.end.x + socket(e.end, e.net, "down"), i]).sort((a, b) => a[0] - b[0]);
    const step = Math.min(22, (v.w - 20) / (v.up.length - 1));
    const spread = [];
    order.forEach(([, i], k) => { spread[i] = v.w / 2 + (k - (v.up.length - 1) / 2) * step; });
    return spread;
}

const round = (number) => Math.round(number * 10) / 10;
