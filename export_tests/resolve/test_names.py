from __future__ import annotations

import builtins
import json
import subprocess
import sys

import pytest
from torch import nn

import attn_deploy
from attn_deploy import registry
from attn_deploy.errors import InvalidRequestError, UnknownModelError
from attn_deploy.resolve.names import parse_name
from attn_deploy.resolve.resolve import parse_inputs, resolve


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ghostmodule", {"base": "ghostmodule"}),
        ("ghostmodule:ratio=3", {"base": "ghostmodule", "arguments": {"ratio": 3}}),
        ("psp:bins=(1,2,3),in_channels=8", {"base": "psp", "arguments": {"bins": (1, 2, 3), "in_channels": 8}}),
        ("x:a=1e-3,b=true,c=none,d=word", {"base": "x", "arguments": {"a": 1e-3, "b": True, "c": None, "d": "word"}}),
        ("resnet18+se", {"base": "resnet18", "slot": "se"}),
        ("resnet50+cbam@layer3", {"base": "resnet50", "slot": "cbam", "stage": "layer3"}),
        ("resnet18+se:reduction=8", {"base": "resnet18", "slot": "se", "slot_arguments": {"reduction": 8}}),
        (
            "resnet18:stem=imagenet+se:reduction=8@layer2",
            {"arguments": {"stem": "imagenet"}, "slot_arguments": {"reduction": 8}, "stage": "layer2"},
        ),
        ("resnet18+se@layer2:reduction=8", {"slot_arguments": {"reduction": 8}, "stage": "layer2"}),
        ("path/to/net.py:MyNet", {"base": "MyNet", "file": "path/to/net.py"}),
        ("net.py:MyNet:width=3", {"base": "MyNet", "file": "net.py", "arguments": {"width": 3}}),
    ],
)
def test_grammar(text, expected):
    name = parse_name(text)
    assert {k: getattr(name, k) for k in expected} == expected


@pytest.mark.parametrize(
    "text", ["", "+se", "a+", "a+b@", "a:b", "a:=1", "a:x=1,x=2", "net.py", "a b c!", "a+b@layer 3"]
)
def test_what_is_not_of_the_grammar_is_refused(text):
    with pytest.raises(InvalidRequestError):
        parse_name(text)


@pytest.mark.parametrize(
    ("wrong", "right"), [("ghostmodul", "ghostmodule"), ("non_lcal", "non_local"), ("cbma", "cbam")]
)
def test_unknown_names_get_suggestions(wrong, right):
    with pytest.raises(UnknownModelError, match=f"did you mean .*{right}"):
        registry.get(wrong)


def test_unknown_arguments_name_the_known_ones():
    with pytest.raises(InvalidRequestError, match=r"no argument 'reductoin'; it takes channels, reduction, bias"):
        attn_deploy.create("se:reductoin=4")


def test_arguments_reach_the_module_and_the_inputs():
    model = resolve("se:channels=48,reduction=4")
    assert model.module.reduce.out_channels == 12
    assert model.inputs[0].dims == ("N", 48, "H", "W")


def test_slots():
    model = resolve("resnet18+se:reduction=8@layer3").module
    assert isinstance(model.layer1[0].slot, nn.Identity)
    assert [b.slot.reduce.out_channels for b in model.layer3] == [32, 32]
    whole = resolve("resnet18+se").module
    widths = [b.slot.channels for layer in (whole.layer1, whole.layer2, whole.layer3, whole.layer4) for b in layer]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("se+cbam", "has no slots"),
        ("resnet18+danet_head", "gives a tuple"),
        ("resnet8+effnet_block", r"turns \(1, 16, 8, 8\) into \(1, 16, 4, 4\)"),
        ("resnet8+a2_double_attention", r"turns \(1, 16, 8, 8\) into \(1, 8, 8, 8\)"),
        ("resnet8+weighted_feature_fusion", "takes several inputs"),
        ("resnet8+context_gating", r"takes no map \(N, C, H, W\)"),
        ("resnet8+hswish", "takes no channel count"),
        ("resnet8+ge_theta", "made for maps of 32x32, got 8x8"),
        ("resnet18+psp@layer4", "before the classifier, which belongs to no stage"),
        ("resnet18+se@layer9", "stage must be one of"),
        ("resnet18+se:channels=3", "set by the backbone"),
        ("resnet18+se:reduction=100", "channels // reduction"),
        ("resnet18:stem=big", "stem must be one of"),
    ],
)
def test_what_does_not_fit_a_slot_is_refused_with_the_reason(name, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        attn_deploy.create(name)


@pytest.mark.parametrize("text", ["1x3xx4", "x", "0x3x4x4", "a b:1x3", "1x3x8x8:float8"])
def test_inputs_that_cannot_be_read(text):
    with pytest.raises(InvalidRequestError):
        parse_inputs([text])


def test_inputs_share_symbols_where_sizes_are_equal():
    image, small, mask = parse_inputs(["image:1x3x64x48", "small:1x3x32x24", "mask:1x64:bool"])
    assert image.dims == ("N", 3, "H", "W")
    assert small.dims == ("N", 3, "H1", "W1")
    assert mask.dims == ("N", 64)
    assert mask.dtype == "bool"
    same = parse_inputs(["a:2x3x16x16", "b:2x3x16x16"])
    assert same[0].dims == same[1].dims == ("N", 3, "H", "W")
    tokens, patches, named = parse_inputs(["tokens:1x10x8", "patches:16x6", "more:P=4x6"])
    assert (tokens.dims, patches.dims, named.dims) == (("N", 10, 8), (16, 6), ("P", 6))
    _, low = parse_inputs(["high:1x3x16x24", "low:1x8x2*Hx2*W"])
    assert (low.dims, low.shape()) == (("N", 8, "2*H", "2*W"), (1, 8, 32, 48))
    with pytest.raises(InvalidRequestError, match="two inputs are called 'a'"):
        parse_inputs(["a:1x3x16x16", "a:1x3x16x16"])


def test_a_taken_name_is_refused():
    with pytest.raises(InvalidRequestError, match="is taken by 'se'"):
        registry.add(registry.ModelSpec("senet", "a:b", "custom", "Another."))
    with pytest.raises(InvalidRequestError, match="cannot be a model name"):
        registry.add(registry.ModelSpec("Se Net", "a:b", "custom", "Another."))


def test_the_registry_needs_no_torch():
    code = (
        "import sys, json; sys.modules['torch'] = None\n"
        "import attn_deploy\n"
        "print(json.dumps([s.name for s in attn_deploy.list_models()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ghostmodule" in json.loads(done.stdout)


def test_every_public_name_can_be_imported():
    for name in attn_deploy.__all__:
        assert getattr(attn_deploy, name) is not None
    with pytest.raises(AttributeError):
        attn_deploy.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("path/to/net.py:MyNet", "net.py:MyNet"),
        ("/elsewhere/net.py:MyNet:width=3", "net.py:MyNet:width=3"),
        ("runs/resnet8-se.v2/model.safetensors", "resnet8-se.v2"),
        ("resnet18+se@layer3", "resnet18+se@layer3"),
        ("timm:resnet50/a", "timm:resnet50/a"),
    ],
)
def test_the_short_name_knows_no_folder(text, short):
    assert parse_name(text).short == short


NET = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"


@pytest.mark.parametrize(
    "text",
    [
        f"import builtins\nbuiltins.open = None\n{NET}",
        f"import builtins\ndel builtins.len\n{NET}",
        f"import builtins\nbuiltins.isinstance = 3\nraise ValueError\n{NET}",
        f"import builtins\n{NET}    def __init__(self):\n        super().__init__()\n        builtins.print = None\n",
    ],
)
def test_a_file_that_breaks_python_is_named_and_undone(text, tmp_path):
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(InvalidRequestError, match=r"net\.py replaces builtins\.\w+, without which nothing works"):
        resolve(f"{tmp_path}/net.py:Net")
    assert all(map(callable, (open, len, isinstance, print)))


def test_recursion_without_end_is_an_error_with_its_line(tmp_path):
    """Without a bound it fills the memory, and its traceback takes minutes to be freed."""
    (tmp_path / "net.py").write_text(f"import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    f()\nf()\n{NET}")
    command = [sys.executable, "-m", "attn_deploy", "lint", "net.py:Net", "--input", "1x3x8x8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if sys.version_info >= (3, 11):  # before, each call takes of the stack, which ends first
        assert "RecursionError" in done.stderr
        assert "net.py, line 4" in done.stderr
        assert done.returncode == 2
    assert done.returncode not in (0, 70)
    before = sys.setrecursionlimit
    (tmp_path / "other.py").write_text(f"import sys\nsys.setrecursionlimit(sys.getrecursionlimit())\n{NET}")
    resolve(f"{tmp_path}/other.py:Net")
    assert sys.setrecursionlimit is before


@pytest.mark.parametrize(
    "text",
    ["import sys\nsys.path.clear()", "import sys\ndel sys.modules[__name__]", "import builtins\nbuiltins._ = str"],
)
def test_a_file_may_do_to_itself_and_the_path_what_it_likes(text, tmp_path):
    (tmp_path / "net.py").write_text(f"{NET}{text}\n")
    before = list(sys.path)
    try:
        assert isinstance(resolve(f"{tmp_path}/net.py:Net").module, nn.Module)
    finally:
        sys.path[:] = before
        vars(builtins).pop("_", None)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["import", "constructor"])
def test_a_file_that_changes_the_folder_moves_no_output(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    change = f"import os\nos.chdir({str(tmp_path / 'elsewhere')!r})\n"
    text = NET + (
        change if place == "import" else f"def make():\n    {change.replace(chr(10), chr(10) + '    ')}return Net()\n"
    )
    (tmp_path / "net.py").write_text(text)
    words = ["export", f"net.py:{'Net' if place == 'import' else 'make'}", "--input", "1x3x8x8", "-o", "o.onnx"]
    done = subprocess.run(
        [sys.executable, "-m", "attn_deploy", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.onnx").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("number", [10**12, 10**30, -(10**30), 2**63])
def test_numbers_that_no_tensor_can_have_are_refused(number):
    with pytest.raises(InvalidRequestError, match=r"^resnet8:num_classes=.*: "):
        resolve(f"resnet8:num_classes={number}")
