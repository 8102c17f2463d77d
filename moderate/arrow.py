"""Values of Arrow columns in Python, whatever types a file brings."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

# pyarrow is imported where it is used: writers of text import this module, and few of their rows
# have values of Arrow.
if TYPE_CHECKING:
    import pyarrow as pa

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST_SECONDS = 30_000 * 31_556_952
"""Of a timestamp from 1970 that is told as a date: 30,000 years, either way."""


def leave_out_pandas() -> None:
    """Keep Arrow from importing pandas, where that is installed, to see whether a value is its own.

    That takes half a second of a start in which somebody waits. What wants pandas itself still gets
    it, from Arrow, too.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.scalar(None)  # the first value makes Arrow look for it, once
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def python_values(array: Any) -> list[Any]:
    """The values of an Arrow array, see `python_value`; a list as it is."""
    if isinstance(array, list):
        return array
    if _without_nanoseconds(array.type) is not None:
        return [python_value(scalar) for scalar in array]
    try:
        values: list[Any] = array.to_pylist()
    except _no_python_value():
        return [python_value(scalar) for scalar in array]
    return values


def python_value(scalar: Any) -> Any:
    """A scalar's Python value; the scalar itself where Python has nothing equal to it.

    Examples are a timestamp in nanoseconds, or of a zone that this machine does not know. Text that
    is not UTF-8 keeps its other bytes as `\\xNN`.
    """
    coarser = _without_nanoseconds(scalar.type)
    try:
        # Arrow gives values of pandas for nanoseconds, where pandas is installed, and drops those
        # of a time of the day.
        return scalar.as_py() if coarser is None else scalar.cast(coarser).as_py()
    except UnicodeDecodeError:  # no writer is to be given such text, not even within a list
        return plain_value(scalar)
    except _no_python_value():
        return scalar


def _no_python_value() -> tuple[type[Exception], ...]:
    """What Arrow raises for a value that Python has no equal of.

    LookupError and OSError come from zone names: one that is not known, one that names a folder.
    """
    import pyarrow as pa

    return (ValueError, OverflowError, LookupError, OSError, pa.ArrowException)


@lru_cache(maxsize=256)
def _without_nanoseconds(kind: pa.DataType) -> pa.DataType | None:
    """The type with microseconds for nanoseconds, which Python has not; None if it has none."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz) if kind.unit == "ns" else None
    if pa.types.is_duration(kind):
        return pa.duration("us") if kind.unit == "ns" else None
    if pa.types.is_time64(kind):
        return pa.time64("us") if kind.unit == "ns" else None
    if pa.types.is_struct(kind):
        fields = [kind.field(place) for place in range(kind.num_fields)]
        inner = [_without_nanoseconds(field.type) for field in fields]
        if not any(each is not None for each in inner):
            return None
        pairs = zip(fields, inner, strict=True)
        return pa.struct([field.with_type(each or field.type) for field, each in pairs])
    if pa.types.is_map(kind):
        key, item = _without_nanoseconds(kind.key_type), _without_nanoseconds(kind.item_type)
        return pa.map_(key or kind.key_type, item or kind.item_type) if key or item else None
    if pa.types.is_dictionary(kind):
        return _without_nanoseconds(kind.value_type)
    if hasattr(kind, "value_type"):  # all kinds of lists
        value = _without_nanoseconds(kind.value_type)
        if value is None:
            return None
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(value, kind.list_size)
        return pa.large_list(value) if pa.types.is_large_list(kind) else pa.list_(value)
    return None


def plain_value(scalar: Any) -> Any:
    """An Arrow scalar that Python has nothing equal to, as text; never raises for its type.

    A nested value becomes a list or dict whose own values may again be such scalars; a struct that
    has two fields of one name becomes a list of pairs. A timestamp of an unknown zone is given in
    UTC. Text that is not UTF-8 keeps its other bytes as `\\xNN`.
    """
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.StructScalar):
        count = scalar.type.num_fields
        pairs = [(scalar.type.field(i).name, python_value(scalar[i])) for i in range(count)]
        return dict(pairs) if len(dict(pairs)) == count else pairs
    if isinstance(scalar, pa.MapScalar):
        keys, items = scalar.values.field(0), scalar.values.field(1)
        return list(zip(python_values(keys), python_values(items), strict=True))
    if hasattr(scalar, "values"):  # all kinds of lists
        return python_values(scalar.values)
    inner = getattr(scalar, "value", None)
    if isinstance(inner, pa.Scalar):  # of dictionaries, unions, extension types
        return python_value(inner)
    if hasattr(scalar, "as_buffer"):
        return scalar.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    if isinstance(scalar, pa.DurationScalar):
        return f"{inner} {scalar.type.unit}"
    if isinstance(scalar, pa.TimestampScalar):
        return _timestamp_text(scalar)
    try:
        return scalar.cast(pa.string()).as_py()
    except pa.ArrowException:
        return f"a value of type {scalar.type}"


def _timestamp_text(scalar: Any) -> str:
    import pyarrow as pa

    unit = scalar.type.unit
    # Arrow itself names a wrong year beyond 32767.
    if not -_MOST_SECONDS <= scalar.value // _PER_SECOND[unit] <= _MOST_SECONDS:
        return f"{scalar.value} {unit} since 1970"
    try:
        text: str = scalar.cast(pa.string()).as_py()
    except pa.ArrowException:
        text = pa.scalar(scalar.value, pa.timestamp(unit, "UTC")).cast(pa.string()).as_py()
    return text
