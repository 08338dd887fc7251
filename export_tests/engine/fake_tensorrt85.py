"""TensorRT 8.5.3 as far as building goes: its names, listed from its own wheel, over the real parser and builder of
TensorRT-RTX. What 8.5 has not is not there, and like 8.5 its networks do not know the element types inside them.
"""

from __future__ import annotations

import enum
import json
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SURFACE: dict[str, list[str]] = json.loads((Path(__file__).parent / "tensorrt_api" / "8.5.3.1.json").read_text())


class Only:
    """An object of the real library, with the names that its class has in 8.5."""

    OWNER = ""

    def __init__(self, real: Any) -> None:
        object.__setattr__(self, "_real", real)

    def __getattr__(self, name: str) -> Any:
        if name not in SURFACE[self.OWNER]:
            raise AttributeError(f"TensorRT 8.5 has no {self.OWNER}.{name}")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        if name not in SURFACE[self.OWNER]:
            raise AttributeError(f"TensorRT 8.5 has no {self.OWNER}.{name}")
        setattr(self._real, name, value)


def members(rtx: Any, name: str) -> type[enum.IntEnum]:
    """An enumeration with the members that it has in 8.5."""
    order = {"TacticSource": ["CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]}
    words = order.get(name) or [n for n in SURFACE[name] if n.isupper() or n[:2].isupper()]
    return enum.IntEnum(name, {w: i for i, w in enumerate(words)})


def tensorrt85(rtx: Any) -> ModuleType:
    """The module; ``seen`` tells what the last build was given, ``bound`` which layers were bound to which type."""
    made = ModuleType("tensorrt")
    made.__spec__ = ModuleSpec("tensorrt", None, origin="stand-in")
    for name in SURFACE["module"]:
        if hasattr(rtx, name):
            setattr(made, name, getattr(rtx, name))
    for name in ("IBuilderConfig", "ICudaEngine"):
        setattr(made, name, type(name, (), dict.fromkeys(SURFACE[name])))
    made.__version__ = "8.5.3.1"
    made.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1})
    made.BuilderFlag, made.TacticSource = members(rtx, "BuilderFlag"), members(rtx, "TacticSource")
    made.bound, made.seen = {}, {}

    class Tensor(Only):
        OWNER = "ITensor"

        @property
        def dtype(self) -> Any:
            kind = self._real.dtype
            inside = not (self._real.is_network_input or self._real.is_network_output)
            return rtx.DataType.FLOAT if inside and kind == rtx.DataType.HALF else kind

    class Layer(Only):
        OWNER = "ILayer"

        def get_input(self, index: int) -> Tensor:
            return Tensor(self._real.get_input(index))

        def get_output(self, index: int) -> Tensor:
            return Tensor(self._real.get_output(index))

        def set_output_type(self, index: int, kind: Any) -> None:
            made.bound.setdefault(self._real.name, {})[f"output {index}"] = kind.name

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "precision":
                made.bound.setdefault(self._real.name, {})[name] = value.name
            else:
                super().__setattr__(name, value)

    class Network(Only):
        OWNER = "INetworkDefinition"

        def get_layer(self, index: int) -> Layer:
            return Layer(self._real.get_layer(index))

    class Config(Only):
        OWNER = "IBuilderConfig"

        def __init__(self, real: Any) -> None:
            super().__init__(real)
            self._flags: set[str] = set()
            self._sources = 0b11111

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag.name)

        def get_tactic_sources(self) -> int:
            return self._sources

        def set_tactic_sources(self, mask: int) -> bool:
            self._sources = mask
            return True

    class Parser(Only):
        OWNER = "OnnxParser"

        def __init__(self, network: Network, logger: Any) -> None:
            super().__init__(rtx.OnnxParser(network._real, logger))

        def get_error(self, index: int) -> Error:
            return Error(self._real.get_error(index))

    class Error(Only):
        OWNER = "ParserError"

    class Builder(Only):
        OWNER = "Builder"

        def __init__(self, logger: Any) -> None:
            super().__init__(rtx.Builder(logger))

        def create_network(self, flags: int) -> Network:
            assert flags == 1 << made.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
            return Network(self._real.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)))

        def create_builder_config(self) -> Config:
            return Config(self._real.create_builder_config())

        def build_serialized_network(self, network: Network, config: Config) -> Any:
            made.seen = {"flags": set(config._flags), "sources": config._sources}
            return self._real.build_serialized_network(network._real, config._real)

    made.Builder, made.OnnxParser = Builder, Parser
    return made
