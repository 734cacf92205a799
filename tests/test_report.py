"""The HTML report: what it says, that the page stands on its own, and that people of all kinds can read it."""

from __future__ import annotations

import base64
import html
import itertools
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit import checkpoint
from edgekit.bundle import build as building
from edgekit.cli import _app
from edgekit.errors import InputError, UsageError
from edgekit.report import bundles, charts, page, pictures
from edgekit.report.request import Request
from edgekit.report.verdict import verdict
from edgekit.runtime.results import Result
from tests import networks
from tests.tiny import tiny_bundle

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
VOID = {"meta", "img", "br", "link", "input", "hr", "line", "circle", "rect", "polyline", "path"}


class Page(HTMLParser):
    """What a page holds: tags in order with attributes, ids, headings, and whether tags close as they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1] if self.open else 'nothing'}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_page(text: str) -> Page:
    """Faults that tools such as axe call serious, as far as the source shows them; nothing may be from elsewhere."""
    found = Page(text)
    assert found.open == []
    assert found.all("html")[0]["lang"] == "en"
    assert "user-scalable" not in str(found.all("meta"))
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(found.all(landmark)) == 1, landmark
    ids = Counter(attrs["id"] for _, attrs in found.tags if attrs.get("id"))
    assert all(count == 1 for count in ids.values()), ids.most_common(1)
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels)), levels
    for tag, attrs in found.tags:
        for name in ("src", "href", "action", "poster", "srcset"):
            if attrs.get(name) is not None:
                assert str(attrs[name]).startswith(("data:image/", "#")), (tag, attrs[name])
        for target in str(attrs.get("aria-labelledby") or "").split():
            assert target in ids, target
    assert {str(a["href"])[1:] for a in found.all("a")} <= set(ids)
    assert not found.all("script") and not found.all("link") and not found.all("iframe")
    assert "url(" not in text and "@import" not in text
    assert all(attrs.get("alt") for attrs in found.all("img"))
    assert all(attrs.get("role") == "img" or attrs.get("aria-hidden") for attrs in found.all("svg"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in found.all("th"))
    assert all(attrs.get("aria-label") for _, attrs in found.tags if attrs.get("role") == "region")
    assert len(found.all("table")) == sum(
        attrs.get("tabindex") == "0" for attrs in found.all("div")
    )  # scrolled by keys
    assert len(text.encode()) < page.MOST_BYTES
    return found


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def entry(name: str, ms: float | None = 40.0, value: float | None = 0.44, **changes: Any) -> dict[str, Any]:
    times = (
        None if ms is None else {"min": 0.9 * ms, "p50": ms, "p90": 1.1 * ms, "p99": 1.3 * ms, "max": 2 * ms, "n": 90}
    )
    stages = None if times is None else dict.fromkeys(("pre_ms", "network_ms", "post_ms", "whole_ms"), times)
    scored = None
    if value is not None:
        rows = [{"class": c, "images": 3, "instances": 9, "map50_95": value} for c in ("dog", "<b>cat</b>")]
        scored = {
            "metric": "map50_95", "metric_name": "mAP 50-95", "value": value, "per_class": rows, "images": 600,
            "set": "pets, val", "protocol": "coco", "metrics": {"map50_95": value},
        }  # fmt: skip
    parity = {"max_abs": 0.1, "mean_abs": 0.01, "tolerance": 0.5, "pass": True}
    manifest = {
        "parity": {"boxes": parity}, "provenance": {"checkpoint_sha256": "ab" * 32},
        "rewrites": [{"rule": "attention", "fired": 8, "expected": 8, "refused": []}],
        "calibration": {"images": 300, "set": "pets", "split": "train"},
        "accuracy": {"metric": "map50_95", "before": 0.44, "after": 0.438, "drop_points": 0.2, "limit_points": 0.5,
                     "images": 600, "on": "pets, split val", "put_back": []},
        "speed": {"speedup": 1.6, "low": 1.54, "high": 1.67, "against": "ov-fp16", "reliable": False},
    }  # fmt: skip
    record = None if ms is None else {"precision_executed": "f32"}
    stage = {"name": "stage 6", "ms": 9.0, "share": 0.3, "parts": {}}
    return {
        "name": name, "target": name, "folder": name, "imgsz": "640x640", "head": "topk", "megabytes": 5.4,
        "manifest": manifest, "at_build": bundles.at_build(manifest),
        "record": record, "stages": stages, "ms": ms, "disturbances": [], "accuracy": scored,
        "profile": {"total_ms": 30.0, "runs": 20, "by_stage": [stage]}, "ratio": None, "points": None,
        "where": "mAP 50-95 on 600 images of pets, val", **changes,
    }  # fmt: skip


def found_of(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    address = pictures.data_address(np.zeros((8, 8, 3), np.uint8))
    pair = pictures.Pair("a.jpg", address, address, ["dog 0.31"], [])
    return {
        "title": "a and b", "task": "detect", "entries": list(entries), "verdict": verdict(entries, 1.0),
        "max_drop": 1.0,
        "pairs": [{"name": entries[-1]["name"], "pairs": [pair], "differ": 1, "looked": 20}],
        "classes": bundles.class_rows(entries),
        "machine": {"cpu": {"model": "A CPU"}}, "machine_name": "A CPU, 2 cores",
        "notes": ["a note"], "licenses": ["AGPL-3.0"], **changes,
    }  # fmt: skip


RATIO = {"ratio": 0.625, "low": 0.6, "high": 0.65}
BOTH = (entry("ov-fp16"), entry("ov-int8", 25.0, 0.438, ratio=RATIO, points=-0.2))


@pytest.fixture
def edgekit(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """``edgekit report WORDS`` → (exit code, JSON document or None, standard error)."""

    def call(*words: object) -> tuple[int, Any, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            _app.main(["report", *map(str, words)])
        out, err = capfd.readouterr()
        return int(end.value.code or 0), json.loads(out) if out else None, " ".join(err.split())

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random classifier as two bundles, one with other classes, and a set of six images."""
    folder = tmp_path_factory.mktemp("made")
    classifier = networks.settled("yolo12n-cls", networks.pictures(), 1e-3, ("a", "b", "c"))
    source = checkpoint.save(classifier, folder / "model.pt")
    found = {t: building.build(source, t, folder / t).path for t in ("ort-fp32", "ov-fp32")}
    found["others"] = shutil.copytree(found["ov-fp32"], folder / "others")
    manifest = json.loads((found["others"] / "manifest.json").read_text())
    manifest["names"] = ["a", "b", "d"]
    (found["others"] / "manifest.json").write_text(json.dumps(manifest))
    rng = np.random.default_rng(0)
    for label in "abc":
        (folder / "data" / "val" / label).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(folder / "data" / "val" / label / f"{i}.png"), rng.integers(0, 256, (80, 90, 3), np.uint8))
    return {**found, "data": folder / "data"}


# ---- what it says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "kind", "headline"),
    [
        ({"ratio": RATIO, "points": -0.2}, "ship", "Ship ov-int8: 1.6× faster than ov-fp16, −0.2 points"),
        ({"ratio": RATIO, "points": 0.01}, "ship", "Ship ov-int8: 1.6× faster than ov-fp16, no change in accuracy"),
        ({"ratio": RATIO, "points": -3.1}, "keep", "Keep ov-fp16: ov-int8 is 1.6× faster, but −3.1 points"),
        ({"ratio": RATIO, "points": None}, "open", "ov-int8 is 1.6× faster than ov-fp16; what it costs is not known"),
        ({"ratio": {"ratio": 0.99, "low": 0.97, "high": 1.01}, "points": 0.0}, "keep", "nothing here is faster"),
        ({"ratio": {"ratio": 1.2, "low": 1.1, "high": 1.3}, "points": 0.0}, "keep", "nothing here is faster"),
        ({"ratio": None, "points": 0.0}, "open", "No times were measured"),
    ],
)
def test_the_verdict(other: dict[str, Any], kind: str, headline: str) -> None:
    found = verdict([entry("ov-fp16"), entry("ov-int8", **other)], 1.0)
    assert found.kind == kind
    assert headline in found.headline


def test_of_several_the_fastest_that_is_good_enough_is_shipped() -> None:
    quick = entry("quick", ratio={"ratio": 0.4, "low": 0.39, "high": 0.41}, points=-5.0)
    good = entry("good", ratio=RATIO, points=-0.5)
    found = verdict([entry("base"), quick, entry("slower", ratio={**RATIO, "ratio": 0.64}, points=0.0), good], 1.0)
    assert found.headline.startswith("Ship good: 1.6×")
    assert any(s.startswith("quick: answers 2.5× faster than base (between 2.44 and 2.56)") for s in found.sentences)


def test_doubts_are_said() -> None:
    scored = {**entry("x")["accuracy"], "images": 72}
    found = verdict(
        [entry("a", accuracy=scored), entry("b", disturbances=["a hog", "rain"], ratio=RATIO, points=0.0)], 1.0
    )
    assert found.warnings[0] == "the times are not reliable: a hog (and 1 more, see Latency)"
    assert "72 images: differences of a point may be chance" in found.warnings[1]


def test_classes_come_with_the_largest_loss_first() -> None:
    one, two = entry("a"), entry("b")
    two["accuracy"]["per_class"][1]["map50_95"] = 0.1
    rows = bundles.class_rows([one, two])
    assert [row["name"] for row in rows] == ["<b>cat</b>", "dog"]
    assert rows[0]["worst"] == pytest.approx(-0.34)


# ---- the page ---------------------------------------------------------------------------------------------------


def test_the_page_of_two_bundles() -> None:
    found = check_page(page.bundles_page(found_of(*BOTH)))
    for words in (
        "Ship ov-int8: 1.6× faster than ov-fp16, −0.2 points",
        "0.625 (0.600 – 0.650)",
        "<b>cat</b>",  # as text: what comes from outside is escaped
        "Calibrated on 300 images of pets, split train.",
        "mAP 50-95 44.00 in floating point, 43.80 as built: 0.20 points lost, 0.5 may be lost; on 600 images",
        "1.60 times as fast as ov-fp16 (1.54 to 1.67); the machine was not quiet, so this is not reliable.",
        "of the graph before it was quantized; what eight bits change is judged by accuracy",
        "only here dog 0.31",
        "AGPL-3.0",
        "A CPU, 2 cores",
        "stage 6",
    ):
        assert words in found.text, words


@pytest.mark.parametrize(
    "entries",
    [
        (entry("one", None, None, profile=None),),
        (entry("a", None), entry("b", None, points=0.0)),
        (entry("a", value=None), entry("b", 20.0, None, ratio=RATIO)),
        tuple(entry(f"e{i}", 10.0 + i, 0.4 + i / 100, ratio=RATIO if i else None, points=0.1) for i in range(8)),
    ],
    ids=["nothing measured", "no times", "no accuracy", "eight"],
)
def test_pages_with_less_and_with_more(entries: tuple[dict[str, Any], ...]) -> None:
    check_page(page.bundles_page(found_of(*entries, pairs=[])))


def test_contrast_is_enough_in_both_modes() -> None:
    style = (Path(page.__file__).parent / "templates" / "style.css").read_text()
    screen = style.partition("@media print")[0]
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part))
        for part in screen.split("@media (prefers-color-scheme: dark)")
    )
    for colors in (light, dark):
        for text in ("ink", "soft", "link", "good", "bad"):
            for ground in ("paper", "card"):
                assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for shape in ("c0", "c1", "c2", "c3", "c4", "c5"):
            assert contrast(colors[shape], colors["paper"]) >= 3, shape


def test_a_page_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="show fewer with `pictures`"):
        page.write("x" * (page.MOST_BYTES + 1), tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_shows_it_without_scrolling_sideways(width: int, tmp_path: Path) -> None:
    wanted = os.environ.get("EDGEKIT_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if wanted is None:
        pytest.skip(f"needs a Chromium: none of {', '.join(BROWSERS)} is installed, nor is EDGEKIT_BROWSER set")
    # In a frame of the wanted width, because Chromium makes no window narrower than 500 pixels.
    shown, asked = html.escape(page.bundles_page(found_of(*BOTH))), f"width={width} height=2000 style='border: 0'"
    probe = (
        "onload = () => { const d = frames[0].document.documentElement;"
        "document.title = d.scrollWidth + ' of ' + frames[0].innerWidth; }"
    )
    text = f"<body style='margin: 0'><script>{probe}</script><iframe {asked} srcdoc=\"{shown}\"></iframe>"
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2000", "--hide-scrollbars"]
    words = [wanted, *options, "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert title, done.stderr[-500:]
    assert int(title[2]) == width
    assert int(title[1]) <= width, "wider than the window"
    shot = tmp_path / "page.png"
    words = [wanted, *options, f"--screenshot={shot}", (tmp_path / "page.html").as_uri()]
    subprocess.run(words, check=True, timeout=120, capture_output=True)
    picture = cv2.imread(str(shot))
    assert picture is not None and picture[:, :width].std() > 5
    assert not np.ptp(picture[:, width:]), "something outside of the frame"


# ---- drawings ---------------------------------------------------------------------------------------------------


def test_the_pareto_front_joins_what_nothing_beats() -> None:
    points = [
        charts.Point(*p) for p in (("a", 10.0, 40.0), ("b", 20.0, 44.0), ("beaten", 25.0, 43.0), ("c", 30.0, 45.0))
    ]
    assert [p.name for p in charts.unbeaten(points)] == ["a", "b", "c"]
    drawn = charts.pareto([*points, charts.Point("<x>", 5.0, 39.0)], "ms", "mAP")
    assert drawn.count("<circle") == 5
    assert "&lt;x&gt;" in drawn and "<x>" not in drawn


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 47.3), (43.9, 44.1), (-3, 5), (2, 2), (0, 1e-4), (0, 12345)])
def test_ticks_are_round_and_span_the_values(low: float, high: float) -> None:
    ticks = charts.ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 9
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])


# ---- pictures ---------------------------------------------------------------------------------------------------


def result(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Result:
    return Result(
        (100, 200), ("dog", "cat"), np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
        np.array(labels, np.int64),
    )  # fmt: skip


def predictor(found: Result) -> Any:
    return SimpleNamespace(predict=lambda images, conf: [found])


def test_a_difference_is_more_than_a_threshold_that_was_missed() -> None:
    a = result([[10, 10, 50, 50], [60, 10, 90, 50], [100, 10, 150, 60]], [0.9, 0.3, 0.8], [0, 1, 0])
    b = result([[11, 10, 50, 50], [60, 10, 90, 50], [100, 10, 150, 60]], [0.9, 0.2, 0.7], [0, 1, 1])
    image = np.full((100, 200, 3), 128, np.uint8)
    (pair,), differ, looked = pictures.differences(predictor(a), predictor(b), [image])
    assert (pair.lost, pair.new) == (["dog 0.80"], ["cat 0.70"])  # the cat at 0.3 and 0.2 is one and the same
    assert (differ, looked) == (1, 1)
    raw = base64.b64decode(pair.before.partition(",")[2])
    drawn = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None and drawn.shape == (100, 200, 3)
    assert pictures.differences(predictor(a), predictor(a), [image]) == ([], 0, 1)


def test_classifications_differ_by_their_first_class() -> None:
    a, b = (Result((9, 9), ("dog", "cat"), probs=np.array(p, np.float32)) for p in ([0.9, 0.1], [0.4, 0.6]))
    (pair,), _, _ = pictures.differences(predictor(a), predictor(b), [np.zeros((90, 90, 3), np.uint8)])
    assert (pair.lost, pair.new) == (["dog 0.90"], ["cat 0.60"])


# ---- the command ------------------------------------------------------------------------------------------------


def test_two_bundles_from_the_command_line(made: dict[str, Path], edgekit: Any, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    words = (made["ort-fp32"], made["ov-fp32"], "--data", made["data"], "--budget", 1, "--out", out)
    code, document, err = edgekit(*words, "--json")
    assert code == 0, err
    found = check_page(out.read_text(encoding="utf-8"))
    assert document["verdict"] in found.text
    assert "top-1 on 6 images of data, val" in found.text
    assert "differ on 0 of 6 images" in found.text  # one function in two runtimes
    assert "stage 6 (area attention, P4)" in found.text
    code, _, err = edgekit(*words)
    assert (code, "already exists" in err) == (2, True)


def test_figures_from_files(made: dict[str, Path], edgekit: Any, tmp_path: Path) -> None:
    times = {"min": 9.0, "p50": 10.0, "p90": 11.0, "p99": 12.0, "max": 13.0, "n": 50}
    stages = dict.fromkeys(("pre_ms", "network_ms", "post_ms", "whole_ms"), times)
    base, other = made["ort-fp32"], made["ov-fp32"]
    machine = {"cpu": {"model": "Another CPU", "usable": 4}}
    same = {"schema": 1, "precision_executed": "f32", "reliable": False, "disturbances": ["a hog"], "machine": machine,
            "baseline": str(base), **stages}  # fmt: skip
    records = [
        {**same, "artifact": str(base), "ratio": None},
        {**same, "artifact": str(other), "ratio": {"whole_ms": RATIO}},
    ]
    (tmp_path / "bench.json").write_text(json.dumps(records))
    for place, value in ((base, 0.5), (other, 0.49)):
        metrics = {
            "top1": value,
            "top5": 1.0,
            "per_class": [{"class": "a", "images": 2, "instances": 2, "top1": value}],
        }
        document = {"model": str(place), "metrics": metrics, "images": 6, "protocol": "crop"}
        (tmp_path / f"{place.name}.json").write_text(json.dumps(document))
    words = (
        "--results",
        tmp_path / "bench.json",
        "--val",
        tmp_path / "ort-fp32.json",
        "--val",
        tmp_path / "ov-fp32.json",
    )
    code, document, err = edgekit(base, other, *words, "--budget", 0, "--out", tmp_path / "r.html", "--json")
    assert code == 0, err
    assert document["verdict"] == "Ship ov-fp32: 1.6× faster than ort-fp32, −1.0 points"
    text = check_page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "the times are not reliable: a hog" in text
    assert "Another CPU" in text


def test_bad_input(made: dict[str, Path], edgekit: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.csv").write_text("epoch,lr\n1,0.01\n")
    (tmp_path / "old.json").write_text(json.dumps([{"schema": 7, "artifact": "x"}]))
    (tmp_path / "val.json").write_text("[]")
    base, other = made["ort-fp32"], made["ov-fp32"]
    quick = ("--budget", 0, "--out", tmp_path / "r.html")
    for words, message in (
        ((base, base), "is given twice"),
        ((base, made["others"]), "only models with the same classes compare"),
        ((base, run), "is a training run"),
        ((tmp_path,), "not a bundle"),
        ((base, "--results", tmp_path / "old.json"), "has schema 7"),
        ((base, other, "--val", tmp_path / "val.json"), "not results of edgekit val --json"),
        ((base, "--data", tmp_path / "none"), "none"),
    ):
        code, _, err = edgekit(*words, *quick)
        assert (code, message in err) == (2, True), (words, err)
    code, _, err = edgekit(base, "--out", tmp_path / "no" / "r.html")
    assert (code, "there is no folder" in err) == (2, True)
    assert not (tmp_path / "r.html").exists()


def test_bundles_of_two_tasks_do_not_compare(tmp_path: Path) -> None:
    made = [tiny_bundle(tmp_path / task, task, "ort-fp32") for task in ("detect", "pose")]
    with pytest.raises(UsageError, match="detect is for detect, .*pose for pose"):
        bundles.compare(made, Request())


@pytest.mark.parametrize("about", [{"task": "classify", "names": {0: "a", 1: "b", 2: "c"}, "license": "MIT"}, {}])
def test_a_model_of_another_tool_beside_a_bundle(
    about: dict[str, Any], made: dict[str, Path], edgekit: Any, tmp_path: Path
) -> None:
    """The bundle's own graph without what edgekit wrote into it, with another tool's words or none."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(made["ort-fp32"] / "model.onnx")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: str(value) for key, value in about.items()})
    onnx.save(model, tmp_path / "theirs.onnx")
    words = (made["ort-fp32"], tmp_path / "theirs.onnx", "--data", made["data"], "--budget", 0.5 if about else 0)
    code, _, err = edgekit(*words, "--out", tmp_path / "report.html", "--json")
    assert code == 0, err
    text = check_page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "onnxruntime: no bundle, so no build proved anything of it" in text
    assert "top-1 on 6 images" in text and "differ on 0 of 6 images" in text and ("MIT" in text) == bool(about)
