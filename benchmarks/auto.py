"""Does `edgekit build --target auto` choose what an exhaustive measurement by hand chooses?

    python benchmarks/auto.py prepare CHECKPOINT.pt data.yaml --imgsz 320 --folder prepared --tight 0.1
    python benchmarks/auto.py latency prepared --out benchmarks/results/auto.json          # then throughput, then tight
    python benchmarks/auto.py throughput prepared --out benchmarks/results/auto.json
    python benchmarks/auto.py tight prepared --out benchmarks/results/auto.json

`prepare` builds every bundle this machine can run (OpenVINO's also with a batch of four, as `auto` tries them, and with
one of eight, which it does not) and scores each on the labelled set, INT8 anew where the tight limit asks for another.
It may run on a busy machine, and resumes. A case then lets `auto` choose, with its own short races and its own pruning,
and measures by hand: everybody in turns, nobody dropped, for longer; the fastest within the limit wins. They agree if
they name the same candidate, or if the hand's clock cannot tell `auto`'s choice from its own (its interval of the ratio
of the two holds 1).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.autotune import Candidate, Objective
from edgekit.autotune.candidates import candidates, order
from edgekit.autotune.select import Judged, Time, choose
from edgekit.autotune.tuner import Job, Tuner
from edgekit.bench import machine
from edgekit.bundle.options import BuildOptions
from edgekit.quantize import QuantizeOptions

CASES = {"latency": "latency", "throughput": "throughput", "tight": "latency"}
LIMIT = 0.5
MANY = 8  # images a run that only the hand tries
STATE = "prepared.json"


class _Kept(Tuner):
    """A contest that goes on from what earlier ones built."""

    def adopt(self, entries: list[Candidate], trials: dict[str, Path], bundles: dict[str, Path]) -> None:
        """Take bundles (name -> folder); ``build`` need not be called, or for others only."""
        self._entries |= {entry.name: entry for entry in entries}
        self.trials, self.bundles = dict(trials), dict(bundles)
        self._reference = "ort-fp32" if "ort-fp32" in self.bundles else None


def main() -> None:
    options = _options()
    if options.case == "prepare":
        prepare(options)
        return
    state = json.loads((options.folder / STATE).read_text())
    row = measure(options.case, state, options.folder, options.seconds)
    known = json.loads(options.out.read_text()) if options.out.is_file() else {"rows": []}
    rows = [r for r in known["rows"] if r["case"] != options.case] + [row]
    document = {
        "schema": 1,
        "kind": "auto",
        "checkpoint": state["checkpoint"],
        "data": state["data"],
        "imgsz": state["imgsz"],
        "float": state["float"],
        "rows": rows,
        "machine": machine.describe(),
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: row[k] for k in ("case", "auto", "hand", "agree", "reliable")}))
    sys.exit(0 if row["agree"] else 1)


def prepare(options: argparse.Namespace) -> None:
    """Every bundle, built and judged; a second INT8 where the tight limit asks for one. Resumes where it stopped."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    entries, left_out = candidates(Objective("latency"), data=True)
    entries += _batched(entries, (*targets.get("ov-fp16").batches, MANY))
    state: dict[str, Any] = {
        "checkpoint": options.checkpoint.name,
        "data": options.data.parent.name,
        "path": str(options.data.resolve()),
        "imgsz": options.imgsz,
        "limits": {"latency": LIMIT, "throughput": LIMIT, "tight": options.tight},
        "left_out": left_out,
        "bundles": {},
    }
    if (folder / STATE).is_file():
        state = json.loads((folder / STATE).read_text())
    for limit in dict.fromkeys((LIMIT, options.tight)):
        chosen = entries if limit == LIMIT else [e for e in entries if _loses_more(e, limit, state)]
        waiting = [e for e in chosen if f"{e.bundle} {limit:g}" not in state["bundles"]]
        for entry in waiting:
            _prepare(entry, limit, state, options)
            (folder / STATE).write_text(json.dumps(state, indent=1) + "\n")


def _batched(entries: list[Candidate], batches: tuple[int, ...]) -> list[Candidate]:
    """OpenVINO's candidates of one image a run, with more."""
    single = [entry for entry in entries if entry.target.startswith("ov-") and entry.batch == 1]
    return [dataclasses.replace(entry, batch=batch) for batch in batches for entry in single]


def _loses_more(entry: Candidate, limit: float, state: dict[str, Any]) -> bool:
    """Whether an INT8 bundle made for the ordinary limit must be made anew for ``limit``."""
    drop = state["bundles"][f"{entry.bundle} {LIMIT:g}"]["drop_points"]
    return targets.get(entry.target).int8 and entry.batch == 1 and (drop is None or drop > limit)


def _prepare(entry: Candidate, limit: float, state: dict[str, Any], options: argparse.Namespace) -> None:
    """One bundle into the state; the float model is the first, ort-fp32."""
    folder: Path = options.folder
    own = folder / f"{limit:g}-{entry.bundle.replace(', ', '-').replace(' ', '')}"  # OpenVINO splits paths at commas
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    size = (options.imgsz, options.imgsz)
    wishes = QuantizeOptions(data=options.data, calibration=options.calibration, max_drop=limit)
    with _Kept(Job(options.checkpoint, BuildOptions(size, quantize=wishes)), own, Objective(), _say) as contest:
        known = state["bundles"].get(f"ort-fp32 {LIMIT:g}")
        if known:
            first = {"ort-fp32": folder / known["full"]}
            contest.adopt([Candidate("ort-fp32")], first, first)
        refused = contest.build([entry])
        judged = Judged(None, None, refused[entry.bundle]) if refused else contest.judge(entry)
        _say(f"{entry.bundle}, limit {limit:g}: {judged}")
        state["bundles"][f"{entry.bundle} {limit:g}"] = {
            **dataclasses.asdict(judged),
            "trial": _inside(contest.trials.get(entry.bundle), folder),
            "full": _inside(contest.bundles.get(entry.bundle), folder),
        }
        state.setdefault("float", contest.accuracy())


def measure(case: str, state: dict[str, Any], folder: Path, seconds: float) -> dict[str, Any]:
    """One case: ``auto``'s choice, the hand's, and everybody's figures by hand."""
    wish, limit = Objective(CASES[case]), state["limits"][case]
    entries = [e for e in candidates(wish, data=True)[0] if _known(e, state, limit)["trial"]]
    outcome, judged = _auto(entries, wish, limit, state, folder)
    by_hand = [*entries, *(_batched(entries, (MANY,)) if case == "throughput" else ())]
    by_hand = [e for e in by_hand if _known(e, state, limit)["full"]]
    with _Kept(Job(Path(), BuildOptions(quantize=_wishes(state))), folder, wish, _say, seconds) as contest:
        full = {e.bundle: folder / _known(e, state, limit)["full"] for e in by_hand}
        contest.adopt(by_hand, full, full)
        baseline = outcome.winner or by_hand[0].name
        times = contest.clock([e.name for e in by_hand], baseline, True)
        race = contest.last
    assert race is not None
    fits = [e for e in by_hand if _known(e, state, limit)["drop_points"] <= limit]
    hand = min(fits, key=lambda e: times[e.name].ratio).name if fits else None
    agree = hand == outcome.winner or (hand is not None and times[hand].ratio_high >= 1.0)
    return {
        "case": case,
        "limit_points": limit,
        "auto": outcome.winner,
        "hand": hand,
        "hand_to_auto": _interval(times[hand]) if hand else None,
        "agree": agree,
        "auto_judged": judged,
        "auto_verdicts": {name: row.verdict for name, row in outcome.rows.items()},
        "by_hand": [
            {
                "candidate": e.name,
                "ms_per_image": times[e.name].ms,
                "ratio_to_auto": _interval(times[e.name]),
                "drop_points": _known(e, state, limit)["drop_points"],
                "fits": e in fits,
            }
            for e in by_hand
        ],
        "rounds": race.rounds,
        "reliable": race.reliable,
        "disturbances": race.disturbances,
    }


def _auto(
    entries: list[Candidate], wish: Objective, limit: float, state: dict[str, Any], folder: Path
) -> tuple[Any, list[str]]:
    """``auto``'s own choice: its clock and its pruning, on what was built and judged before."""
    asked: list[str] = []
    with _Kept(Job(Path(), BuildOptions(quantize=_wishes(state))), folder, wish, _say) as contest:
        trials = {e.bundle: folder / _known(e, state, limit)["trial"] for e in entries}
        contest.adopt(entries, trials, {})

        def judge(entry: Candidate) -> Judged:
            asked.append(entry.bundle)
            known = _known(entry, state, limit)
            if known["full"]:
                contest.bundles[entry.bundle] = folder / known["full"]
            return Judged(known["accuracy"], known["drop_points"], known["refused"])

        return choose(entries, contest.clock, judge, limit, order(), _say), asked


def _known(entry: Candidate, state: dict[str, Any], limit: float) -> dict[str, Any]:
    bundles = state["bundles"]
    empty = {"trial": None, "full": None, "drop_points": None}
    found: dict[str, Any] = bundles.get(f"{entry.bundle} {limit:g}") or bundles.get(f"{entry.bundle} {LIMIT:g}", empty)
    return found


def _wishes(state: dict[str, Any]) -> QuantizeOptions:
    return QuantizeOptions(data=Path(state["path"]))


def _interval(time: Time) -> dict[str, float]:
    return {"ratio": time.ratio, "low": time.ratio_low, "high": time.ratio_high}


def _inside(path: Path | None, folder: Path) -> str | None:
    return None if path is None else path.relative_to(folder).as_posix()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True)
    first = cases.add_parser("prepare")
    first.add_argument("checkpoint", type=Path)
    first.add_argument("data", type=Path)
    first.add_argument("--imgsz", type=int, default=640)
    first.add_argument("--calibration", type=Path)
    first.add_argument("--tight", type=float, default=0.1, help="points allowed in the third case")
    first.add_argument("--folder", type=Path, required=True)
    for case in CASES:
        each = cases.add_parser(case)
        each.add_argument("folder", type=Path)
        each.add_argument("--seconds", type=float, default=1.0, help="scale of the hand's clock: 6 s a candidate at 1")
        each.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
