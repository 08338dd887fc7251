"""``--postprocess``: what an exported graph makes of the model's outputs, and the grammar that says so."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.errors import InvalidRequestError

_PLAIN = ("softmax", "sigmoid", "argmax")
_WORDS = (*_PLAIN, "topk=K", "nms:iou=0.5,score=0.25,max=100")
_NMS = {"iou": 0.5, "score": 0.25, "max": 100}
MOST_BOXES = 300  # that suppression compares with each other; each costs the graph three nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What is made of the outputs.

    Attributes:
        scaled: softmax or sigmoid over the classes first; empty for neither.
        choice: argmax, topk or nms; empty for none.
        k: how many classes topk gives.
        iou: boxes of one class that overlap more than this are one.
        score: boxes below it are left out.
        most: how many boxes nms looks at, the best first, and gives.
    """

    scaled: str = ""
    choice: str = ""
    k: int = 0
    iou: float = 0.0
    score: float = 0.0
    most: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        names = {"argmax": ("class_id",), "topk": ("scores", "class_ids")}
        names["nms"] = ("boxes", "scores", "class_ids", "count")
        return names.get(self.choice, ("probabilities",))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @staticmethod
    def from_record(data: Mapping[str, Any]) -> Answers:
        """What a record holds, as it was."""
        return Answers(**data)

    def __str__(self) -> str:
        words = [self.scaled] if self.scaled else []
        if self.choice == "topk":
            words.append(f"topk={self.k}")
        elif self.choice == "nms":
            words.append(f"nms:iou={self.iou:g},score={self.score:g},max={self.most}")
        elif self.choice:
            words.append(self.choice)
        return ",".join(words)

    def check_outputs(self, shapes: Sequence[tuple[int, ...]], owner: str) -> None:
        """Refuse outputs that these answers cannot be made of.

        Args:
            shapes: of the model's outputs.
            owner: the model's name in messages.

        Raises:
            InvalidRequestError: saying what is needed and what there is.
        """
        present = ", ".join("x".join(map(str, s)) for s in shapes)
        if self.choice == "nms":
            joined = len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][1] > 4
            apart = len(shapes) == 2 and all(len(s) == 3 for s in shapes) and shapes[0][2] == 4
            if not joined and not (apart and shapes[0][1] == shapes[1][1]):
                raise InvalidRequestError(
                    f"{owner}: --postprocess nms needs boxes N x B x 4 (left, top, right, bottom) and scores N x B x C, or "
                    f"one output N x (4 + C) x B as the YOLOs give; the outputs are {present}."
                )
            boxes = shapes[0][2] if joined else shapes[0][1]
            if boxes < self.most:
                raise InvalidRequestError(
                    f"{owner}: --postprocess {self} looks at {self.most} boxes, and the model gives {boxes}: use max={boxes}, "
                    "or a larger input."
                )
            return
        if len(shapes) != 1 or len(shapes[0]) < 2 or shapes[0][1] < 2:
            raise InvalidRequestError(
                f"{owner}: --postprocess {self} needs one output of N x classes (or N x classes x H x W); "
                f"{'the outputs are' if len(shapes) > 1 else 'the output is'} {present}."
            )
        if self.choice == "topk" and self.k > shapes[0][1]:
            raise InvalidRequestError(
                f"{owner}: --postprocess topk={self.k}: the output has {shapes[0][1]} classes; ask for at most so many."
            )


def parse_postprocess(text: str) -> Answers:
    """``softmax,topk=5``, ``argmax`` or ``nms:iou=0.5,score=0.25`` as what it says.

    Raises:
        InvalidRequestError: if a word is unknown, or two contradict each other.
    """
    head, colon, tail = text.strip().lower().partition(":")
    if head == "nms":
        return _suppression(text, tail if colon else "")
    scaled = choice = ""
    k = 0
    for word in (w.strip() for w in text.lower().split(",")):
        key, equals, value = word.partition("=")
        if word in ("softmax", "sigmoid") and not scaled and not choice:
            scaled = word
        elif word == "argmax" and not choice:
            choice = word
        elif key == "topk" and equals and value.isdigit() and int(value) > 0 and not choice:
            choice, k = "topk", int(value)
        else:
            raise _unusable(text, word)
    return Answers(scaled=scaled, choice=choice, k=k)


def _suppression(text: str, settings: str) -> Answers:
    values: dict[str, float] = dict(_NMS)
    for word in (w.strip() for w in settings.split(",") if w.strip()):
        key, _, value = word.partition("=")
        if key not in _NMS:
            raise InvalidRequestError(
                f"--postprocess {text!r}: nms takes {', '.join(_NMS)}, and {key!r} is none of them."
            )
        try:
            values[key] = float(value)
        except ValueError as error:
            raise InvalidRequestError(f"--postprocess {text!r}: {word!r} cannot be read; write {key}=0.5.") from error
    if not (0 < values["iou"] <= 1 and 0 <= values["score"] < 1):
        raise InvalidRequestError(f"--postprocess {text!r}: iou is above 0 and at most 1, score from 0 to below 1.")
    if not 1 <= values["max"] <= MOST_BOXES or values["max"] != int(values["max"]):
        raise InvalidRequestError(f"--postprocess {text!r}: max is a whole number from 1 to {MOST_BOXES}.")
    return Answers(choice="nms", iou=values["iou"], score=values["score"], most=int(values["max"]))


def _unusable(text: str, word: str) -> InvalidRequestError:
    key, _, value = word.partition("=")
    if key == "topk" and not (value.isdigit() and int(value) > 0):
        return InvalidRequestError(
            f"--postprocess {text!r}: topk is a whole number of classes from 1 on, as in topk=5."
        )
    if word in _PLAIN or key == "topk":
        return InvalidRequestError(
            f"--postprocess {text!r}: {word!r} cannot stand there; write softmax or sigmoid first, then argmax or topk=5."
        )
    near = difflib.get_close_matches(word, ("softmax", "sigmoid", "argmax", "topk=5", "nms"), n=1)
    hint = f"did you mean {near[0]!r}? The words" if near else "the words"
    return InvalidRequestError(f"--postprocess {text!r}: {word!r} is unknown; {hint} are {', '.join(_WORDS)}.")
