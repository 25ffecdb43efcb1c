"""Names that C and C++ code can have for what graphc makes.

In: any names. Out: identifiers that are no keywords, no usual macros, and all different.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# of C11, C++20 and C23, alternative tokens included
_KEYWORDS = _words("""
    auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    alignas alignof and and_eq asm bitand bitor bool catch char8_t char16_t char32_t class co_await co_return co_yield
    compl concept const_cast consteval constexpr constinit decltype delete dynamic_cast explicit export false friend
    mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public reinterpret_cast
    requires static_assert static_cast template this thread_local throw true try typeid typename typeof typeof_unqual
    using virtual wchar_t xor xor_eq
""")
# macros of common compilers and headers, and what a header of ours uses itself
_TAKEN = _words("""
    linux unix i386 far near small interface errno assert stdin stdout stderr NULL EOF I complex imaginary workspace
    context int8_t uint8_t int32_t uint32_t int64_t uint64_t size_t uintptr_t
""")
# functions that compilers know, or that a program can't have twice; those of <math.h> end in f and l too
_MATH = _words("""
    acos asin atan atan2 cos sin tan acosh asinh atanh cosh sinh tanh exp exp2 expm1 frexp ilogb ldexp log log10 log1p
    log2 logb modf scalbn scalbln cbrt fabs hypot pow sqrt erf erfc lgamma tgamma ceil floor nearbyint rint lrint llrint
    round lround llround trunc fmod remainder remquo copysign nan nextafter nexttoward fdim fmax fmin fma gamma j0 j1 y0
    y1
""")
_FUNCTIONS = _words("""
    main abort abs atexit atof atoi atol bsearch calloc div exit free getenv labs ldiv malloc qsort rand realloc srand
    strtod strtol system memchr memcmp memcpy memmove memset strcat strchr strcmp strcpy strlen strncpy strstr strtok
    fclose fopen fprintf fread fseek fwrite getc getchar gets perror printf putc putchar puts remove rename rewind scanf
    signal raise setjmp longjmp clock time alloca index bcmp bcopy bzero ffs isalpha isdigit islower isupper tolower
    toupper read write open close fork pipe link send recv accept bind connect listen select poll kill wait sleep
""")


def is_c_name(name: str) -> bool:
    """True if C and C++ code can call something of its own by this name.

    >>> is_c_name("train_step"), is_c_name("new"), is_c_name("2d"), is_c_name("größe"), is_c_name("expf")
    (True, False, False, False, False)
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name:
        return False
    known = _KEYWORDS | _TAKEN | _FUNCTIONS | _MATH
    return name not in known and not (name[-1] in "fl" and name[:-1] in _MATH)


def c_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """The names as identifiers of C and C++, all different, and different from those that are `taken`.

    They differ without regard to case too, since macros are made of them.

    >>> c_names(["layers.0.weight", "layers_0_weight", "new", "0", "X", "x"])
    ['layers_0_weight', 'layers_0_weight_2', 'new_', 'x0', 'X', 'x_2']
    """
    used = {name.lower() for name in taken}
    found: list[str] = []
    for name in names:
        text = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", name)).strip("_") or "x"
        text = f"x{text}" if text[0].isdigit() else text
        text = f"{text}_" if text in _KEYWORDS or text in _TAKEN else text
        candidate, count = text, 1
        while candidate.lower() in used:
            count += 1
            candidate = f"{text.rstrip('_')}_{count}"
        used.add(candidate.lower())
        found.append(candidate)
    return found
