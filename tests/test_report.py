"""The report: its data, and the page itself clicked through in a headless browser.

Screenshots and the times that the page measures go to build/screenshots/report. The browser is Debian's `chromium` with
`chromium-driver`. Where they are missing those tests are skipped, except in CI.
"""

from __future__ import annotations

import html.parser
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import netc
import pytest
from netc.__main__ import app
from netc.compiler.contract import Contract
from netc.compiler.cost import cost
from netc.compiler.diagnostic import NetcError
from netc.compiler.dot import dot
from netc.compiler.fusion.decide import decide
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.prepare import prepared
from netc.compiler.fusion.summarise import summarise
from netc.compiler.fusion.summary import Machine, Measured, Summary, shares
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Edit, Graph, Input, Node, Parameter, Ref, Scope, Value
from netc.compiler.operators.activation import Relu, Tanh
from netc.compiler.operators.arithmetic import Add, Mul, Rsqrt, Sub
from netc.compiler.operators.creation import Constant
from netc.compiler.operators.layout import Reshape
from netc.compiler.operators.linear import Linear
from netc.compiler.operators.normalization import BatchNorm
from netc.compiler.operators.operator import Initialiser, Operator
from netc.compiler.operators.stochastic import Dropout
from netc.compiler.passes.register import PASSES, Pass
from netc.compiler.pipeline import Measurement, Stage, Step, Trace, run
from netc.compiler.program import read_source
from netc.compiler.report.collect import collect
from netc.compiler.report.html import page
from netc.compiler.report.plan import plan_page
from netc.compiler.report.small import small
from netc.compiler.source import Source, Span
from netc.compiler.types import DType, symbol, tensor
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
SPECS = ROOT / "specs"
SHOTS = ROOT / "build" / "screenshots" / "report"
N = symbol("N")


def fold(graph: Graph) -> Graph:
    """Fold batch norms into the convolutions before them, in nodes whose paths lie below the norms'."""
    edit = graph.edit("fold")
    for norm in graph.nodes.values():
        if isinstance(norm.op, BatchNorm):
            x, gamma, beta, mean, var = norm.inputs
            assert isinstance(x, Value)
            conv = graph.nodes[x.node]
            add = partial(emit, edit, norm)
            scale = add(Mul(), gamma, add(Rsqrt(), add(Add(), var, add(Constant(norm.op.eps, DType.F32)))))
            weight = add(Mul(), conv.inputs[1], add(Reshape((conv.types[0].shape[1], 1, 1, 1)), scale))
            edit.set(conv.path, inputs=[conv.inputs[0], weight, add(Sub(), beta, add(Mul(), mean, scale))])
            edit.redirect(norm.value, x)
            edit.remove(norm.path)
    return edit.done()


def emit(edit: Edit, norm: Node, op: Operator, *inputs: Ref | None) -> Ref:
    return edit.add(edit.fresh(f"{norm.path}.{op.name}"), op, *inputs, origin=norm.origin).value


OWN = {"fold": Pass("fold", fold, doc="The graph with norms in their `conv2d`.\n\nNo more.")}


def traced(graph: Graph, *names: str) -> Trace:
    options: dict[str, dict[str, Any]] = {"strip_phase": {"keep": "infer"}}
    return run(graph, [Step((OWN | PASSES)[n], options.get(n, {})) for n in names])


def unrolled(length: int) -> Graph:
    """A recurrence without modules: three nodes a step, all with one weight."""
    edit = Graph("unrolled").edit()
    state = edit.add("x", Input(tensor(DType.F32, N, 64))).value
    weight = edit.parameter(Parameter("weight", tensor(DType.F32, 64, 64), Initialiser("zeros")))
    for i in range(length):
        made = edit.add(f"linear_{i}", Linear(), state, weight, None).value
        made = edit.add(f"tanh_{i}", Tanh(), made).value
        state = edit.add(f"add_{i}", Add(), made, state).value
    edit.output("out", state)
    return edit.done()


HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&quot;\"'`\u2028\\"


def hostile() -> Trace:
    """Names that no spec can have, and strings and sources that one can."""
    edit = Graph(f"net {HOSTILE}").edit("pass")
    source = Source(f"{HOSTILE}.net", f"# 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 {HOSTILE}\nmodel m = relu as {HOSTILE}\n")
    origin = (Span(source, source.text.index("relu"), source.text.index("relu") + 4),)
    x = edit.add("x", Input(tensor(DType.F32, N, 4))).value
    scope = f"scope {HOSTILE}"
    edit.scope(Scope(scope, f"Module {HOSTILE}", f"other {HOSTILE}", origin))
    dropped = edit.add(f"{scope}.dropout", Dropout(), x, origin=origin).value
    made = edit.add(f"{scope}.relu {HOSTILE}", Relu(), dropped, origin=origin).value
    made = edit.add(f"{scope}.add", Add(), made, made, origin=origin).value
    edit.output(f"out {HOSTILE}", made)
    graph = edit.done()
    edit = graph.edit("pass")
    edit.redirect(dropped, x)
    edit.remove(dropped.node)
    after = edit.done()
    named = replace(PASSES["strip_phase"], name=HOSTILE, doc=HOSTILE)
    return Trace(
        graph, (Stage(Step(named), graph, after, 0.1, Measurement(Contract(), 3, math.nan, math.inf, HOSTILE)),)
    )


# ------------------------------------------------------------------------------------------------------------- data


def unrun(runs: list[int]) -> list[int]:
    return [start + k for start, count in zip(runs[::2], runs[1::2], strict=True) for k in range(count)]


def told(data: dict[str, Any], stage: int) -> dict[str, list[Any]]:
    """The node records of a stage by path."""
    records = [data["nodes"][number] for number in unrun(data["stages"][stage]["nodes"])]
    return {data["strings"][r[0]]: r for r in records}


@pytest.mark.parametrize(("file", "model"), [("resnet", "resnet18"), ("swin", "swin_tiny"), ("bert", None)])
def test_every_node_is_told_and_its_costs_sum_up(file: str, model: str | None) -> None:
    """After folding, constants stand below the paths of nodes that are still there: no cost may count twice."""
    program = netc.load(SPECS / f"{file}.net")
    trace = traced(program.model(model or program.models[0]).graph, "strip_phase", "fold", "eliminate_dead")
    data = json.loads(json.dumps(collect(trace)))
    graphs = [trace.start, *(s.after for s in trace.stages)]
    for number, (stage, graph) in enumerate(zip(data["stages"], graphs, strict=True)):
        if "nodes" not in stage:
            assert graph is graphs[number - 1]
            continue
        nodes = told(data, number)
        assert list(nodes) == list(graph.nodes)
        for path, node in graph.nodes.items():
            assert data["strings"][nodes[path][1]] == node.op.name
            assert [data["strings"][t] for t in nodes[path][3]] == [str(t) for t in node.types]
            spans = [data["spans"][s] for s in nodes[path][5]]
            assert [data["sources"][f][1][a:b] for f, a, b in spans] == [s.text for s in node.origin]
        total = cost(graph, data["bind"]).total
        sums = [sum(column) for column in zip(*(r[8] for r in nodes.values() if r[8]), strict=True)]
        assert sums[:4] == [total.macs, total.other, total.activations, total.parameters] == stage["total"][:4]


def test_what_a_pass_did_is_told() -> None:
    graph = netc.load(SPECS / "resnet.net").model("resnet18").graph
    trace = traced(graph, "eliminate_dead", "fold")
    data = collect(trace)
    before, quiet, after = data["stages"]
    assert before["total"][3] == cost(graph).parameters
    assert quiet.keys() == {"name", "doc", "contract", "ms", "measured"}
    strings = data["strings"]
    removed = {strings[data["nodes"][n][0]]: None if by is None else strings[by] for n, by in after["removed"]}
    norms = [p for p, n in graph.nodes.items() if n.op.name == "batch_norm"]
    assert list(removed) == norms
    assert removed["bn1"] == "conv1"
    assert removed["layer2.0.downsample.1"] == "layer2.0.downsample.0"
    changed = {strings[p] for p in after["changed"]}
    assert {"conv1", "relu"} <= changed
    assert "max_pool2d" not in changed


def test_symbols_are_given_numbers() -> None:
    program = netc.load(SPECS / "gpt2.net")
    trace = Trace(program.model(program.models[0]).graph)
    assert collect(trace)["bind"] == {"N": 1, "T": 128}
    bound = collect(trace, {"T": 7})
    assert bound["bind"] == {"N": 1, "T": 7}
    assert bound["stages"][0]["total"][0] == cost(trace.start, {"N": 1, "T": 7}).macs
    with pytest.raises(NetcError, match="no dimension Z"):
        collect(trace, {"Z": 1})


def test_a_stage_may_lose_a_symbol() -> None:
    graph = unrolled(2)
    bind = Step(PASSES["bind"], {"values": (("N", 3),)})
    data = collect(run(graph, [bind]), {"N": 5})
    assert data["stages"][0]["total"][0] * 3 == data["stages"][1]["total"][0] * 5


def test_offsets_count_as_javascript_does() -> None:
    trace = hostile()
    data = collect(trace)
    text = data["sources"][0][1].encode("utf-16-le")
    _, start, end = data["spans"][0]
    assert text[2 * start : 2 * end].decode("utf-16-le") == "relu"


def test_a_large_constant_is_cut() -> None:
    edit = Graph("g").edit()
    value = tuple(float(i) for i in range(100_000))
    edit.output("out", edit.add("table", Constant(value, DType.F32)).value)
    data = collect(Trace(edit.done()))
    assert max(map(len, data["strings"])) < 2100
    assert any(re.search(r"0\.0, 1\.0, .*… \(\d+ characters\)", s) for s in data["strings"])


def test_the_same_trace_gives_the_same_bytes() -> None:
    trace = traced(netc.load(SPECS / "resnet.net").model("resnet18").graph, "fold")
    assert page(trace) == page(trace)


def test_ten_thousand_nodes_fit_a_page() -> None:
    trace = traced(unrolled(3334), "eliminate_dead")
    assert len(trace.start.nodes) > 10_000
    assert len(page(trace).encode()) < 2_000_000


class Elements(html.parser.HTMLParser):
    """Every element and attribute of a text, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in ("meta", "link", "input", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_no_name_breaks_out_of_the_page() -> None:
    text = page(hostile())
    found = Elements(text)
    assert found.open == []
    assert found.tags.count("script") == 2
    assert "img" not in found.tags
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert not set("<>&") & set(data[1])
    decoded = json.loads(data[1])
    assert HOSTILE in decoded["model"]
    assert decoded["stages"][1]["measured"] == [False, "exact", 3, "nan", "inf", HOSTILE]
    own = re.sub(r'"data">.*?</script>', "", text, flags=re.DOTALL).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|url\((?!#)|@import|\bimport\b|innerHTML|eval\(", own)


def test_the_small_version_is_html_that_no_name_breaks() -> None:
    found = Elements(small(hostile().start))
    assert found.open == []
    assert set(found.tags) <= {"div", "style", "b", "small", "code", "span", "details", "summary"}
    assert found.names == {"class"}


def test_the_small_version_tells_every_module() -> None:
    model = netc.load(SPECS / "swin.net").model("swin_tiny")
    text = model._repr_html_()
    assert Elements(text).open == []
    assert text.count("<summary>") > 50
    assert "28.3M parameters · 4.49G MACs" in text
    assert "peak 11.51 MiB at N = 1" in text
    assert "<b>qkv</b> <small>linear f32[1, 56, 56, 288]</small><span class=n>86.7M MACs · 27.9k parameters" in text
    assert "x: f32[N, 3, 224, 224]" in text
    assert "→ logits: f32[N, 1000]" in text


def test_the_small_version_stays_small() -> None:
    text = small(unrolled(3334))
    assert len(text) < 150_000
    assert "rows more" in text


# --------------------------------------------------------------------------------------------------------- graphviz


def test_graphviz_reads_what_dot_writes(tmp_path: Path) -> None:
    """Every node and edge, in clusters by module. Graphviz itself checks the text where it is installed."""
    graph = netc.load(SPECS / "swin.net").model("swin_tiny").graph
    text = dot(graph)
    edges = sum(isinstance(r, Value) for n in graph.nodes.values() for r in n.refs) + len(graph.outputs)
    assert text.count(" -> ") == edges
    assert text.count("subgraph") == len([s for s in graph.scopes if s])
    assert re.search(r'\n        subgraph "cluster layers\.0\.blocks\.0" \{\n', text)
    assert 'label="linear\\nlayers.0.blocks.0.attn.qkv\\nf32[N, 56, 56, 288]"' in text
    assert '[label="x\\n' not in text
    for content in (text, dot(hostile().start)):
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", content)
        assert not set("<>&'`\u2028") & set(outside.replace("->", ""))
        if shutil.which("dot"):
            subprocess.run(["dot", "-Tdot", "-o", os.devnull], input=content.encode(), check=True, timeout=120)


def test_a_scope_and_a_node_of_one_path_both_stand_in_dot() -> None:
    edit = Graph("g").edit()
    edit.scope(Scope("a", "A", "a"))
    x = edit.add("x", Input(tensor(DType.F32, 4))).value
    y = edit.add("a", Relu(), edit.add("a.b", Relu(), x).value).value
    edit.output("out", y)
    text = dot(edit.done())
    assert text.count("subgraph") == 1
    assert {line.split()[0] for line in text.splitlines() if " [label=" in line} == {"n0", "n1", "n2", "o0"}


# --------------------------------------------------------------------------------------------------------- browser


class Page:
    """A page in the browser, used as a person would."""

    def __init__(self, driver: webdriver.Chrome, text: str, folder: Path, name: str) -> None:
        self.driver = driver
        self.name = name
        self.times: dict[str, float] = {}
        file = folder / f"{name}.html"
        file.write_text(text)
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get_log("browser")
        driver.get(file.as_uri())
        self.wait("return performance.getEntriesByName('open').length > 0")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        WebDriverWait(self.driver, 60).until(lambda _: self.run(script))

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def said(self, selector: str) -> str:
        return self.find(selector).text

    def drawn(self) -> list[str]:
        """What boxes are drawn."""
        return self.run("return [...document.querySelectorAll('#canvas [data-key]')].map(e => e.dataset.key)")

    def box(self, key: str) -> Any:
        return self.find(f'#canvas [data-key="{key}"]')

    def toggle(self, key: str) -> None:
        """Click the + or − of a group."""
        self.find(f'[data-toggle="{key}"]').click()

    def click(self, key: str) -> None:
        """Open or close a group, choose a node; wherever it is, in sight or not, and if it is there at all."""
        self.run(
            "const e = [...document.querySelectorAll('[data-key]')].find(e => e.dataset.key === arguments[0]);"
            "(e?.querySelector('[data-toggle]') ?? e)?.dispatchEvent(new Event('click', {bubbles: true}))",
            key,
        )

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def search(self, text: str) -> list[str]:
        field = self.find("#search")
        field.clear()
        field.send_keys(text)
        return [row.text for row in self.all("#found [role=option]")]

    def quick(self, what: str, again: Callable[[], Any]) -> bool:
        """Whether what was just done took less than two seconds, to the painted frame, as the page itself measured.

        Where something else kept the machine busy, it is done again, twice at most.
        """
        for _ in range(3):
            self.wait(f"return performance.getEntriesByName('{what}').length > 0")
            self.times[what] = max(self.run(f"return performance.getEntriesByName('{what}').map(e => e.duration)"))
            SHOTS.mkdir(parents=True, exist_ok=True)
            (SHOTS / f"{self.name}.json").write_text(json.dumps(self.times, indent=2))
            if self.times[what] < 2000:
                return True
            self.run(f"performance.clearMeasures('{what}')")
            again()
        return False

    def shot(self, step: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(SHOTS / f"{self.name}-{step}.png"))

    def requests(self) -> list[str]:
        """Addresses that the browser asked for since the page was opened."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        return [e["message"] for e in self.driver.get_log("browser")]


def missing() -> str:
    wanted = {"chromium": "chromium", "chromedriver": "chromium-driver"}
    return " ".join(package for command, package in wanted.items() if shutil.which(command) is None)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if missing():
        message = f"THE REPORT IS NOT TESTED IN A BROWSER: apt-get install {missing()}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--window-size=1600,1100")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def swin() -> Trace:
    graph = netc.load(SPECS / "swin.net").model("swin_tiny").graph
    return traced(graph, "eliminate_dead", "strip_phase")


@pytest.fixture(scope="module")
def folded() -> Trace:
    trace = traced(netc.load(SPECS / "resnet.net").model("resnet18").graph, "strip_phase", "fold")
    measured = Measurement(Contract(), 4, 2.5e-14, 3.5e-16, "output")
    return replace(trace, stages=tuple(replace(s, measurement=measured) if s.changed else s for s in trace.stages))


def test_swin_opens_and_answers_in_two_seconds(driver: webdriver.Chrome, swin: Trace, tmp_path: Path) -> None:
    p = Page(driver, page(swin), tmp_path, "swin")
    assert p.quick("open", driver.refresh)
    assert p.said("h1") == "swin_tiny"
    assert {"n:x", "g:layers.0", "g:layers.3", "n:head", "o:logits"} <= set(p.drawn())
    assert "g:layers.2.blocks.0" not in p.drawn()
    p.shot("1-open")
    p.toggle("g:layers.2")
    assert p.quick("expand", lambda: (p.toggle("g:layers.2"), p.toggle("g:layers.2")))
    assert {f"g:layers.2.blocks.{i}" for i in range(6)} <= set(p.drawn())
    p.shot("2-expanded")
    rows = p.search("layers.1.blocks.1 qkv")
    assert p.quick("search", lambda: p.search("layers.1.blocks.1 qkv"))
    assert rows == ["layers.1.blocks.1.attn.qkv\nlinear"]
    p.shot("3-search")
    p.press(Keys.ENTER)
    assert p.quick("jump", lambda: (p.press("/"), p.press(Keys.ENTER)))
    assert "chosen" in p.box("n:layers.1.blocks.1.attn.qkv").get_attribute("class")
    p.shot("4-jumped")
    details = p.said("#details")
    assert "%layers.1.blocks.1.attn.qkv" in details
    assert "f32[576, 192]" in details
    assert "86\u202f704\u202f128" in details
    assert p.said(".source mark") == "linear(3 * d)"
    assert p.said(".source .here .line-number") == "36"
    assert p.complaints() == []


def test_what_is_nearly_everything_is_open_and_lost_modules_count(driver: webdriver.Chrome, tmp_path: Path) -> None:
    """A module that loses all its nodes has no box: they are counted at the module around it."""
    edit = Graph("g").edit()
    for scope in ("body", "body.a", "body.a.gone", "body.b"):
        edit.scope(Scope(scope, "M", scope))
    x = edit.add("x", Input(tensor(DType.F32, 4))).value
    for path in ("a.gone.one", "a.gone.two", "a.three", "a.four", "b.only"):
        x = edit.add(f"body.{path}", Relu(), x).value
    edit.output("out", x)
    graph = edit.done()
    edit = graph.edit("drop")
    for name in ("two", "one"):
        node = graph.nodes[f"body.a.gone.{name}"]
        assert node.inputs[0] is not None
        edit.redirect(node.value, node.inputs[0])
        edit.remove(node.path)
    p = Page(driver, page(Trace(graph, (Stage(Step(Pass("drop", fold)), graph, edit.done(), 0.0),))), tmp_path, "lost")
    assert set(p.drawn()) == {"n:x", "g:body", "g:body.a", "n:body.b.only", "o:out"}
    p.press("]")
    assert [b.text for b in p.all('[data-key="g:body.a"] .badge')] == ["−2", "~1"]
    assert p.complaints() == []


def test_ten_thousand_nodes_open_and_answer_in_two_seconds(driver: webdriver.Chrome, tmp_path: Path) -> None:
    p = Page(driver, page(traced(unrolled(3334), "eliminate_dead")), tmp_path, "unrolled")
    assert p.quick("open", driver.refresh)
    assert len(p.drawn()) < 60
    assert p.said("#canvas").count("each linear · tanh · add") > 10
    p.shot("1-open")
    groups = [k for k in p.drawn() if k.startswith("run:")]
    p.toggle(groups[3])
    assert p.quick("expand", lambda: (p.toggle(groups[3]), p.toggle(groups[3])))
    assert len(p.drawn()) < 120
    p.shot("2-expanded")
    rows = p.search("tanh_1777")
    assert p.quick("search", lambda: p.search("tanh_1777"))
    assert rows[0].startswith("tanh_1777")
    assert p.search("tanh")[0].startswith("tanh_")
    assert p.said("#found .note") == "3\u202f274 more"
    p.search("tanh_1777")
    p.press(Keys.ENTER)
    assert p.quick("jump", lambda: (p.press("/"), p.press(Keys.ENTER)))
    assert "chosen" in p.box("n:tanh_1777").get_attribute("class")
    p.shot("3-jumped")
    assert p.complaints() == []


def test_the_page_asks_the_network_for_nothing(driver: webdriver.Chrome, swin: Trace, tmp_path: Path) -> None:
    p = Page(driver, page(swin), tmp_path, "offline")
    p.toggle("g:layers.0")
    p.search("norm")
    p.press(Keys.ENTER)
    asked = p.requests()
    assert asked[0].endswith("/offline.html")
    assert [url for url in asked[1:] if not url.startswith("data:")] == []
    assert p.run("return performance.getEntriesByType('resource').length") == 0
    # And it could not if it wanted to.
    refused = driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        "fetch('http://127.0.0.1:9/').catch(() => 0)"
    )
    assert refused == "connect-src"


def test_passes_are_shown_one_by_one(driver: webdriver.Chrome, folded: Trace, tmp_path: Path) -> None:
    p = Page(driver, page(folded), tmp_path, "passes")
    names = [e.text for e in p.all("#stages .stage .name")]
    assert names == ["as written", "fold"]
    assert p.said(".toggle-quiet") == "1 that changed nothing"
    p.find(".toggle-quiet input").click()
    assert [e.text for e in p.all("#stages .stage .name")][1] == 'strip_phase(keep = "infer")'
    p.all("#stages .stage")[2].click()
    assert p.said("#stages .changes h2") == "fold"
    assert p.said("#stages .changes > p") == "The graph with norms in their conv2d."
    assert "3.5e-16" in p.said("#stages .changes")
    assert "kept" in p.said("#stages .changes")
    assert "+140" in p.said("#totals")
    assert "added" in p.box("n:bn1.rsqrt").get_attribute("class")
    assert "changed" in p.box("n:conv1").get_attribute("class")
    assert [b.text for b in p.all('[data-key="g:layer1.0"] .badge')] == ["−2", "~4", "+16"]
    p.shot("1-folded")
    p.box("n:conv1").click()
    assert p.said(".verdict").splitlines() == [
        "changed by fold",
        "weight",
        "@conv1.weight",
        "%bn1.mul_1",
        "bias",
        "nothing",
        "%bn1.sub",
    ]
    p.shot("2-changed")
    driver.refresh()
    assert p.said(".verdict").startswith("changed by fold"), "the address says what was looked at"


def test_what_was_removed_leads_to_what_stands_there(driver: webdriver.Chrome, folded: Trace, tmp_path: Path) -> None:
    p = Page(driver, page(folded), tmp_path, "removed")
    p.press("]")
    rows = p.search("layer1.0.bn2")
    assert rows[0] == "layer1.0.bn2\nbatch_norm, removed by fold"
    p.press(Keys.ENTER)
    assert p.said("#details .verdict") == "removed by fold\nIn its place stands %layer1.0.conv2."
    assert p.run(
        "const r = e => document.querySelector(e).getBoundingClientRect();"
        "return r('.source mark').right < r('.source .text').right"
    ), "a long line is scrolled to the mark"
    assert "n:layer1.0.conv2" in p.drawn()
    p.shot("1-gone")
    p.find("#details .verdict p .link").click()
    assert "%layer1.0.conv2" in p.said("#details .path")
    p.search("layer1.0.bn2")
    p.press(Keys.ENTER)
    [before] = [link for link in p.all("#details .link") if link.text == "show it as it was before"]
    before.click()
    assert "chosen" in p.box("n:layer1.0.bn2").get_attribute("class")
    assert p.all("#stages [aria-current] .name")[0].text == "as written"
    assert p.complaints() == []


def test_everything_can_be_done_with_the_keyboard(driver: webdriver.Chrome, swin: Trace, tmp_path: Path) -> None:
    p = Page(driver, page(swin), tmp_path, "keyboard")
    p.press("?")
    assert p.find("#keys").is_displayed()
    p.press(Keys.ESCAPE)
    assert not p.find("#keys").is_displayed()
    p.press("/")
    assert p.run("return document.activeElement.id") == "search"
    p.press("layers.1", Keys.ENTER)
    assert p.run("return document.activeElement.id") == "canvas"
    assert p.said("#details h2") == "layers.1 Stage"
    p.press(Keys.ARROW_DOWN)
    assert p.said("#details h2") == "layers.2 Stage"
    p.press(Keys.ARROW_UP, Keys.ARROW_UP)
    assert p.said("#details h2") == "layers.0 Stage"
    p.press(Keys.ENTER)
    assert "g:layers.0.blocks.1" in p.drawn()
    assert "opened" in p.run("return document.getElementById('said').textContent")
    p.press(Keys.ENTER)
    assert "g:layers.0.blocks.1" not in p.drawn()
    p.press("]")
    assert "strip_phase" in p.said("#stages [aria-current]")
    p.press("[")
    assert p.said("#stages [aria-current]") == "as written"
    before = p.run("return document.getElementById('world').getAttribute('transform')")
    p.press("+")
    assert p.run("return document.getElementById('world').getAttribute('transform')") != before


def test_the_mouse_pans_zooms_and_chooses(driver: webdriver.Chrome, swin: Trace, tmp_path: Path) -> None:
    p = Page(driver, page(swin), tmp_path, "mouse")
    p.box("n:permute").click()
    assert p.said("#details h2") == "permute permute"
    lit = len(p.all(".edge.lit"))
    assert lit == 2
    arrows = "return document.querySelectorAll('[marker-end*=lit]').length"
    assert p.run(arrows) == 2
    p.press(Keys.ESCAPE)
    assert (p.run(arrows), len(p.all(".edge.lit, .chosen"))) == (0, 0)
    p.box("n:permute").click()
    place = p.box("n:permute").rect
    canvas = p.find("#canvas")
    drag = ActionChains(driver).move_to_element_with_offset(canvas, -300, 200).click_and_hold()
    drag.move_by_offset(120, -60).release().perform()
    moved = p.box("n:permute").rect
    assert (moved["x"] - place["x"], moved["y"] - place["y"]) == pytest.approx((120, -60), abs=2)
    assert p.said("#details h2") == "permute permute", "a drag is no click"
    ActionChains(driver).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, -400).perform()
    assert p.box("n:permute").rect["width"] > 1.3 * place["width"]
    p.find("#fit").click()
    ActionChains(driver).double_click(p.box("g:layers.3")).perform()
    assert "g:layers.3.blocks.0" in p.drawn()
    p.find("#collapse").click()
    assert "g:layers.3.blocks.0" not in p.drawn()
    p.run("const m = document.getElementById('metric'); m.value = 'parameters'; m.dispatchEvent(new Event('change'))")
    assert "PARTS BY PARAMETERS" in p.said("#details").upper()
    assert p.complaints() == []


def overlaps(page: Page) -> list[list[str]]:
    """Cards that lie over each other."""
    return page.run("""
        const area = card => card.querySelector(".face").getBoundingClientRect();
        const cards = [...document.querySelectorAll("#canvas .card")].map(e => [e.dataset.key, area(e)]);
        const left = (p, q) => p.right < q.left + 1;
        const above = (p, q) => p.bottom < q.top + 1;
        const meet = (p, q) => !(left(p, q) || left(q, p) || above(p, q) || above(q, p));
        return cards.flatMap(([a, p], i) => cards.slice(i + 1).filter(([, q]) => meet(p, q)).map(([b]) => [a, b]))""")


def test_no_box_lies_over_another_and_none_leaves_its_group(
    driver: webdriver.Chrome, swin: Trace, tmp_path: Path
) -> None:
    p = Page(driver, page(swin), tmp_path, "layout")
    while closed := p.run("return [...document.querySelectorAll('.card [data-toggle]')].map(e => e.dataset.toggle)"):
        for key in closed:
            p.click(key)
    assert len(p.drawn()) == len(swin.start.nodes) + len(swin.start.scopes) - 1 + 1
    assert overlaps(p) == []
    p.press("0")
    p.shot("all-open")
    outside = p.run("""
        const area = e => e.getBoundingClientRect();
        const groups = [...document.querySelectorAll("#canvas .group")].map(area);
        const headers = [...document.querySelectorAll("#canvas .header")];
        const scopes = headers.map((e, i) => [e.dataset.key.slice(2), groups[i]]);
        const within = (g, r) => r.left > g.left - 1 && r.right < g.right + 1;
        const holds = (g, r) => within(g, r) && r.top > g.top - 1 && r.bottom < g.bottom + 1;
        const card = path => area(document.querySelector(`[data-key="n:${path}"] .face`));
        return [...document.querySelectorAll("#canvas .card[data-key^='n:']")].map(e => e.dataset.key.slice(2))
            .filter(path => scopes.some(([scope, g]) => path.startsWith(scope + ".") && !holds(g, card(path))))""")
    assert outside == []
    wrong = p.run("return [...document.querySelectorAll('.edge')].filter(e => /NaN|undef/.test(e.outerHTML)).length")
    assert wrong == 0


def test_no_name_runs_in_the_page(driver: webdriver.Chrome, tmp_path: Path) -> None:
    p = Page(driver, page(hostile()), tmp_path, "hostile")
    for stage in range(2):
        p.all("#stages .stage")[stage].click()
        for key in p.drawn():
            p.click(key)
        p.search("relu")
        p.press(Keys.ENTER)
        assert HOSTILE[:30] in p.said("#details")
        assert p.said(".source mark") == "relu"
    p.shot("1-chosen")
    assert p.run("return window.hacked === undefined")
    assert p.all("img") == []
    assert p.run("return document.scripts.length") == 2
    assert p.complaints() == []


def test_dark_and_paper_and_narrow(driver: webdriver.Chrome, folded: Trace, tmp_path: Path) -> None:
    p = Page(driver, page(folded), tmp_path, "looks")
    p.press("]")
    p.box("n:conv1").click()

    def colours() -> list[str]:
        ink = "getComputedStyle(document.querySelector('.name')).fill"
        return p.run(f"return [getComputedStyle(document.body).backgroundColor, {ink}]")

    light = colours()
    emulate = "Emulation.setEmulatedMedia"
    try:
        driver.execute_cdp_cmd(emulate, {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        dark = colours()
        p.shot("dark")
        driver.execute_cdp_cmd(emulate, {"features": []})
        driver.set_window_size(700, 1100)
        assert p.run("return document.documentElement.scrollWidth <= innerWidth")
        p.shot("narrow")
        driver.set_window_size(1600, 1100)
        driver.execute_cdp_cmd(emulate, {"media": "print"})
        p.run("dispatchEvent(new Event('beforeprint'))")
        assert not p.find(".tools").is_displayed()
        assert p.run("return document.getElementById('canvas').getAttribute('viewBox')")
        p.shot("print")
        p.run("dispatchEvent(new Event('afterprint'))")
    finally:
        driver.execute_cdp_cmd(emulate, {"media": "", "features": []})
        driver.set_window_size(1600, 1100)
    assert sum(map(int, re.findall(r"\d+", light[0])[:3])) > 600 > 200 > sum(map(int, re.findall(r"\d+", dark[0])[:3]))
    assert sum(map(int, re.findall(r"\d+", light[1])[:3])) < 200 < 600 < sum(map(int, re.findall(r"\d+", dark[1])[:3]))


def test_groups_that_wait_for_each_other_are_drawn(driver: webdriver.Chrome, tmp_path: Path) -> None:
    """A pass may move values so that two modules read each other: the picture has an edge that goes back."""
    edit: Edit = Graph("circle").edit()
    for scope in ("a", "b"):
        edit.scope(Scope(scope, scope.upper(), scope))
    x = edit.add("x", Input(tensor(DType.F32, 4))).value
    first = edit.add("a.one", Relu(), x).value
    second = edit.add("b.one", Relu(), first).value
    third = edit.add("a.two", Add(), second, first).value
    edit.output("out", edit.add("b.two", Add(), third, second).value)
    p = Page(driver, page(Trace(edit.done())), tmp_path, "circle")
    assert len(p.all(".edge.back")) == 1
    p.toggle("g:a")
    p.toggle("g:b")
    assert {"n:a.two", "n:b.two"} <= set(p.drawn())
    assert overlaps(p) == []
    p.shot("1-open")
    assert p.complaints() == []


# ------------------------------------------------------------------------------------------------------------ plans

PLANNED = """
target chip = accelerator(buffer = 256 KiB, dram = 8 GB/s, macs = 1 T)

plan drawn for mobilenet_v2 on chip {
    batch 1
    apply fold, fold_constants
    dtype i8
    fuse group stem = ["stem.*", relu6, "blocks.0", "blocks.1.expand.*"]
    fuse pattern conv2d |> relu6 |> conv2d |> relu6 |> conv2d |> add?
    fuse auto(minimize = dram, planner = greedy)
}
"""


def planned(text: str = PLANNED, measure: bool = False) -> tuple[Summary, Workload, Trace]:
    """A plan of MobileNet-V2, decided; with two candidates as if they had been measured."""
    source = (SPECS / "mobilenet_v2.net").read_text()
    program = read_source(Source("planned.net", source + text))
    plan = program.plan("drawn")
    model = program.model(plan.model)
    trace = run(model.graph, plan.passes(), facts=model.facts)
    decision = decide(plan, prepared(plan, trace.final))
    slow, fast = [g for g in decision.groups if len(g.nodes) > 1][:2]
    measured = (
        Measured(fast, 0.8, 1.2, True, "33 % less time"),
        Measured(slow, 2.4, 1.9, False, "as one kernel it takes 26 % more time: the halo is computed again"),
    )
    return summarise(replace(decision, measured=measured if measure else ())), decision.workload, trace


@pytest.fixture(scope="module")
def edge() -> tuple[Summary, Workload, Trace]:
    return planned(measure=True)


def rows(page: Page, column: int) -> list[str]:
    cells = f"#groups tbody td:nth-child({column})"
    return page.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())", cells)


def test_groups_stand_on_the_graph_in_a_table_and_under_the_roof(
    driver: webdriver.Chrome, edge: tuple[Summary, Workload, Trace], tmp_path: Path
) -> None:
    summary, workload, trace = edge
    p = Page(driver, plan_page(summary, workload, trace), tmp_path, "plan")
    assert p.quick("open", driver.refresh)
    assert p.said("#stages [aria-current] .name") == "prepared"
    groups = summary.shares
    assert rows(p, 1) == [str(i + 1) for i in range(len(groups))]
    assert [name.split(" … ")[0] for name in rows(p, 2)] == [s.group.name for s in groups]
    assert rows(p, 3) == [str(len(s.group.nodes)) for s in groups]
    assert f"{(summary.before or 0) / 2**20:.1f}" in p.said("#plan-totals")
    stem = next(i for i, s in enumerate(groups) if s.group.name == "stem")
    assert p.said('[data-key="n:stem.conv"] .tag') == f"{stem + 1} stem"
    several = {i for i, s in enumerate(groups) if len(s.group.nodes) > 1}
    assert set(p.run("return [...document.querySelectorAll('.blob')].map(e => +e.dataset.blob)")) <= several
    hover = p.run("""return document.querySelector('[data-key="n:stem.conv"] title').textContent""")
    assert re.search(r"group \d+ stem: \d+ nodes\n[\d.]+\s*KiB on chip of 256\s*KiB · DRAM .*layer by layer", hover)
    assert "operations per byte ·" in hover
    solid = p.run("return [...document.querySelectorAll('#roofline .solid')].map(e => +e.dataset.group)")
    assert sorted(solid) == [i for i, s in enumerate(groups) if s.macs]
    hollow = p.run("return [...document.querySelectorAll('#roofline .hollow')].map(e => +e.dataset.group)")
    assert set(hollow) == {i for i in several if groups[i].macs}
    assert [e.text for e in p.all("#roofline .roofed")] == ["MACs 2 T operations/s", "DRAM 8 GB/s"]
    p.find("#groups tbody tr:nth-child(2)").click()
    assert driver.save_screenshot(str(SHOTS / "plan.png"))
    assert p.complaints() == []


def test_a_group_is_chosen_from_anywhere(
    driver: webdriver.Chrome, edge: tuple[Summary, Workload, Trace], tmp_path: Path
) -> None:
    summary, workload, trace = edge
    p = Page(driver, plan_page(summary, workload, trace), tmp_path, "plan-chosen")
    chosen = "return [...document.querySelectorAll('tr.chosen, .blob.chosen, .solid.chosen')].map(e => e.tagName)"
    stem = next(i for i, s in enumerate(summary.shares) if s.group.name == "stem")
    number = str(stem + 1)
    p.run(f"document.querySelector('#groups tr[data-group=\"{stem}\"]').click()")
    assert p.said("#details h2").split() == [number, "stem"]
    assert p.run(chosen) == ["g", "circle", "TR"]
    share = summary.shares[stem]
    assert {f"n:{path}" for path in share.group.nodes} <= set(p.drawn()), "what holds its nodes is opened"
    assert [e.text for e in p.all("#details h3")][:2] == ["ON CHIP", "DRAM"]
    assert p.all("#details .onchip .band")
    assert "weights kept" in p.said("#details .bands")
    assert p.said(".source mark").startswith("fuse group stem")
    assert "steps" in p.said("#details .pairs")
    assert overlaps(p) == []
    p.shot("1-group")
    driver.refresh()
    assert p.said("#details h2").split() == [number, "stem"], "the address says what was looked at"
    p.box("n:relu6").click()
    assert p.said("#details h2").startswith("relu6")
    assert p.run(chosen) == ["g", "circle", "TR"], "the group of a chosen node is lit too"
    p.press(Keys.ESCAPE)
    assert p.run(chosen) == []
    last = len(summary.shares) - 1
    click = "document.querySelector(arguments[0]).dispatchEvent(new Event('click', {bubbles: true}))"
    p.run(click, f'#roofline .solid[data-group="{last}"]')
    assert p.said("#details h2").split()[0] == str(last + 1)
    p.run(click, '[data-key="n:relu6"] .tag')
    assert p.said("#details h2").split() == [number, "stem"]
    p.press("[")
    assert (p.run(chosen), p.all(".tag"), p.all(".blob")) == ([], [], []), "groups are those of the last graph"
    p.find("#groups tbody tr:nth-child(3)").click()
    assert p.said("#stages [aria-current] .name") == "prepared"
    assert p.said("#details h2").split()[0] == "3"
    assert p.complaints() == []


def test_the_table_sorts_by_every_column(
    driver: webdriver.Chrome, edge: tuple[Summary, Workload, Trace], tmp_path: Path
) -> None:
    summary, workload, trace = edge
    p = Page(driver, plan_page(summary, workload, trace), tmp_path, "plan-table")
    moved = {str(i + 1): s.after or 0 for i, s in enumerate(summary.shares)}
    heads = len(p.all("#groups thead button"))
    for column in range(heads):
        p.all("#groups thead button")[column].click()
        once = rows(p, 1)
        p.all("#groups thead button")[column].click()
        assert sorted(once) == sorted(rows(p, 1))
        assert once != rows(p, 1)
    p.all("#groups thead button")[5].click()
    order = [moved[i] for i in rows(p, 1)]
    assert p.find("#groups th:nth-child(6)").get_attribute("aria-sort") == "descending"
    assert order == sorted(order, reverse=True)
    p.all("#groups thead button")[5].click()
    assert [moved[i] for i in rows(p, 1)] == sorted(order)
    told = [row.text for row in p.all("#measured tbody tr")]
    assert "chosen 33 % less time" in told[0]
    assert "not chosen as one kernel it takes 26 % more time" in told[1]
    assert "1.50×" in told[0]
    assert "0.79×" in told[1]
    p.run("document.getElementById('measured').scrollIntoView()")
    p.shot("1-measured")
    assert p.requests()[1:] == [] or all(url.startswith("data:") for url in p.requests()[1:])
    assert p.complaints() == []


def test_labels_of_the_roofline_are_legible(
    driver: webdriver.Chrome, edge: tuple[Summary, Workload, Trace], tmp_path: Path
) -> None:
    """No name of a group lies over another one, or leaves the drawing; the page scrolls nowhere sideways."""
    summary, workload, trace = edge
    p = Page(driver, plan_page(summary, workload, trace), tmp_path, "plan-labels")
    found = p.run("""
        const area = e => e.getBoundingClientRect();
        const all = [...document.querySelectorAll("#roofline text.called")].map(area);
        const frame = area(document.getElementById("roofline"));
        const beside = (a, b) => a.right < b.left + 1 || b.right < a.left + 1;
        const meet = (a, b) => !beside(a, b) && a.top < b.bottom - 4 && b.top < a.bottom - 4;
        const over = all.flatMap((a, i) => all.slice(i + 1).filter(b => meet(a, b)).map(() => i));
        const out = all.filter(a => a.left < frame.left || a.right > frame.right + 1 || a.top < frame.top);
        return [all.length, over.length, out.length]""")
    assert found[0] >= 3
    assert found[1:] == [0, 0]
    for width in (1600, 1300, 700):
        driver.set_window_size(width, 1100)
        try:
            assert p.run("return document.documentElement.scrollWidth <= innerWidth")
            p.shot(f"{width}")
        finally:
            driver.set_window_size(1600, 1100)
    assert p.complaints() == []


def test_without_bandwidth_there_is_no_roof_and_the_page_says_so(driver: webdriver.Chrome, tmp_path: Path) -> None:
    text = re.sub(r"= accelerator.*", "= llvm(threads = 1, cache = 1 MiB)", PLANNED).replace("    dtype i8\n", "")
    text = re.sub(r"    fuse (group|pattern).*\n", "", text)
    summary, workload, trace = planned(text)
    p = Page(driver, plan_page(summary, workload, trace), tmp_path, "plan-cpu")
    assert p.all("#roofline .roof") == []
    assert p.all("#roofline .solid")
    assert "no bandwidth is known of the target" in p.said("#drawn figcaption")
    assert [e.text for e in p.all("#roofline .axis")] == [
        "operations per byte of DRAM traffic",
        "operations of a group",
    ]
    kernels = [s.kernel.replace("_", " ") for s in summary.shares if s.kernel]
    assert kernels
    assert [k for k in rows(p, 3) if k] == kernels
    p.shot("1-open")
    assert p.complaints() == []


def test_names_of_groups_break_nothing() -> None:
    trace = hostile()
    graph = trace.final
    bound = PASSES["bind"].run(graph, values=(("N", 2),))
    workload = Workload(bound)
    nodes = tuple(workload.work.nodes)
    group = Group(f"group {HOSTILE}", nodes)
    parts = shares(workload, [group], None, makers={group.name: "the plan"}, kernels={group.name: HOSTILE})
    measured = (Measured(group, 1.0, 2.0, False, HOSTILE),)
    summary = Summary(HOSTILE, HOSTILE, Machine(None, 1e9), None, parts, None, measured, (HOSTILE,))
    found = Elements(plan_page(summary, workload, trace))
    assert found.open == []
    assert found.tags.count("script") == 2
    assert "img" not in found.tags


def test_netc_report_writes_the_page_of_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "planned.net"
    file.write_text((SPECS / "mobilenet_v2.net").read_text() + PLANNED)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", f"{file}:drawn", "-o", str(out)])
    assert result.exit_code == 0, result.output
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', out.read_text(), re.DOTALL)
    assert found is not None
    plan = json.loads(found[1])["plan"]
    assert plan["plan"] == "drawn"
    assert plan["dram"] < plan["dram_before"]
    assert plan["buffer"] <= 2**18
    refused = CliRunner().invoke(app, ["report", f"{file}:drawn", "-O2", "-o", str(out)])
    assert refused.exit_code == 2
    assert "the plan drawn says itself" in refused.output
