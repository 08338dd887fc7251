"""The user's own file, which may do anything, and must not end a command as if all were well."""

from __future__ import annotations

import random
from pathlib import Path

from hostile_inputs.case import Case

NET = "from torch import nn\nclass Net(nn.Module):\n"
END = (
    "raise SystemExit(0)",
    "raise KeyboardInterrupt",
    "__import__('sys').exit()",
    "__import__('os')._exit(0)",
    "exit(0)",
    "quit()",
    "raise GeneratorExit",
    "raise BaseException('x')",
)
FORWARD = "    def forward(self, x):\n        return x\n"
SOUND = NET + "    def forward(self, x):\n        return x * 2\n"
INIT = "    def __init__(self):\n        super().__init__()\n"
# Where it happens: the text around it.
PLACES = {
    "import": "{}\n" + SOUND,
    "init": NET + INIT + "        {}\n" + FORWARD,
    "forward": NET + "    def forward(self, x):\n        {}\n",
    "eval": NET + FORWARD + "    def eval(self):\n        {}\n",
    "hook": NET + INIT + "        self.register_forward_hook(self.h)\n    def h(self, *_):\n        {}\n" + FORWARD,
    "getattr": NET + "    def __getattr__(self, name):\n        {}\n" + FORWARD,
    "state_dict": NET + "    def state_dict(self, *a, **k):\n        {}\n" + FORWARD,
    "repr": NET + "    def __repr__(self):\n        {}\n    def forward(self, x):\n        raise ValueError(self)\n",
    "deepcopy": NET + "    def __deepcopy__(self, memo):\n        {}\n" + FORWARD,
    "later": NET
    + "    n = 0\n    def forward(self, x):\n        Net.n += 1\n        if Net.n > 3:\n            {}\n        return x\n",
    "cleanup": NET
    + "    def forward(self, x):\n        try:\n            return x\n        finally:\n            {}\n",
}
# Whole files, and whether a command that accepts them is wrong.
FILES = {
    "def f(:\n": True,
    "\x00": True,
    "# coding: no-such\n" + SOUND: True,
    "class Net:\n    pass\n": True,
    "Net = 3\n": True,
    "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n": True,
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n": True,
    "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\n": True,
    "import os\nos.abort()\n": True,
    "import ctypes\nctypes.string_at(0)\n": True,
    "import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    f()\nf()\n": True,
    "def Net():\n    return 3\n": True,
    "def Net():\n    return Net()\n": True,
    "import net\n": True,
    NET + "    def forward(self, x):\n        return self.forward(x)\n": True,
    NET + "    def forward(self, x):\n        return 'text'\n": True,
    NET + "    def forward(self, x):\n        return None\n": True,
    NET + "    def forward(self, x):\n        return {1: x, (2,): [x]}\n": False,
    NET + "    def forward(self, x):\n        return x[0:0]\n": False,
    NET + "    def forward(self, x, **k):\n        return x / 0 * 0\n": False,
    "import sys\nsys.stdout.close()\nsys.stderr.close()\n" + SOUND: False,
    "import sys\nsys.stdout = sys.stderr = None\n" + SOUND: False,
    "import os\nos.close(1)\nos.close(2)\n" + SOUND: False,
    "import os\nos.chdir('/')\n" + SOUND: False,
    "import atexit, os\natexit.register(lambda: os._exit(0))\n" + SOUND: False,
    "import atexit\natexit.register(lambda: 1 / 0)\n" + SOUND: False,
    "import threading, os, time\nthreading.Thread(target=lambda: (time.sleep(0.5), os._exit(0))).start()\n"
    + SOUND: False,
    "import threading\nthreading.Thread(target=exit).start()\n" + SOUND: False,
    "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SOUND: False,
    "import os\nfor f in range(3, 64):\n    try:\n        os.close(f)\n    except OSError:\n        pass\n"
    + SOUND: False,
    "import builtins\nbuiltins.open = None\n" + SOUND: False,
    "import torch\ntorch.set_default_dtype(torch.float64)\n" + SOUND: False,
    "import torch\ntorch.set_grad_enabled(False)\n" + SOUND: False,
    "import warnings\nwarnings.simplefilter('error')\n" + SOUND: False,
    "import os\nif os.fork() == 0:\n    os._exit(0)\n" + SOUND: False,
}


def user_file(chance: random.Random, folder: Path) -> Case:
    """A file that ends the program in one place, or that is whatever else a file can be."""
    if chance.random() < 0.65:
        place = chance.choice(list(PLACES))
        text, fails = PLACES[place].replace("{}", chance.choice(END)), place in ("import", "init", "forward")
    else:
        text = chance.choice(list(FILES))
        fails = FILES[text]
    (folder / "net.py").write_text(text)
    name = chance.choice(("export", "lint", "profile", "diagnose", "train", "quantize", "build"))
    output = {"export": "o.onnx", "quantize": "o.onnx", "build": "o.engine"}.get(name, "")
    rest = {
        "export": ("--input", "1x3x8x8", "-o", "o.onnx"),
        "lint": ("--input", "1x3x8x8"),
        "profile": ("--input", "1x3x8x8", "--runtime", "eager", "--seconds", "0.02"),
        "diagnose": ("--input", "1x3x8x8", "--no-build"),
        "train": ("--dataset", "digits", "--epochs", "1", "-o", "run"),
        "quantize": ("-o", "o.onnx"),
        "build": ("--input", "1x3x8x8", "--target", "sm86", "-o", "o.engine"),
    }[name]
    return Case((name, "net.py:Net", *rest), must_fail=fails, output=output)
