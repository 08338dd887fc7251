"""The entries of the rules table, as plain data: see `attn_deploy.rules.rules` for what the fields mean."""

from __future__ import annotations

from typing import Any

ENTRIES: tuple[dict[str, Any], ...] = (
    {
        "id": "data-dependent-branch",
        "explanation": "forward takes a Python decision on the values of a tensor, which no exported graph can follow",
        "remedy": "Compute both sides and choose with torch.where, or move the decision out of forward.",
        "patterns": (r"decision on the values of a tensor", r"data-dependent expression", r"GuardOnDataDependent"),
    },
    {
        "id": "branch-on-shape",
        "explanation": "forward takes a Python decision on a size, so a file would follow the traced size for every other",
        "remedy": "Do the arithmetic without the if: padding by (p - H % p) % p is right for every H, and a pad of 0 changes "
        "nothing. Or let only the other axes move, as in --dynamic N.",
        "patterns": (r"decision on a size",),
    },
    {
        "id": "loop-over-batch",
        "explanation": "forward goes over the samples of the batch in Python, so the graph holds as many copies as were traced",
        "remedy": "Treat the whole batch at once (broadcasting, torch.bmm, reductions over the other axes), or fix the batch "
        "and let the other axes move: --dynamic H,W.",
        "patterns": (r"goes over the samples", r"Iterating over a tensor"),
    },
    {
        "id": "number-from-shape",
        "explanation": "forward turns a size into a Python number, and the traced size is frozen into the graph",
        "remedy": "Use only + - * // on x.shape, without int(), float(), math or fractions (H // 2, not int(H * 0.5)), and "
        "give interpolate size= rather than scale_factor=.",
        "patterns": (r"turns a size into a Python number", r"math\.trunc|sym_float|OpaqueUnaryFn"),
    },
    {
        "id": "number-from-tensor",
        "explanation": "forward turns the values of a tensor into Python numbers, which are frozen into the graph",
        "remedy": "Keep them tensors: a 0-dimensional tensor multiplies and divides as a number does; no .item(), .tolist(), "
        "float() or .numpy().",
        "patterns": (r"values of a tensor into Python numbers", r"Can't call numpy\(\)|\.numpy\(\) is not supported"),
    },
    {
        "id": "pool-window-from-shape",
        "explanation": "a pooling window is computed from the size of the map, and a graph's window is a constant",
        "remedy": "Write a global pool as x.mean((2, 3), keepdim=True) or x.amax((2, 3), keepdim=True), and others with "
        "attn_deploy.ops.adaptive_avg_pool2d.",
        "patterns": (r"make things \(e\.g\. kernel sizes\) static",),
    },
    {
        "id": "adaptive-pooling",
        "explanation": "adaptive pooling to more than one bin is exported with the window of the traced size, and gives other "
        "numbers at every other size",
        "remedy": "Leave --rewrite on, which pools with averaging matrices computed in the graph, or call "
        "attn_deploy.ops.adaptive_avg_pool2d or adaptive_max_pool2d yourself.",
        "patterns": (r"operator adaptive", r"adaptive_(avg|max)_pool", r"adaptive pooling"),
    },
    {
        "id": "groups-from-batch",
        "explanation": "a convolution takes its groups from the batch, and a graph's groups are a constant",
        "remedy": "Leave --rewrite on, which multiplies unfolded patches with each sample's own kernel, or fix the batch: "
        "--dynamic H,W.",
        "patterns": (
            r"groups from the batch",
            r"convolution for kernel of unknown shape",
            r"Unsupported attribute type: .*SymbolicTensor",
        ),
    },
    {
        "id": "multi-head-attention",
        "explanation": "nn.MultiheadAttention folds the batch into its heads, and exporters make the traced batch a constant",
        "remedy": "Leave --rewrite on, which keeps the batch as an axis of its own, or write the attention with reshape and "
        "F.scaled_dot_product_attention.",
        "patterns": (r"MultiheadAttention",),
    },
    {
        "id": "fft",
        "explanation": "a Fourier transform needs the DFT operator, which enters ONNX at opset 17, which only the torch.export "
        "exporter writes, and which TensorRT does not have",
        "remedy": "Use --opset 17 or above with --exporter auto. For TensorRT, or an older opset, multiply with the matrix of "
        "the transform, a buffer made in __init__ for a fixed size.",
        "patterns": (r"aten::_?(fft_|stft|istft)\w*", r"\bDFT\b", r"aten\.(_?fft_|stft)"),
    },
    {
        "id": "complex-output",
        "explanation": "an output, an input or what an operator works on is complex, and ONNX has real tensors only; Fourier "
        "transforms and products of complex numbers are written with those",
        "remedy": "Return torch.view_as_real(y), or its absolute value and angle. Inside forward do other steps on "
        "torch.view_as_real(z): hold complex weights as real ones with a last axis of two, shape those, and call "
        "torch.view_as_complex where they are multiplied.",
        "patterns": (r"is complex",),
    },
    {
        "id": "fold",
        "explanation": "fold needs the operator Col2Im, which enters ONNX at opset 18, which the TorchScript exporter does not "
        "write at dynamic sizes, and which TensorRT does not have",
        "remedy": "Leave --rewrite on, which writes it as a transposed convolution with a one-hot kernel, or do that yourself.",
        "patterns": (r"col2im",),
    },
    {
        "id": "overlapping-write",
        "explanation": "a slice is written from another slice of the same tensor; what is read depends on what was written "
        "before, and a graph reads the old values",
        "remedy": "Build the new tensor from pieces with torch.cat or torch.roll, or read from a clone: "
        "y[:, 1:] = y[:, :-1].clone().",
        "patterns": (r"slice of the same tensor",),
    },
    {
        "id": "state-in-forward",
        "explanation": "forward changes the state of the model, so that two runs differ, and a file has no state",
        "remedy": "Return the value or take it as an input, and keep counters out of forward.",
        "patterns": (r"changes the state of the model",),
    },
    {
        "id": "cached-by-size",
        "explanation": "forward keeps a tensor that it made for the size of an earlier run",
        "remedy": "Make it anew from x.shape in each run, or slice it from a buffer of the largest size.",
        "patterns": (r"keeps a tensor that it made",),
    },
    {
        "id": "scripted-part",
        "explanation": "a part of the model is TorchScript, which no exporter traces into",
        "remedy": "Build it without torch.jit.script or torch.jit.trace; with PYTORCH_JIT=0 in the environment, torch.jit.script "
        "returns the Python module.",
        "patterns": (r"is TorchScript, which no exporter",),
    },
    {
        "id": "detector",
        "explanation": "a detector of torchvision takes a list of images, resizes each, and chooses boxes by their values "
        "(thresholds, non-maximum suppression), so that the sizes in it depend on values",
        "remedy": "Export the network without its post-processing, and choose the boxes outside: in Python "
        "export(attn_deploy.resolve.detectors.network_of(model), inputs=parse_inputs(['1x3x320x320'])).",
        "patterns": (r"a detector of torchvision takes",),
    },
    {
        "id": "later-form",
        "explanation": "an operator is used in a form that later opsets define",
        "remedy": "Use the opset that the message names, or a later one.",
        "patterns": (r"is not defined in opset \d+",),
    },
    {
        "id": "endless-arithmetic",
        "explanation": "the sizes in forward depend on the input's through arithmetic that torch.export does not finish",
        "remedy": "Use --exporter torchscript, or fix the sizes, as in --dynamic N.",
        "patterns": (r"took more than \d+ s of processor time and was ended",),
    },
    {
        "id": "random-in-forward",
        "explanation": "forward draws random numbers in eval mode, so there is nothing to verify a file against",
        "remedy": "Use nn.Dropout, or F.dropout with training=self.training, and draw noise outside of the model.",
        "patterns": (r"draws random numbers",),
    },
    {
        "id": "batch-statistics",
        "explanation": "a norm keeps no running statistics and normalises by the batch even in eval mode: a sample's result "
        "would depend on its neighbours",
        "remedy": "Use track_running_stats=True, or nn.GroupNorm.",
        "patterns": (r"keeps no running statistics",),
    },
    {
        "id": "fixed-size",
        "explanation": "a layer is made for one size of the map (a position embedding, a Linear after flatten, a LayerNorm over "
        "H and W)",
        "remedy": "Let only the other axes move, as in --dynamic N, or resize the map or the embedding in forward.",
        "patterns": (r"runs at the given size and not at another",),
    },
    {
        "id": "hard-coded-device",
        "explanation": "forward moves tensors to a device of its own choice",
        "remedy": "Make tensors where the input is: torch.zeros(..., device=x.device), and drop .cuda().",
        "patterns": (
            r"not compiled with CUDA|No CUDA GPUs|NVIDIA driver|Expected all tensors to be on the same device",
        ),
    },
    {
        "id": "not-finite",
        "explanation": "the model itself gives NaN or infinity for ordinary inputs, which hides every error of a file",
        "remedy": "Look for a softmax over a row that is masked with -inf throughout (use -1e4, or keep one position), a "
        "division by a norm that can be 0, and weights that were never set.",
        "patterns": (r"of the reference itself is NaN",),
    },
    {
        "id": "constant-output",
        "explanation": "the model gives the same outputs for every input, so that a wrong file would pass as well as a right one",
        "remedy": "Load its trained weights with --weights, or give layers that start at zero (a head, a gamma) other values; "
        "--no-verify exports it unproven.",
        "patterns": (r"gives the same outputs for every input",),
    },
    {
        "id": "no-tensor",
        "explanation": "forward returns nothing that a graph can hold",
        "remedy": "Return a tensor, or a tuple, list or dict of tensors.",
        "patterns": (r"holds no tensor",),
    },
    {
        "id": "native-attention",
        "explanation": "the operator Attention enters ONNX at opset 23 and is written by the torch.export exporter only",
        "remedy": "Use --opset 23 or above, or leave out --native-attention: attention is then MatMul and Softmax.",
        "patterns": (r"--native-attention needs", r"Attention operation was not supported"),
    },
    {
        "id": "data-dependent-size",
        "explanation": "the size of a result depends on the values of a tensor (a boolean index, nonzero, unique), which needs "
        "the operator NonZero, and TensorRT-RTX has none",
        "remedy": "Keep the size and mask instead: torch.where(mask, x, 0), or topk with a fixed k.",
        "patterns": (r"\bNonZero\b", r"Eq\(u\d+|unbacked"),
    },
    {
        "id": "unsupported-by-target",
        "explanation": "the target has no kernel for this form of the operator",
        "remedy": "Write the layer without it; the finding names the option that is at fault.",
    },
    {
        "id": "unsupported-operator",
        "explanation": "an operator has no form in ONNX, or none in this exporter",
        "remedy": "Write that part with what ONNX has: matrix products, reductions, sorting (x.sort(dim)), gathers and "
        "elementwise operators. One of a library's own is replaced by its PyTorch code.",
        "patterns": (
            r"Exporting the operator '[\w:]+' to ONNX",
            r"No ONNX function found for",
            r"ONNX export of operator",
            r"operator with unrecognized namespace",
        ),
        "general": True,
    },
    {
        "id": "baked-size",
        "explanation": "a size that was traced became a constant of the graph",
        "remedy": "Leave that axis out of --dynamic, or keep sizes symbolic: only + - * // on x.shape, no branch, loop, int() "
        "or window that depends on it.",
        "patterns": (
            r"cannot be dynamic[:,] ",
            r"specialized it to be a constant",
            r"Constraints violated",
            r"has been baked in",
        ),
        "general": True,
    },
    {
        "id": "wrong-numbers",
        "explanation": "the file gives other numbers than PyTorch",
        "remedy": "Try the other --exporter, --no-simplify or --no-fuse to find the step; 'attn-deploy diagnose' finds the "
        "module.",
        "patterns": (r"disagree at",),
        "general": True,
    },
    {
        "id": "eager-failure",
        "explanation": "forward fails in PyTorch itself",
        "remedy": "Check the shapes and element types given with --input; names are forward's parameters, or go in their order.",
        "patterns": (r"forward failed in PyTorch itself",),
        "general": True,
    },
)
