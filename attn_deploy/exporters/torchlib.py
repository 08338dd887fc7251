"""What torch's exporter makes anew at every call and need not: its table of functions, and the decomposed program.

The torch.export exporter reads the source of 500 ONNX functions at every call, and then traces the program a second
time to decompose what has no such function. The table depends on the opset alone, since we register no functions of our
own; the decomposed program depends on the program and on which operators the table has. Its optimiser tries 50 rewrite
rules at every node, and lists the whole graph for those with several outputs: time that grows with the square of the
graph, and is spared where the node is of another operator than the rule's.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

_PACKAGE = "torch.onnx._internal.exporter"
_tables: dict[Any, Any] = {}
_decompositions: dict[Any, Any] = {}
_functions: list[Any] = []


@contextlib.contextmanager
def shared_work(decomposed: dict[Any, Any]) -> Iterator[None]:
    """Hand the exporter what it made before; without effect in a torch that does these steps in another way.

    Args:
        decomposed: where the decomposed forms of one program are kept.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            stack.enter_context(_shared_table())
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            stack.enter_context(_shared_decomposition(decomposed))
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            stack.enter_context(_shared_decomposition_table())
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            stack.enter_context(_rules_by_operator())
        with contextlib.suppress(ImportError, AttributeError, KeyError):
            stack.enter_context(_views_of_weights())
        yield


@contextlib.contextmanager
def _shared_table() -> Iterator[None]:
    registration: Any = importlib.import_module(f"{_PACKAGE}._registration")
    owner = registration.ONNXRegistry
    method = vars(owner)["from_torchlib"]

    def from_torchlib(cls: Any, *arguments: Any, **settings: Any) -> Any:
        key = (cls, arguments, tuple(sorted(settings.items())))
        if key not in _tables:
            with _parsed_functions(registration.onnxscript_apis):
                _tables[key] = method.__func__(cls, *arguments, **settings)
        return _tables[key]

    with _replaced(owner, "from_torchlib", classmethod(from_torchlib)):
        yield


@contextlib.contextmanager
def _parsed_functions(library: Any) -> Iterator[None]:
    """The functions, parsed once for the tables of all opsets; ``library`` is a stand-in that loads a module lazily."""
    if not _functions:
        with _unread_sources():
            _functions.extend(library.get_torchlib_ops())
    library.get_torchlib_ops = lambda: list(_functions)
    try:
        yield
    finally:
        del library.get_torchlib_ops


@contextlib.contextmanager
def _unread_sources() -> Iterator[None]:
    """Within it, a function's source is not parsed for its domain, which is that of its opset: half a second for all."""
    try:
        owner: Any = importlib.import_module("onnxscript._internal.values").TracedOnnxFunction
        vars(owner)["function_ir"]
    except (ImportError, AttributeError, KeyError):  # another onnxscript, which does it in another way
        yield
        return
    with _replaced(owner, "function_ir", property(lambda self: types.SimpleNamespace(domain=self.opset.domain))):
        yield


@contextlib.contextmanager
def _shared_decomposition(decomposed: dict[Any, Any]) -> Iterator[None]:
    core: Any = importlib.import_module(f"{_PACKAGE}._core")
    step = core._prepare_exported_program_for_export

    def prepare(program: Any, *, registry: Any) -> Any:
        key = (id(program), frozenset(map(str, registry.functions)))
        if key not in decomposed:
            decomposed[key] = step(program, registry=registry)
        return decomposed[key]

    with _replaced(core, "_prepare_exported_program_for_export", prepare):
        yield


@contextlib.contextmanager
def _shared_decomposition_table() -> Iterator[None]:
    """The ways to decompose what has no ONNX function take a tenth of a second to list.

    They depend on the functions, and on the operators and decompositions that torch knows: a file of the user's may add some.
    """
    module: Any = importlib.import_module(f"{_PACKAGE}._decomp")
    known = importlib.import_module("torch._decomp").decomposition_table
    operators = importlib.import_module("torch")._C._dispatch_get_all_op_names
    step = module.create_onnx_friendly_decomposition_table

    def create(registered: Any) -> Any:
        key = (frozenset(registered), frozenset(known), frozenset(operators()))
        if key not in _decompositions:
            _decompositions[key] = step(registered)
        return dict(_decompositions[key])  # the caller may take entries out

    with _replaced(module, "create_onnx_friendly_decomposition_table", create):
        yield


@contextlib.contextmanager
def contiguous_writes() -> Iterator[None]:
    """Within it, a transposed weight is laid out before it is written: numpy would write it element by element.

    That takes five times as long: 2 of the 40 seconds that a ViT-B takes.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):
            stack.enter_context(_laid_out())
        yield


@contextlib.contextmanager
def _laid_out() -> Iterator[None]:
    owner: Any = importlib.import_module("onnx_ir._core")
    step = owner._create_np_array_for_byte_representation
    with _replaced(
        owner, "_create_np_array_for_byte_representation", lambda tensor: np.asarray(step(tensor), order="C")
    ):
        yield


@contextlib.contextmanager
def _rules_by_operator() -> Iterator[None]:
    """Within it, a rewrite rule is tried at nodes of its own operator alone; it matches no others in any case."""
    owner: Any = importlib.import_module("onnxscript.rewriter._matcher").SimplePatternMatcher
    method = vars(owner)["match"]
    no_match = importlib.import_module("onnxscript.rewriter._basics").MatchResult().fail("Another operator.")

    def match(self: Any, model: Any, graph: Any, node: Any, *arguments: Any, **settings: Any) -> Any:
        with contextlib.suppress(AttributeError, IndexError):  # another onnxscript, whose patterns are built otherwise
            root = self.pattern.output_nodes[0]
            if not (root.op.matches(node.op_type) and root.domain.matches(node.domain)):
                return no_match
        return method(self, model, graph, node, *arguments, **settings)

    with _replaced(owner, "match", match):
        yield


@contextlib.contextmanager
def _views_of_weights() -> Iterator[None]:
    """Within it, arrays of weights are made another way than by `torch.Tensor.numpy`.

    After that torch never again lets go of a storage, and the proof does without the weights while the file runs
    (`attn_deploy.fusing.resting`).
    """
    owner: Any = importlib.import_module(f"{_PACKAGE}._core").TorchTensor
    method = vars(owner)["numpy"]

    def numpy(self: Any) -> Any:
        try:
            return np.from_dlpack(self.raw.detach())
        except (RuntimeError, TypeError, BufferError, AttributeError, ValueError):
            return method(self)  # types that numpy has not, tensors without values

    with _replaced(owner, "numpy", numpy):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within it, an attribute of a module or a class is another one."""
    original = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
