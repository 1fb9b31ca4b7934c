"""The README's table of faults, generated from the rules' own documentation.

`python -m tests.readme` writes it anew; a test compares it with what would be written.
"""

from __future__ import annotations

from pathlib import Path

from nettrace.commands.explain import parse_doc
from nettrace.rules import RULES

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- made by `make readme` from the rules; do not edit -->\n"
END = "<!-- end of what `make readme` makes -->\n"


def table() -> str:
    """Return one row a rule: its code, and what it reports in a sentence; what does not block is marked."""
    rows = []
    for rule in RULES:
        mark = "" if rule.severity.value == "blocking" else f" *{rule.severity.value}*"
        title = parse_doc(rule.doc).title.replace("|", "\\|")
        rows.append(f"| `{rule.code}`{mark} | {title} |\n")
    return "| code | what is wrong |\n| --- | --- |\n" + "".join(rows)


def readme_text(text: str) -> str:
    """Return the README with the table as it must be; raises ValueError where its place is not marked."""
    before, begin, rest = text.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    README.write_text(readme_text(README.read_text()))
    print("wrote README.md")


if __name__ == "__main__":
    main()
