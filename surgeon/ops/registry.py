"""Which function is which ONNX operator in which version; declarations are checked when made.

The room knows operators by the specification alone (`onnx.defs`): it never sees a file or a graph.
What must not enter: the meaning of any operator (its family's file), the order of steps
(`surgeon.torch_graph.program`).

A declaration is one decorator. Inputs arrive by position, attributes by keyword; an absent
attribute is filled from the schema of that exact version, and annotations say what is a value of
the host::

    op("Relu")(torch.relu)  # every version up to AUDITED


    @op("Softmax", 13)  # exactly this one
    def softmax(input: Tensor, *, axis: int) -> Tensor:
        return input.softmax(axis)

Annotations: `Tensor` is left alone; `list[int]`, `list[float]`, `int`, `float`, `bool`, `str`,
`torch.dtype` are values of the host; `float | Tensor` is a value of the host where it is known when
the program is built; `Fill` is a one-element tensor attribute; a subgraph arrives as a callable;
anything else is passed as it comes (sequences, optionals, strings). Keyword-only parameters that
the schema lacks and that `INJECTED` names are filled by the program.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

from onnx import defs

from surgeon.errors import UnsupportedError
from surgeon.ops import convert

AUDITED: Final = 28
"""The newest opset whose operators were read and compared; newer versions count as missing."""

INJECTED: Final = frozenset(
    {"training", "device", "outputs", "input_types", "output_types", "carried", "steps"}
)
"""Keyword-only parameters the program fills: is the module training; the device new tensors go to;
how many outputs the node names; element types (ONNX numbers, 0 where unknown) of its inputs and
outputs; whether all that follows takes whole numbers stored as floats, so that a gradient may pass;
the steps that lead to its attribute `y`."""

LEGACY_ATTRIBUTES: Final = frozenset({"consumed_inputs"})
"""Attributes of opset 1 that were hints to an allocator and never changed a result."""

UNLISTED: Final = frozenset(
    {"Affine", "Crop", "ImageScaler", "LayerNormalization", "MeanVarianceNormalization",
     "ParametricSoftplus", "Scale", "ScaledTanh", "SimplifiedLayerNormalization",
     "ThresholdedRelu"}
)  # fmt: skip
"""Operators that ONNX Runtime has in the empty domain from version 1 on, whose specification lacks
them, or has them from a later version on."""

FAMILIES: Final = (
    "elementwise",
    "logic",
    "activation",
    "reduction",
    "linear",
    "convolution",
    "pooling",
    "normalization",
    "shape",
    "indexing",
    "creation",
    "resize",
    "recurrent",
    "attention",
    "quantized",
    "control",
    "sequence",
    "signal",
    "detection",
    "loss",
    "text",
    "random",
    "contrib",
    "unlisted",
    "classic",
)
"""Modules of `surgeon.ops` that declare operators, by how common they are."""

Function = TypeVar("Function", bound=Callable[..., Any])

_HOST_KINDS: Final = {
    "list[int]": "ints",
    "tuple[int, ...]": "ints",
    "list[float]": "floats",
    "list[str]": "strings",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
    "torch.dtype": "dtype",
    "Tensor": "tensor",
    "torch.Tensor": "tensor",
    "float | Tensor": "number",
    "Fill": "fill",
    "Host": "host",
}


class DeclarationError(TypeError):
    """An operator was declared in a way its schema does not allow: a mistake of the developer."""


@dataclass(frozen=True)
class Parameter:
    """How one parameter of a function wants its value: a kind of `_HOST_KINDS`, or `any`."""

    name: str
    kind: str
    optional: bool


@dataclass(frozen=True)
class Operator:
    """One function as the meaning of one operator in one exact version.

    Attributes:
        version: the since_version it stands for; 0 = every version of a domain without schemas.
        inputs: positional parameters in order.
        rest: kind of the variadic inputs, or None where there are none.
        attributes: keyword parameters that this version's attributes may fill.
        defaults: attribute values to pass where the node has none.
        injected: names out of `INJECTED` that the function asks for.
    """

    domain: str
    name: str
    version: int
    function: Callable[..., Any]
    file: str
    line: int
    inputs: tuple[Parameter, ...]
    rest: str | None
    attributes: Mapping[str, Parameter]
    defaults: Mapping[str, Any]
    injected: frozenset[str]


@dataclass(frozen=True)
class FunctionBody:
    """An operator nobody wrote, whose schema defines it by simpler operators."""

    domain: str
    name: str
    version: int
    schema: Any = field(repr=False)


@dataclass(frozen=True)
class Coverage:
    """One line of the listing: an operator version and how it is covered."""

    domain: str
    name: str
    version: int
    status: str
    file: str | None = None
    line: int | None = None


_declared: dict[tuple[str, str], dict[int, Operator]] = {}


def canonical(domain: str) -> str:
    """Return the domain as `onnx.defs` spells it: `ai.onnx` is the empty string."""
    return "" if domain == "ai.onnx" else domain


def refuse(message: str, remedy: str | None = None) -> NoReturn:
    """Say that an option of an operator is not converted; the program adds the node.

    Raises:
        UnsupportedError: always.
    """
    raise UnsupportedError(
        message,
        remedy=remedy
        or "cut the graph behind this node, or declare the operator in a plugin (`surgeon_ops`)",
    )


@functools.cache
def schemas() -> Mapping[tuple[str, str], Mapping[int, Any]]:
    """Return every schema of `onnx.defs` by (domain, name) and since_version.

    They are `Any` because onnx types half of what an OpSchema has.
    """
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), {})[schema.since_version] = schema
    return found


def op(name: str, *versions: int, domain: str = "") -> Callable[[Function], Function]:
    """Declare a function as the meaning of an operator.

    Args:
        name: the operator as ONNX spells it.
        versions: the exact since_versions it covers; none = every version up to `AUDITED`.
        domain: its domain; one without schemas in `onnx.defs` is not checked.

    Raises:
        DeclarationError: unknown operator or version, a version declared twice, or parameters that
            do not match the schema; with file and line.
    """
    domain = canonical(domain)
    frame = sys._getframe(1)  # noqa: SLF001 - torch's containers are the interface here
    file, line = frame.f_code.co_filename, frame.f_lineno

    def declare(function: Function) -> Function:
        place = f"{file}:{line}: {domain or 'ai.onnx'} {name}"
        known = schemas().get((domain, name))
        if known is None:
            ours = {"", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training"}
            if domain in ours and not (not domain and name in UNLISTED):
                raise DeclarationError(f"{place}: no such operator in onnx.defs")
            covered: Iterable[int] = versions or (0,)
        else:
            limit = AUDITED if not domain else sys.maxsize
            covered = versions or sorted(v for v in known if v <= limit)
            early = {1} if not domain and name in UNLISTED else set()
            unknown = sorted(set(covered) - set(known) - early)
            if unknown:
                raise DeclarationError(f"{place}: no versions {unknown}; there are {sorted(known)}")
        table = _declared.setdefault((domain, name), {})
        for version in covered:
            if version in table:
                other = table[version]
                raise DeclarationError(
                    f"{place}: version {version} is already declared in {other.file}:{other.line}"
                )
            schema = known.get(version) if known is not None else None
            table[version] = _describe(
                domain, name, version, function, schema, (file, line), place=place
            )
        return function

    return declare


def _describe(
    domain: str,
    name: str,
    version: int,
    function: Callable[..., Any],
    schema: Any,
    where: tuple[str, int],
    *,
    place: str,
) -> Operator:
    """Match a function's parameters with the schema of one version."""
    positional, rest, keywords, known_signature = _parameters(function)
    attributes: dict[str, Parameter] = {}
    defaults: dict[str, Any] = {}
    by_name = {p.name: p for p in (*positional, *keywords)}
    if schema is None:
        attributes = {p.name: p for p in keywords if p.name not in INJECTED}
        for p in positional:
            attributes.setdefault(p.name, p)
    else:
        most = len(schema.inputs)
        variadic = bool(schema.inputs) and schema.inputs[-1].option.name == "Variadic"
        if not known_signature:
            positional = tuple(
                Parameter(i.name, "tensor", i.option.name == "Optional") for i in schema.inputs
            )
            rest = "tensor" if variadic else None
            positional = positional[:-1] if variadic else positional
        elif rest is None and (variadic or len(positional) < most):
            raise DeclarationError(
                f"{place}-{version}: takes {len(positional)} inputs, the schema has "
                f"{most}{' or more' if variadic else ''}"
            )
        for key, attribute in schema.attributes.items():
            if key in LEGACY_ATTRIBUTES:
                continue
            if key not in by_name:
                raise DeclarationError(f"{place}-{version}: no parameter for attribute {key!r}")
            attributes[key] = by_name[key]
            if not attribute.required and attribute.default_value.type:
                defaults[key] = convert.attribute(attribute.default_value, by_name[key].kind)
            elif not by_name[key].optional and not attribute.required:
                raise DeclarationError(
                    f"{place}-{version}: attribute {key!r} may be absent, its parameter may not"
                )
        taken = {i.name for i in schema.inputs} | set(attributes) | INJECTED
        inputs_here = () if rest is not None else positional[:most]
        taken |= {p.name for p in inputs_here}
        stray = [n for n, p in by_name.items() if n not in taken and not p.optional]
        if stray and known_signature:
            raise DeclarationError(f"{place}-{version}: parameters {stray} are not in the schema")
    return Operator(
        domain=domain,
        name=name,
        version=version,
        function=function,
        file=where[0],
        line=where[1],
        inputs=positional,
        rest=rest,
        attributes=attributes,
        defaults=defaults,
        injected=frozenset(p.name for p in keywords if p.name in INJECTED)
        - frozenset(schema.attributes if schema is not None else ()),
    )


def _parameters(
    function: Callable[..., Any],
) -> tuple[tuple[Parameter, ...], str | None, tuple[Parameter, ...], bool]:
    """Read a signature: positional, kind of the variadic, keyword-only, whether there was one."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # built into torch: tensors in, tensors out
        return (), None, (), False
    positional, keywords, rest = [], [], None
    for parameter in signature.parameters.values():
        annotation = parameter.annotation
        text = "" if annotation is parameter.empty else str(annotation)
        optional = parameter.default is not parameter.empty or "None" in text
        kind = _HOST_KINDS.get(text.removesuffix(" | None"), "any")
        described = Parameter(parameter.name, kind, optional)
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = kind
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keywords.append(described)
        elif parameter.kind is not parameter.VAR_KEYWORD:
            positional.append(described)
    return tuple(positional), rest, tuple(keywords), True


@functools.cache
def _load_families() -> None:
    for family in FAMILIES:
        importlib.import_module(f"surgeon.ops.{family}")


def load_plugin(reference: str) -> None:
    """Import a plugin's operators, given as `module:attr`; importing declares them.

    Raises:
        UnsupportedError: the reference cannot be imported.
    """
    module, _, attribute = reference.partition(":")
    try:
        found = importlib.import_module(module)
        if attribute:
            getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"operators of a plugin cannot be loaded: {error}",
            where=reference,
            remedy="disable the plugin with SURGEON_DISABLE_PLUGINS, or repair it",
        ) from error


@functools.lru_cache(maxsize=4096)
def lookup(domain: str, name: str, opset: int) -> Operator | FunctionBody:
    """Find what an operator means under an opset.

    Args:
        domain: domain of the node; `ai.onnx` and the empty string are one.
        name: operator.
        opset: version of the domain that the model imports.

    Raises:
        UnsupportedError: nobody wrote that version, or the operator is unknown.
    """
    _load_families()
    domain = canonical(domain)
    known = schemas().get((domain, name), {})
    table = _declared.get((domain, name), {})
    since = max((v for v in known if v <= opset), default=0)
    if not since:
        since = max((v for v in table if v <= opset), default=-1)
    label = f"{domain or 'ai.onnx'} {name}"
    if since in table:
        return table[since]
    if since > 0 and (schema := known.get(since)) is not None:
        if schema.has_function or schema.has_context_dependent_function:
            return FunctionBody(domain, name, since, schema)
        written = sorted(table)
        raise UnsupportedError(
            f"operator {label} version {since} (opset {opset}) is not converted"
            + (f"; versions {written} are" if written else ""),
            remedy="cut the graph behind it, so that it runs in ONNX Runtime, or add the version "
            f'to surgeon.ops: @op("{name}", {since})',
        )
    if known:
        raise UnsupportedError(
            f"operator {label} does not exist in opset {opset}; its first is {min(known)}",
            remedy="the file declares the wrong opset: export it again",
        )
    raise UnsupportedError(
        f"operator {label} (opset {opset}) is unknown",
        remedy="cut the graph behind it, so that it runs in ONNX Runtime, or declare it in a plugin"
        f' that offers `surgeon_ops`: @op("{name}", domain="{domain}")',
    )


def covering(domain: str, name: str, opset: int) -> Coverage:
    """Return how an operator is covered under an opset; see `coverage`."""
    domain = canonical(domain)
    try:
        found = lookup(domain, name, opset)
    except UnsupportedError:
        known = schemas().get((domain, name), {})
        since = max((v for v in known if v <= opset), default=opset)
        return Coverage(domain, name, since, "missing")
    if isinstance(found, FunctionBody):
        return Coverage(domain, name, found.version, "function")
    return Coverage(domain, name, found.version, "native", found.file, found.line)


def coverage() -> Iterator[Coverage]:
    """Yield every operator version of `onnx.defs` and of other declared domains, sorted by name.

    `status` is `native`, `function` (the schema's own body) or `missing`.
    """
    _load_families()
    keys = set(schemas()) | set(_declared)
    for domain, name in sorted(keys):
        known = schemas().get((domain, name), {})
        table = _declared.get((domain, name), {})
        for version in sorted(set(known) | set(table)):
            if version in table:
                entry = table[version]
                yield Coverage(domain, name, version, "native", entry.file, entry.line)
                continue
            schema = known[version]
            body = schema.has_function or schema.has_context_dependent_function
            yield Coverage(domain, name, version, "function" if body else "missing")
