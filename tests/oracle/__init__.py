"""The kernel as judge: random rulesets and packets in throw-away namespaces, compared with the evaluator.

    run(cases, seed)                    random iptables rulesets of both backends; returns a Report
    judge(rig, case, load, report)      one case of any language, given how to load it

`python -m tests.oracle --cases 500` runs it from the command line, with `routes` and `topology` too; root only.
"""

from tests.oracle.judge import Refused, Report, judge, load_xt, random_cases, run
from tests.oracle.xt_grammar import Case, Grammar

__all__ = ["Case", "Grammar", "Refused", "Report", "judge", "load_xt", "random_cases", "run"]
