"""What a statement settles: the verdicts of netfilter, as the evaluator passes them around."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

__all__ = ["ACCEPT", "CONTINUE", "DROP", "RETURN", "UNSETTLED", "Code", "Ruling"]


class Code(IntEnum):
    """Kinds of ruling. UNSETTLED: a statement that nettrace does not model may have decided."""

    ACCEPT = 0
    DROP = 1
    REJECT = 2
    STOLEN = 3
    RETURN = 4
    CONTINUE = 5
    JUMP = 6
    GOTO = 7
    UNSETTLED = 8


class Ruling:
    """One verdict. `detail` is the reject type or the taker; `key` finds the chain of a jump in `chains`."""

    __slots__ = ("_chain", "chains", "code", "detail", "effect", "key")

    def __init__(
        self, code: Code, *, detail: str = "", effect: str = "", chains: dict[Any, Any] | None = None, key: Any = None
    ) -> None:
        self.code = code
        self.detail = detail
        self.effect = effect
        self.chains = chains
        self.key = key
        self._chain: Any = None

    @property
    def chain(self) -> Any:
        """The compiled chain that a jump leads to."""
        if self._chain is None and self.chains is not None:
            self._chain = self.chains[self.key]
        return self._chain

    def __repr__(self) -> str:
        return f"Ruling({self.code.name}, {self.effect!r})"


ACCEPT: Final = Ruling(Code.ACCEPT, effect="accept")
DROP: Final = Ruling(Code.DROP, effect="drop")
RETURN: Final = Ruling(Code.RETURN, effect="return")
CONTINUE: Final = Ruling(Code.CONTINUE, effect="continue")
UNSETTLED: Final = Ruling(Code.UNSETTLED, effect="unknown")
