#!/bin/sh
# Run the tests: `run.sh PYTHON [pytest's arguments]`. Files run side by side, two at a time unless JOBS says otherwise;
# then, one after the other, the tests that look at the whole machine and must have it to themselves.
py=$1
shift
"$py" -m pytest -n "${JOBS:-2}" --dist loadfile -m "not alone" "$@"
side=$?
# 5: no test was selected, which is a failure only when it is so twice.
[ $side -eq 0 ] || [ $side -eq 5 ] || exit $side
"$py" -m pytest -m alone "$@"
alone=$?
[ $alone -eq 5 ] && exit $side
exit $alone
