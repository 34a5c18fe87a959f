"""Members of the stitched family EfficientNet-Lite0 → Lite1 of specs/stitched.net: how often their first choice is
Lite1's, joined plainly and by least squares.

    python benchmarks/stitching.py [--samples 400] [--crops 60] [--output build/stitching]

Agreement is counted on crops that the stitching layers were not fitted on: half of them other crops of the pictures
whose crops they were, half of photos that were left out; and on the latter alone. Writes lites.csv, lites.html and
lites.svg.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import netc
import numpy as np
import onnxruntime
import skimage
from netc.compiler.calibration import Calibration, Pictures
from netc.compiler.family import Family, costs
from netc.compiler.graph import Graph
from netc.compiler.model import Model
from netc.compiler.report.curve import curve, drawing, series
from netc.compiler.transforms.solve import Lstsq
from netc.compiler.transforms.stitch import stitch

ROOT = Path(__file__).parents[1]
FIRST, LAST = "lite0_240", "lite1_240"
SEEN = (
    "astronaut.*", "brick.*", "camera.*", "cell.*", "clock_motion.*", "coins.*", "color.*", "grass.*", "gravel.*",
    "horse.*", "hubble*", "ihc.*", "moon.*", "motorcycle_*", "page.*", "retina.*", "text.*",
)  # fmt: skip
UNSEEN = ("chelsea.*", "coffee.*", "rocket.*")


def crops(only: tuple[str, ...], seed: int) -> Calibration:
    """Random crops of scikit-image's pictures, as the models want them."""
    folder = str(Path(skimage.__file__).parent / "data")
    return Calibration("photos", Pictures(path=folder, only=only, mean=(127 / 255,), std=(128 / 255,), seed=seed))


def chosen(graph: Graph, images: Any) -> Any:
    """The class that a model chooses for each image, run by ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "member.onnx"
        Model(graph.name, graph).export(path, to="onnx")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: part})[0].argmax(1) for part in np.split(images, 6)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400, help="crops that the layers are fitted on")
    parser.add_argument("--crops", type=int, default=60, help="crops of each kind to count agreement on")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "stitching")
    options = parser.parse_args()
    program = netc.load(ROOT / "specs" / "stitched.net")
    models = [program.model(name).graph for name in (FIRST, LAST)]
    families: dict[str, Family] = {
        "plain join": stitch(*models, init="plain"),
        "least squares": stitch(*models, init=Lstsq(crops(SEEN, 0), samples=options.samples)),
    }
    start = time.perf_counter()
    layers = [p for path, p in families["least squares"].parameters.items() if path.startswith("stitch.")]
    for parameter in layers:
        assert parameter.data is not None
        parameter.data.load()
    print(
        f"{len(layers) // 2} layers fitted on {options.samples} crops in {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    sets = (crops(SEEN, 1), crops(UNSEEN, 1))
    images = np.concatenate([s.inputs(models[0], options.crops)["x"] for s in sets])
    wanted = chosen(models[1], images)
    rows: list[dict[str, Any]] = []
    print(f"{'MACs':>12}{'plain':>9}{'lstsq':>9}{'unseen':>9}  member", flush=True)
    for member in costs(families["least squares"]):
        same = {name: chosen(f.member(member.number), images) == wanted for name, f in families.items()}
        plain, fitted = same["plain join"], same["least squares"]
        row = {
            "member": member.number, "label": member.label, "macs": member.macs, "anchor": member.anchor or "",
            "plain_join": plain.mean(), "least_squares": fitted.mean(),
            "least_squares_on_photos_left_out": fitted[options.crops :].mean(),
        }  # fmt: skip
        rows.append(row)
        numbers = [row[n] for n in ("plain_join", "least_squares", "least_squares_on_photos_left_out")]
        print(f"{member.macs:>12,}" + "".join(f"{n:>9.1%}" for n in numbers) + f"  {member.label}", flush=True)
    write(options.output, rows)


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "lites.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    title, quantity = "EfficientNet-Lite0 → Lite1, stitched", "first choice as Lite1's"
    found = series(table)
    (folder / "lites.html").write_text(curve(found, title, quantity), "utf-8")
    (folder / "lites.svg").write_text(drawing(found, quantity), "utf-8")


if __name__ == "__main__":
    main()
