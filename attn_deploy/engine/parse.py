"""The ONNX parser, with its objects kept alive and its complaints put into the user's words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy.engine.flavors import Flavor
from attn_deploy.engine.logger import logger_for
from attn_deploy.engine.remedies import remedy_for
from attn_deploy.engine.scopes import NodePlace, read_places
from attn_deploy.engine.weak_typing import NEWEST_OPSET, GraphTypes, check_types, read_types
from attn_deploy.errors import EngineBuildError, EngineError


@dataclass(frozen=True, slots=True)
class ParseIssue:
    """What the parser has against a node.

    Attributes:
        place: the node, its operator and its module.
        code: the parser's error code.
        description: the parser's words.
        functions: ONNX functions that hold the node, outermost first.
    """

    place: NodePlace
    code: str
    description: str
    functions: tuple[str, ...] = ()

    def __str__(self) -> str:
        inside = f", inside {' > '.join(self.functions)}" if self.functions else ""
        return f"{self.place}{inside}: {self.code}: {self.description}"


@dataclass(slots=True)
class ParsedNetwork:
    """A parsed graph with everything that must live as long as it: losing one of these is a segmentation fault."""

    flavor: Flavor
    logger: Any
    builder: Any
    network: Any
    parser: Any
    places: tuple[NodePlace, ...]
    types: GraphTypes | None  # for libraries that do not take them from the graph themselves


def parse_onnx(flavor: Flavor, path: Path) -> ParsedNetwork:
    """Parse an ONNX file into a network, strongly typed where the library has that.

    Raises:
        EngineBuildError: naming each refused node, its operator and its module; or the element types that the library
            has not.
        EngineError: if the library makes no builder.
    """
    trt = flavor.trt
    logger = logger_for(trt)
    logger.clear()
    types = None if flavor.strongly_typed else read_types(path)
    if types is not None:
        check_types(types, flavor, path)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a null pointer
        raise EngineError(
            f"{flavor} could not start its builder: {'; '.join(logger.errors) or error}.", exit_code=3
        ) from error
    network = builder.create_network(flavor.network_flags)
    parser = trt.OnnxParser(network, logger)
    places = read_places(path)
    parsed = ParsedNetwork(flavor, logger, builder, network, parser, places, types)
    if not parser.parse_from_file(str(path)):
        issues = tuple(_issue(parser.get_error(i), places) for i in range(parser.num_errors))
        text = _refusal(flavor, path, issues, tuple(logger.errors), _also_unknown(parser, places, issues))
        if types is not None and types.opset > NEWEST_OPSET:
            text += (
                f" The file has opset {types.opset}, and this parser knows {NEWEST_OPSET} at most: export it with "
                f"--opset {NEWEST_OPSET}, or 'attn-deploy convert {path} --opset {NEWEST_OPSET}'."
            )
        raise EngineBuildError(text)
    return parsed


def _issue(error: Any, places: tuple[NodePlace, ...]) -> ParseIssue:
    index = int(error.node())
    detailed = hasattr(error, "node_name")  # before TensorRT 10 there was the index alone
    functions = tuple(error.local_function_stack()) if detailed else ()
    place = places[index] if 0 <= index < len(places) and not functions else NodePlace("", "", "")
    name, operator = (str(error.node_name()), str(error.node_operator())) if detailed else ("", "")
    if (name or operator) and (name, operator) != (place.name, place.operator):
        place = next((p for p in places if p.name == name and name), NodePlace(name, operator, place.module))
    return ParseIssue(place, error.code().name, " ".join(str(error.desc()).split()), functions)


def _also_unknown(parser: Any, places: tuple[NodePlace, ...], issues: tuple[ParseIssue, ...]) -> tuple[str, ...]:
    """Operators after the first refused one that have no importer either; what it affirms proves nothing, a no does."""
    named = {i.place.operator for i in issues}
    others = dict.fromkeys(p.operator for p in places if p.operator not in named)
    return tuple(o for o in others if not parser.supports_operator(o))


def _refusal(
    flavor: Flavor, path: Path, issues: tuple[ParseIssue, ...], errors: tuple[str, ...], others: tuple[str, ...]
) -> str:
    text = "; ".join(map(str, issues)) or "; ".join(errors) or "it gave no reason"
    advice = remedy_for(text, [i.place.operator for i in issues])
    more = f" It does not know these operators of the graph either: {', '.join(others)}." if others else ""
    return f"{path}: {flavor} refuses the graph: {text}.{more}{' ' + advice if advice else ''}"
