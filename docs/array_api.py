"""Writes docs/array-api.md: for each name of the Python array API standard whether it is there, and what differs.

In: the standard's names, listed here from its version 2024.12 (data-apis.org/array-api/2024.12), and graphc itself, which
is asked. Out: the page. Run `python docs/array_api.py`; tests compare the page with `page()`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

VERSION = "2024.12"

SECTIONS: dict[str, str] = {
    "Constants": "e inf nan newaxis pi",
    "Data types": "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128",
    "Data type functions": "astype can_cast finfo iinfo isdtype result_type",
    "Creation functions": "arange asarray empty empty_like eye from_dlpack full full_like linspace meshgrid ones ones_like "
    "tril triu zeros zeros_like",
    "Elementwise functions": "abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_invert "
    "bitwise_or bitwise_right_shift bitwise_xor ceil clip conj copysign cos cosh divide equal exp expm1 floor floor_divide "
    "greater greater_equal hypot imag isfinite isinf isnan less less_equal log log1p log2 log10 logaddexp logical_and "
    "logical_not logical_or logical_xor maximum minimum multiply negative nextafter not_equal positive pow real reciprocal "
    "remainder round sign signbit sin sinh square sqrt subtract tan tanh trunc",
    "Indexing functions": "take take_along_axis",
    "Linear algebra functions": "matmul matrix_transpose tensordot vecdot",
    "Manipulation functions": "broadcast_arrays broadcast_to concat expand_dims flip moveaxis permute_dims repeat reshape "
    "roll squeeze stack tile unstack",
    "Searching functions": "argmax argmin count_nonzero nonzero searchsorted where",
    "Set functions": "unique_all unique_counts unique_inverse unique_values",
    "Sorting functions": "argsort sort",
    "Statistical functions": "cumulative_prod cumulative_sum max mean min prod std sum var",
    "Utility functions": "all any diff",
    "Inspection": "__array_namespace_info__ capabilities default_device default_dtypes devices dtypes",
    "Version": "__array_api_version__",
    "Array: attributes": "dtype device mT ndim shape size T",
    "Array: operators and methods": "__abs__ __add__ __and__ __array_namespace__ __bool__ __complex__ __dlpack__ "
    "__dlpack_device__ __eq__ __float__ __floordiv__ __ge__ __getitem__ __gt__ __index__ __int__ __invert__ __le__ __lshift__ "
    "__lt__ __matmul__ __mod__ __mul__ __ne__ __neg__ __or__ __pos__ __pow__ __rshift__ __setitem__ __sub__ __truediv__ "
    "__xor__ __iadd__ __radd__ to_device",
    "Extension linalg": "cholesky cross det diagonal eigh eigvalsh inv matmul matrix_norm matrix_power matrix_rank "
    "matrix_transpose outer pinv qr slogdet solve svd svdvals tensordot trace vecdot vector_norm",
    "Extension fft": "fft ifft fftn ifftn rfft irfft rfftn irfftn hfft ihfft fftfreq rfftfreq fftshift ifftshift",
}

_SHAPE = "the result's shape depends on the numbers; raises `TraceError` and says what to use"
_NUMBERS = "raises `TraceError`: there are no numbers while a function is traced"

# Names that only raise an error, and why.
REFUSED: dict[str, str] = {
    **dict.fromkeys(("nonzero", *SECTIONS["Set functions"].split()), _SHAPE),
    **dict.fromkeys(("__bool__", "__complex__", "__float__", "__index__", "__int__"), _NUMBERS),
    **dict.fromkeys(("__dlpack__", "__dlpack_device__"), _NUMBERS),
    "to_device": "raises `TraceError`: a graph is compiled for a target",
    "__setitem__": "raises `TraceError`: values don't change in place; `x.at[index].add(values)` gives a new one",
}

# Why a name is not there; one without a reason is an error.
MISSING: dict[str, str] = {
    **dict.fromkeys(SECTIONS["Data types"].split(), "no data type of graphs"),
    **dict.fromkeys(("complex64", "complex128"), "graphs have real numbers only"),
    **dict.fromkeys(SECTIONS["Extension linalg"].split(), "not written"),
    **dict.fromkeys(SECTIONS["Extension fft"].split(), "there is no complex type"),
    "device": "a graph is compiled for a target; a traced array lies nowhere",
    "trace": "`graphc.trace` traces functions; `numpy.trace` works on traced arrays",
}

# There, but not to the letter.
DIFFERS: dict[str, str] = {
    "__iadd__": "as all operators in place: `x += y` binds a new value",
    "__radd__": "as all reflected operators",
    "__pow__": "integers by Python integers of at least 0 only",
    "pow": "integers by Python integers of at least 0 only",
    "__getitem__": "a mask must be a constant, an index beyond the end reads 0 where it is traced",
    "take": "a traced index out of range reads 0",
    "take_along_axis": "a traced index out of range reads 0",
    "arange": "arguments are Python numbers",
    "linspace": "arguments are Python numbers",
    "astype": "`copy` means nothing",
    "asarray": "`copy` means nothing",
    "reshape": "`copy` means nothing",
    "empty": "zeros",
    "empty_like": "zeros",
    "from_dlpack": "a constant, copied",
    "conj": "the operand",
    "real": "the operand",
    "imag": "zeros",
    "signbit": "false of NaN",
    "copysign": "a NaN as sign counts as positive",
    "nextafter": "no derivative",
    "argsort": "always stable; NaN counts as the greatest number; positions are i32",
    "sort": "always stable; NaN counts as the greatest number",
    "argmax": "positions are i32",
    "argmin": "positions are i32",
    "count_nonzero": "i32",
    "searchsorted": "positions are i32",
    "sum": "u8 and bool are summed as i32, other types stay",
    "prod": "u8 and bool are multiplied as i32, other types stay",
    "cumulative_sum": "without an axis along the first one; as `sum`",
    "cumulative_prod": "without an axis along the first one; as `prod`",
    "default_dtypes": "f32 and i32; complex: None",
    "default_device": "None",
    "devices": "`[None]`",
    "capabilities": "no boolean indexing by traced masks, no data-dependent shapes",
    "where": "a number as condition is true where it is not 0",
    "expand_dims": "several axes too",
    "permute_dims": "without axes all of them reversed",
}

_HEAD = f"""# The array API standard

Generated by `python docs/array_api.py`: do not edit.

The names of the [Python array API standard](https://data-apis.org/array-api/{VERSION}/) {VERSION}, and which of them graphc
has: {{there}} of {{all}}. Functions are `graphc.<name>`; `graphc.array_api` has them with constants and data types under the
standard's names, and is what `x.__array_namespace__()` gives for a traced array.

Of all functions: no `device` argument, since a graph is compiled for a target; the default types are f32 and i32, in which
integers and bools become floats where a function gives floats; mixed kinds promote as in NumPy ([ir.md](ir.md)). The
standard's own test suite can't run, since a traced array has no numbers that it could look at: tests compare each function
with NumPy instead, as interpreted graphs.
"""


def page() -> str:
    """The whole page as Markdown."""
    lines: list[str] = []
    there = count = 0
    for title, names in SECTIONS.items():
        lines += ["", f"## {title}", "", "| name | graphc | what differs, or why |", "|---|---|---|"]
        for name in names.split():
            found, note = status(title, name)
            count += 1
            there += found
            lines.append(f"| `{name}` | {'there' if found else 'not there'} | {note} |")
    return _HEAD.format(there=there, all=count) + "\n".join(lines) + "\n"


def status(section: str, name: str) -> tuple[bool, str]:
    """Whether graphc has a name, and what there is to say about it."""
    if name in REFUSED:
        return False, REFUSED[name]
    found = _has(section, name)
    return found, DIFFERS.get(name, "") if found else MISSING[name]


def _has(section: str, name: str) -> bool:
    api = import_module("graphc.frontend.array_api")
    if section.startswith("Array"):
        array = import_module("graphc.frontend.array").Array
        return hasattr(array, name.replace("__iadd__", "__add__"))  # Python makes x = x + y of x += y
    if section == "Inspection" and not name.startswith("__"):
        return hasattr(api.Info, name)
    if section.startswith("Extension"):
        extension = getattr(import_module("graphc"), section.split()[1], None)
        return hasattr(extension, name) or name in api.NAMES
    return hasattr(api, name)


if __name__ == "__main__":
    (Path(__file__).resolve().parent / "array-api.md").write_text(page(), encoding="utf-8")
