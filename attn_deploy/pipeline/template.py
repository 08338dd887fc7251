"""``attn-deploy deploy --init``: a pipeline's file for a model."""

from __future__ import annotations

import json


def template(model: str) -> str:
    """The text of a file that runs as it is, with what else can be said in comments."""
    is_file = model.lower().endswith(".onnx")
    export = "" if is_file else _EXPORT
    return f"""# attn-deploy deploy FILE runs this; --plan shows the steps first.
# Every option of a step's command is a key of its table.
model = {json.dumps(model)}
output = "deployed"
{export}
# 8 bits, calibrated on images:
# [quantize]
# calibration = "images/"

# An engine for each device:
# [[build]]
# device = "rtx4090"

[profile]
runtime = "ort-cpu"

# Accuracy on a data set that the model was trained for:
# [evaluate]
# dataset = "folder"
# data_dir = "images/"

# Nothing is packaged unless these hold.
[gates]
max_size_mb = 1000
# max_latency_ms = 5
# min_top1 = 0.9
# no_regression = "baseline/"

[package]
for = ["python"]
# device = ["rtx4090"]  # engines that lie in the package; those of [[build]] stay in engines/
"""


_EXPORT = """
[export]
# preprocess = "imagenet,uint8,nhwc"
# postprocess = "softmax,topk=5"
"""
