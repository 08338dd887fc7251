"""What `attn_deploy.exporters.answers` describes, in torch operators that both exporters and TensorRT take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attn_deploy.exporters.answers import Answers


def class_answers(scores: Tensor, answers: Answers) -> tuple[Tensor, ...]:
    """The answers for the scores of classes along axis 1; behind them, for a choice, the scores that it was made by."""
    if answers.scaled == "softmax":
        scores = scores.softmax(1)
    elif answers.scaled == "sigmoid":
        scores = scores.sigmoid()
    if answers.choice == "argmax":
        return scores.argmax(1), scores
    if answers.choice == "topk":
        values, indices = scores.topk(answers.k, 1)
        return values, indices, scores
    return (scores,)


def box_answers(outputs: Sequence[Tensor], answers: Answers) -> tuple[Tensor, ...]:
    """Boxes (N, K, 4) as left, top, right, bottom, scores (N, K), class ids (N, K) and their count (N).

    Greedy suppression within each class among the K best candidates, the best first; after the last one that is kept
    the rows are zeros, with the class -1. Exact without a loop: whether row i stays depends on the rows before it alone,
    so that after i rounds of "stays unless one that stays overlaps it" it is settled.
    """
    boxes, scores = _corners(outputs)
    best, labels = scores.amax(2), scores.argmax(2)
    top, order = best.topk(answers.most, 1)
    chosen = torch.gather(boxes, 1, order.unsqueeze(2).expand(-1, -1, 4))
    kinds = torch.gather(labels, 1, order)
    alive = (top > answers.score).to(boxes.dtype)
    clash = (_overlap(chosen) > answers.iou) & (kinds.unsqueeze(2) == kinds.unsqueeze(1))
    earlier = torch.tril(torch.ones(answers.most, answers.most, dtype=boxes.dtype, device=boxes.device), -1)
    clash = clash.to(boxes.dtype) * earlier
    stays = alive
    for _ in range(answers.most - 1):
        stays = alive * (1 - torch.matmul(clash, stays.unsqueeze(2)).squeeze(2).clamp(max=1))
    place = torch.arange(answers.most, device=boxes.device)
    rank = stays * 2 * answers.most - place.to(boxes.dtype)  # those that stay first, in their order
    _, final = rank.topk(answers.most, 1)
    valid = torch.gather(stays, 1, final)
    boxes = torch.gather(chosen, 1, final.unsqueeze(2).expand(-1, -1, 4)) * valid.unsqueeze(2)
    ids = torch.where(valid > 0, torch.gather(kinds, 1, final), -1)
    return boxes, torch.gather(top, 1, final) * valid, ids, valid.sum(1).to(torch.int64)


def _corners(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes by their corners (N, B, 4) and scores (N, B, C) of two outputs, or of one as the YOLOs give it."""
    if len(outputs) == 2:
        return outputs[0], outputs[1]
    rows = outputs[0].transpose(1, 2)
    middle, half = rows[:, :, :2], rows[:, :, 2:4] * 0.5
    return torch.cat((middle - half, middle + half), 2), rows[:, :, 4:]


def _overlap(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs: (N, K, 4) -> (N, K, K)."""
    one, two = boxes.unsqueeze(2), boxes.unsqueeze(1)
    low = torch.maximum(one[..., :2], two[..., :2])
    high = torch.minimum(one[..., 2:], two[..., 2:])
    side = (high - low).clamp(min=0)
    shared = side[..., 0] * side[..., 1]
    own = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    area = own[..., 0] * own[..., 1]
    return shared / (area.unsqueeze(2) + area.unsqueeze(1) - shared).clamp(min=1e-9)
