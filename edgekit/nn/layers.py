"""The parser of layer names: what part of a YOLO12 a module, a tensor or a graph's node belongs to. No torch.

    layer = parse("model.21.cv3.1.2/Conv")       # or model.21.cv3.1.2, or model.21.cv3.1.2.weight
    layer.stage, layer.branch, layer.stride      # 21, 'class', 16
    layer.words                                  # 'stage 21 (head), class branch at stride 16, convolution 3'

Modules and tensors are named as PyTorch does, ``model.<stage>.<path inside it>``. A node is named after its module,
with a slash before its operator. PyTorch's own exporters write ``/model.6/m.0/m.0.0/attn/MatMul`` and
``__module.model.6.m.0.0.attn/aten::matmul/MatMul``, which are read too.

| inside a stage | is |
|---|---|
| ``m.R.B.attn``, ``m.R.B.mlp`` | attention and MLP of block B of repeat R |
| ``….attn.core`` | attention's products and Softmax |
| ``cv2.L``, ``cv3.L``, ``cv4.L`` | the head's box, class and task branch at level L (0: stride 8), ``….2`` its last |
| ``proto`` | prototypes of masks |
| ``dfl``, or nothing, in the head | the decode tail: what makes answers of the branches' values |
| ``conv``, ``linear`` of the head | the classifier's convolution and its linear layer |
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

HEADS = (21, 9)  # stage of the head: behind a neck, and of classifiers
STEM = (0, 1)  # the convolutions before the first block
BOX, CLASS, TASK = "box", "class", "task"
CORE, MLP, PROTOTYPES, CLASSIFIER = "core", "mlp", "prototypes", "classifier"
CONVOLUTION, ATTENTION, C3K2, C3K = "convolution", "area attention", "C3k2", "C3k"

# Of each stage before the head: what it is, and the pyramid level of its output (that of P3 has stride 8).
_TRUNK = (
    (CONVOLUTION, 1), (CONVOLUTION, 2), (C3K2, 2), (CONVOLUTION, 3), (C3K2, 3), (CONVOLUTION, 4), (ATTENTION, 4),
    (CONVOLUTION, 5), (ATTENTION, 5),
)  # fmt: skip
_NECK = (
    ("upsampling", 4), ("concatenation", 4), (C3K, 4), ("upsampling", 3), ("concatenation", 3), (C3K, 3),
    (CONVOLUTION, 4), ("concatenation", 4), (C3K, 4), (CONVOLUTION, 5), ("concatenation", 5), (C3K2, 5),
)  # fmt: skip
_STAGES = _TRUNK + _NECK

_NAME = re.compile(r"(?<![A-Za-z0-9])(?P<slashes>/)?model[./](?P<stage>\d+)(?P<rest>[./][^,]*)?(?![^,])")
_BRANCHES = {"cv2": BOX, "cv3": CLASS, "cv4": TASK}
_HEAD_PARTS = {"proto": PROTOTYPES, "conv": CLASSIFIER, "linear": CLASSIFIER}
_WORDS = {
    "attn": "attention",
    "mlp": "MLP",
    "qkv": "query-key-value convolution",
    "qk": "query-key convolution",
    "v": "value convolution",
    "core": "",
    "pe": "positional convolution",
    "proj": "projection",
    "proto": "mask prototypes",
    "dfl": "box distribution",
}


@dataclass(frozen=True)
class Layer:
    """The place of one name.

    Attributes:
        stage: number of the layer that it is, or is in.
        modules: names of the modules inside the stage that lead to it; of a tensor, the tensor's own at the end.
        head: the stage is the head.
    """

    stage: int
    modules: tuple[str, ...]
    head: bool

    @property
    def kind(self) -> str | None:
        """What its stage is: ``head``, or of those before it as the published table has it; None beyond the table."""
        return "head" if self.head else _STAGES[self.stage][0] if self.stage < len(_STAGES) else None

    @property
    def neck(self) -> bool:
        """Whether its stage is between backbone and head."""
        return not self.head and len(_TRUNK) <= self.stage < len(_STAGES)

    @property
    def branch(self) -> str | None:
        """The head's branch it is in: ``box``, ``class`` or ``task`` (coefficients, keypoints, angle)."""
        return _BRANCHES.get(self._first) if self.head else None

    @property
    def stride(self) -> int | None:
        """Pixels between the cells its branch works on."""
        return 8 << int(self.modules[1]) if self.branch and self.modules[1:2] and self.modules[1].isdigit() else None

    @property
    def last(self) -> bool:
        """Whether it is the convolution at the end of its branch."""
        return self.branch is not None and self.modules[2:3] == ("2",)

    @property
    def attention(self) -> bool:
        """Whether it is in an attention, its convolutions included."""
        return "attn" in self.modules

    @property
    def part(self) -> str | None:
        """Of an attention ``qkv`` (also of two convolutions), ``pe``, ``proj`` or ``core``, its products and Softmax;
        ``mlp``; of the head, what is no branch: ``prototypes`` or ``classifier``. None of all else."""
        if self.attention:
            inside = self.modules[self.modules.index("attn") + 1 :]
            return inside[0] if inside and inside[0] in ("pe", "proj", CORE) else "qkv"
        return MLP if "mlp" in self.modules else _HEAD_PARTS.get(self._first) if self.head else None

    @property
    def tail(self) -> bool:
        """Whether it is in the decode tail: of the head, and neither in a branch nor another part."""
        return self.head and not (self.branch or self.part)

    @property
    def row_per_class(self) -> bool:
        """Whether its tensors have a row for every class."""
        return (self.branch == CLASS and self.last) or self._first == "linear"

    @property
    def words(self) -> str:
        """Where it is, for a person: ``stage 6, block 2, attention, projection``."""
        said, rest = [f"stage {self.stage}"], list(self.modules)
        if self.stride:
            said = [f"{said[0]} (head)", f"{self.branch} branch at stride {self.stride}"]
            rest = rest[2:]
        elif rest[:1] == ["m"]:
            numbers = [int(part) for part in takewhile(str.isdigit, rest[1:3])]
            if numbers:  # a repeat of attention holds two blocks; elsewhere a repeat is one
                said.append(f"block {numbers[0] + 1 if numbers[1:] == [] else 2 * numbers[0] + numbers[1] + 1}")
            rest = rest[1 + len(numbers) :]
        for before, part in zip(["", *rest], rest, strict=False):
            if part.isdigit():
                said.append(f"{'inner block' if before == 'm' else 'convolution'} {int(part) + 1}")
            elif re.fullmatch(r"cv\d", part):
                said.append(f"convolution {part[2:]}")
            elif part != "m":
                said.append(_WORDS.get(part, part))
        return ", ".join(s for s in said if s)

    @property
    def _first(self) -> str:
        return self.modules[0] if self.modules else ""


def parse(name: str, head: int = HEADS[0]) -> Layer | None:
    """The place of a module, a tensor or a node, None where the name is none of a network's. Of names with commas
    between them, as a kernel of several nodes has, that of the first.

    Args:
        head: stage of the network's head (``head_of``).
    """
    found = _NAME.search(name)
    if found is None:
        return None
    scopes = (found["rest"] or "").split("/")
    path = [scopes[0].strip(".")]
    for scope in scopes[1:-1] if found["slashes"] else ():  # a module each; a container's children begin with its name
        path[-1:] = [scope] if scope.startswith(path[-1] + ".") else [path[-1], scope]
    modules = tuple(part for part in ".".join(path).split(".") if part)
    stage = int(found["stage"])
    return Layer(stage, modules, stage == head)


def head_of(names: Iterable[str]) -> int:
    """The stage of the head of the network that the names are of: the last one there is."""
    return max((layer.stage for layer in map(parse, names) if layer), default=HEADS[0])


def tail(names: Iterable[str]) -> set[str]:
    """Those of a network's ``names`` that are in its decode tail."""
    names = list(names)
    head = head_of(names)
    return {name for name in names if (layer := parse(name, head)) and layer.tail}


def words(name: str) -> str:
    """``parse(name).words``, or the name itself where it is none of a network's."""
    layer = parse(name)
    return layer.words if layer else name


def stage_words(stage: int, head: int) -> str:
    """What a stage is, for a person: ``area attention, P4``, or ``head``."""
    return "head" if stage == head else "{}, P{}".format(*_STAGES[stage])


def is_yolo12(attention: Iterable[int], head: int) -> bool:
    """Whether a network with attention in these stages and such a last stage is laid out as YOLO12s are."""
    return head in HEADS and set(attention) == {n for n, (kind, _) in enumerate(_STAGES) if kind == ATTENTION}
