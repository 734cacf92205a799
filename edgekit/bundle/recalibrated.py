"""An INT8 candidate with its scores moved back to what they meant, where that is measurably better.

    recalibration = Recalibration(quantizer, gate, build, say)
    made, after, row = recalibration.improved(skip, made, after)      # the better of the two; the other is closed

Fitted on the images that eight bits were calibrated on, against the float model; judged where the candidate is. The
correction is folded into the float graph, which is quantized again: but for the biases of three convolutions the two
candidates are the same (``quantize/logits.py``, ``verify/recalibration.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import TruncatedWarning
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Graph, Json, Session
from edgekit.targets import reference
from edgekit.verify import accuracy
from edgekit.verify.recalibration import CONF, fitted, pairs, verdict

if TYPE_CHECKING:
    from edgekit.bundle.gates import Artifact, Gate
    from edgekit.quantize.candidates import Quantizer


class Recalibration:
    """Tries it on candidates; the float model is asked once.

    Args:
        build: a candidate and its keys of the manifest -> what is built of it.
        say: called with a line at each step.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        gate: Gate,
        build: Callable[[Graph, Json], Artifact],
        say: Callable[[str], None],
    ) -> None:
        self._quantizer, self._gate, self._build, self._say = quantizer, gate, build, say
        self._truth: Sequence[accuracy.Objects] = ()

    def improved(
        self, skip: Sequence[str], made: Artifact, after: accuracy.Measured
    ) -> tuple[Artifact, accuracy.Measured, Json | None]:
        """The candidate with the groups ``skip`` in floating point, or it with its scores moved; what that one
        measures; and ``recalibration`` for the manifest's ``accuracy``, None where by its labels the metric does not
        hold anyway."""
        gate = self._gate
        if gate.judge.kind == "labels" and gate.before.value - after.value > gate.limits.metric / 100:
            return made, after, None
        if after.objects is None:  # known now at the latest
            return made, after, {"kept": False, "why": "its answers have no scores that a threshold is set on"}
        self._say("fitting a correction of the scores")
        found = pairs(self._floats(), self._seen(made.session))
        names = self._quantizer.graph.info.names
        shifts = fitted(found, len(names))
        row: Json = {"images": len(self._quantizer.files), "objects": len(found.images)}
        if not any(shifts):
            return made, after, {"kept": False, "why": "too few objects are found to fit it to"} | row
        row["logits"] = {name: shift for name, shift in zip(names, shifts, strict=True) if shift}
        self._say("judging it with its scores corrected")
        moved = self._build(*self._quantizer.candidate(skip, shifts))
        scored = gate.judge.measure(moved.session)
        said = verdict(gate.before, after, scored)
        if said["kept"] and gate.compared(scored).excess > max(gate.compared(after).excess, 0):
            said |= {"kept": False, "why": "a limit is exceeded by it"}
        (made if said["kept"] else moved).session.close()
        return (moved, scored, said | row) if said["kept"] else (made, after, said | row)

    def _floats(self) -> Sequence[accuracy.Objects]:
        if not self._truth:
            graph = self._quantizer.graph
            runner = reference().open(graph.path, graph.info)
            self._truth = self._seen(runner)
            runner.close()
        return self._truth

    def _seen(self, session: Session) -> Sequence[accuracy.Objects]:
        """What is found in the images calibrated on."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncatedWarning)  # those cut off are the least certain
            answers = Predictor(session, Options(conf=CONF)).predict(self._quantizer.files)
        return accuracy.objects(answers) or ()
