"""Membership of a value in many items at once: exact values by hash, prefixes by mask, ranges by bisection."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from nettrace.netfilter.ruleset import Item, Masked, Range, Wildcard

__all__ = ["Member", "fits", "member_of", "table_of"]

Member: TypeAlias = Callable[[Any], bool]


def fits(item: Item, value: Any) -> bool:
    """Tell whether one value (a tuple for concatenations) fits one item."""
    if isinstance(item, Masked):
        return bool(value & item.mask == item.value)
    if isinstance(item, Range):
        return bool(item.low <= value <= item.high)
    if isinstance(item, Wildcard):
        return bool(value.startswith(item.prefix))
    if isinstance(item, tuple):
        return len(item) == len(value) and all(map(fits, item, value))
    return bool(item == value)


def _is_plain(item: Item) -> bool:
    if isinstance(item, tuple):
        return all(_is_plain(part) for part in item)
    return isinstance(item, (int, str))


def member_of(items: Iterable[Item]) -> Member:
    """Return the function that tells whether a value fits one of the items, in less than linear time where it can."""
    exact: set[Any] = set()
    masks: dict[int, set[int]] = {}
    ranges: list[tuple[int, int]] = []
    rest: list[Item] = []
    for item in items:
        if _is_plain(item):
            exact.add(item)
        elif isinstance(item, Masked):
            masks.setdefault(item.mask, set()).add(item.value)
        elif isinstance(item, Range):
            ranges.append((item.low, item.high))
        else:
            rest.append(item)
    tests: list[Member] = []
    if exact:
        frozen = frozenset(exact)
        tests.append(lambda value: value in frozen)
    if masks:
        pairs = tuple((mask, frozenset(values)) for mask, values in masks.items())
        tests.append(lambda value: any(value & mask in values for mask, values in pairs))
    if ranges:
        tests.append(_in_ranges(ranges))
    if rest:
        others = tuple(rest)
        tests.append(lambda value: any(fits(item, value) for item in others))
    if not tests:
        return lambda _value: False
    if len(tests) == 1:
        return tests[0]
    return lambda value: any(test(value) for test in tests)


def _in_ranges(ranges: list[tuple[int, int]]) -> Member:
    merged: list[list[int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    if len(merged) == 1:
        low, high = merged[0]
        return lambda value: low <= value <= high
    lows = [low for low, _high in merged]
    highs = [high for _low, high in merged]

    def test(value: Any) -> bool:
        at = bisect_right(lows, value) - 1
        return at >= 0 and bool(value <= highs[at])

    return test


def table_of(entries: tuple[tuple[Item, Any], ...]) -> Callable[[Any], Any]:
    """Return the function that gives the value of a map for a key, None when the key is not in it."""
    exact: dict[Any, Any] = {}
    rest: list[tuple[Item, Any]] = []
    for item, value in entries:
        if _is_plain(item):
            exact.setdefault(item, value)
        else:
            rest.append((item, value))
    others = tuple(rest)

    def find(key: Any) -> Any:
        found = exact.get(key)
        if found is not None or not others:
            return found
        return next((value for item, value in others if fits(item, key)), None)

    return find
