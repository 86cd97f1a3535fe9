#!/usr/bin/env bash
# Counts the system calls of one operation, ours and the peers', with strace. It subtracts the calls of N operations
# from those of 2N and divides by N, which leaves out the calls that are made once. The result is rounded, because a
# start takes a few calls more or less, depending on addresses in memory.
set -euo pipefail
cd "$(dirname "$0")/.."

n=100
speed=$(cargo bench --quiet --no-run --bench speed --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
log=$(mktemp)
trap 'rm -f "$log"' EXIT

calls() { # contest, way, how often
    strace -f -c -U calls,name -o "$log" "$speed" repeat "$@"
    awk '$2 == "total" { print $1 }' "$log"
}

echo '| | system calls |'
echo '|---|--:|'
while IFS='|' read -r contest way; do
    once=$(calls "$contest" "$way" $n)
    twice=$(calls "$contest" "$way" $((2 * n)))
    awk -v name="$contest: $way" -v calls=$((twice - once)) -v n=$n 'BEGIN { printf "| %s | %.0f |\n", name, calls / n }'
done <<'END'
write|bare sequence
write|bare sequence + two fcntl
write|ours, handle
write|ours, by path
write|tempfile
write|atomic-write-file
write|fs4 + tempfile
write|atomicwrites
write|Python reference
read|std::fs::read
read|ours, handle
read|ours, by path
read|fs4 + std::fs::read
read|Python reference
update|fs4 + tempfile
update|ours, handle
update|ours, by path
lock and unlock|two fcntl calls
lock and unlock|ours, handle
END
