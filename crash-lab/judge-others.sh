#!/usr/bin/env bash
# Judges other programs by what they leave after a power cut, and prints a table in Markdown. It needs root, and
# installs nothing. If a program is missing, its name is printed and it is left out. Run it from the checkout.
#
#   crash-lab/judge-others.sh [NAME...]     all of them, or those whose first column contains one of the names
#
#   STATES=40                how many states of each recording are judged (crash-lab --states)
#   FS='ext4 xfs btrfs'      the file systems, each a column
#   KEEP=DIR                 keeps bad states there, and the reports as JSON
#   PYTHON=/usr/bin/python3  with the modules sqlite3, lmdb, atomicwrites (Debian: python3-lmdb, python3-atomicwrites)
#   NODE_PATH=...            where node finds write-file-atomic (Debian: /usr/share/nodejs; `npm install` makes node_modules)
#
# Every writer gets a value on standard input. It ends with status 0 if it, or the call that it makes, reports success.
set -euo pipefail
cd "$(dirname "$0")/.."

states=${STATES:-40}
read -ra file_systems <<<"${FS:-ext4 xfs btrfs}"
export PYTHON=${PYTHON:-/usr/bin/python3}
export NODE_PATH=${NODE_PATH:-/usr/share/nodejs}
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
target=${CARGO_TARGET_DIR:-target}
cargo build --quiet -p crash-lab
cargo build --quiet --features cli --bin atomic-file
export ATOMIC_FILE=$PWD/$target/debug/atomic-file
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Neither is on the file system under test.
export LOCKS=$work/locks SCRATCH=$work/scratch
keep=${KEEP:-$work/keep}
mkdir -p "$SCRATCH" "$keep"
names=("$@")

# One row: name, version, promise, then the command line of crash-lab.
row() {
    local name=$1 version=$2 promise=$3 cells='' fs
    shift 3
    if [ ${#names[@]} -gt 0 ]; then
        local wanted=
        for fs in "${names[@]}"; do [[ $name == *"$fs"* ]] && wanted=1; done
        [ "$wanted" ] || return 0
    fi
    if [ -z "$version" ]; then
        echo "left out, because it is not here: $name" >&2
        return 0
    fi
    for fs in "${file_systems[@]}"; do
        local of status=0
        of=$keep/$(tr -cs 'a-zA-Z0-9' - <<<"$name")$fs
        "$target/debug/crash-lab" --fs "$fs" --states "$states" --keep "$of" --json "$of.json" "$@" >"$of.txt" || status=$?
        if [ "$status" -gt 1 ]; then
            cells+=" could not be judged |"
        else
            cells+=" $("$PYTHON" -c '
import json, sys
total = json.load(open(sys.argv[1]))["total"]
print("{torn}, {lost}, {broken} of {states}".format(**total))' "$of.json") |"
        fi
    done
    echo "| $name | $version | $promise |$cells"
}

# The version of a program. Nothing if it is not installed.
of() {
    command -v "${1%% *}" >/dev/null && $1 2>/dev/null | grep -Eom1 '[0-9]+(\.[0-9]+)+(p[0-9]+)?' || true
}
python() { "$PYTHON" -c "$1" 2>/dev/null || true; }

coreutils=$(of 'cat --version')
sed=$(of 'sed --version')
sponge=$(command -v sponge >/dev/null && dpkg-query -Wf '${Version}' moreutils 2>/dev/null || true)
vim=$(command -v vim >/dev/null && vim --version | awk 'NR == 1 { v = $5 } /^Included patches/ { sub(/.*1-/, ""); sub(/[^0-9].*/, ""); print v "." $0; exit }')
sqlite=$(python 'import sqlite3; print(sqlite3.sqlite_version)')
lmdb=$(python 'import lmdb; print(".".join(map(str, lmdb.version())), f"(Python: {lmdb.__version__})")')
atomicwrites=$(python 'import atomicwrites; print(atomicwrites.__version__)')
wfa=$(command -v node >/dev/null && node -p 'require("write-file-atomic/package.json").version' 2>/dev/null || true)
git=$(of 'git --version')
ours=$("$ATOMIC_FILE" --version | cut -d' ' -f2)

# A commit is acknowledged when the call returns. The program ends there without closing the database, as if a longer
# program went on.
cat >"$work/sqlite-write.py" <<'PY'
import os, sqlite3, sys
path, journal, synchronous = sys.argv[1:]
new = sys.stdin.read()
db = sqlite3.connect(path, isolation_level=None)
db.execute(f"pragma journal_mode={journal}")
db.execute(f"pragma synchronous={synchronous}")
db.execute("begin immediate")
db.execute("create table if not exists t (id integer primary key, v text)")
db.execute("insert or replace into t values (1, ?)", (new,))
db.execute("commit")
os._exit(0)
PY
cat >"$work/sqlite-read.py" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
sys.stdout.write(db.execute("select v from t where id = 1").fetchone()[0])
PY
cat >"$work/lmdb-write.py" <<'PY'
import lmdb, os, sys
new = sys.stdin.buffer.read()
with lmdb.open(sys.argv[1], map_size=4 << 20).begin(write=True) as transaction:
    transaction.put(b"key", new)
os._exit(0)
PY
cat >"$work/lmdb-read.py" <<'PY'
import lmdb, sys
with lmdb.open(sys.argv[1], map_size=4 << 20).begin() as transaction:
    sys.stdout.buffer.write(transaction.get(b"key"))
PY
cat >"$work/atomicwrites-write.py" <<'PY'
import sys
from atomicwrites import atomic_write
with atomic_write(sys.argv[1], overwrite=True) as file:
    file.write(sys.stdin.read())
PY
# By default vim makes no backup of files below /tmp, where this is mounted ('backupskip').
cat >"$work/vim.sh" <<'SH'
new=$(mktemp -p "$SCRATCH") && cat >"$new" && vim -N -u NONE -i NONE --cmd 'set backupskip=' -es -c '%d' -c "0r $new" -c 'wq!' "$1" && rm "$new"
SH
# The first line of a value is its length.
cat >"$work/vim-read.sh" <<'SH'
for file in "$1" "$1~"; do
    if [ -e "$file" ] && [ "$(sed -n '1s/^version [0-9]*, \([0-9]*\) bytes$/\1/p' "$file")" = "$(wc -c <"$file")" ]; then
        exec cat "$file"
    fi
done
exit 1
SH

{
    printf '| writer | version | promises |'; printf ' %s |' "${file_systems[@]}"
    printf '\n|---|---|---|'; printf -- '--:|%.0s' "${file_systems[@]}"; echo
}

row '`cat > {path}`' "$coreutils" 'nothing' 'cat > {path}'
row '`cp NEW {path}`' "$coreutils" 'nothing' 'cp /dev/stdin {path}'
row '`mv` without a sync' "$coreutils" 'nothing' 'cat > {path}.new && mv {path}.new {path}'
row '`mv` after `sync NEW`' "$coreutils" 'nothing' 'cat > {path}.new && sync {path}.new && mv {path}.new {path}'
row '`mv` after `sync NEW`, then `sync {dir}`' "$coreutils" 'nothing' \
    'cat > {path}.new && sync {path}.new && mv {path}.new {path} && sync {dir}'
row 'GNU `sed -i`' "$sed" 'nothing' --prepare 'cat > {path}' "sed -i -e '1r /dev/stdin' -e d {path}"
row '`sponge`, `TMPDIR` elsewhere' "$sponge" 'nothing' 'sponge {path}'
row '`sponge`, `TMPDIR` in the directory' "$sponge" 'atomic by renaming' 'TMPDIR={dir} sponge {path}'
row 'vim' "$vim" "fsync ('fsync'); the old file as a backup until then ('writebackup')" "sh $work/vim.sh {path}"
row 'vim, and a person who takes `file~` where `file` is not whole' "$vim" 'likewise' --prepare 'cat > {path}' \
    --read "sh $work/vim-read.sh {path}" "sh $work/vim.sh {path}"
row 'Python `atomicwrites`' "$atomicwrites" 'atomic; syncs the file and the directory' "\$PYTHON $work/atomicwrites-write.py {path}"
row 'npm `write-file-atomic`' "$wfa" 'atomic; syncs the file' \
    "node -e 'require(\"write-file-atomic\").sync(process.argv[1], require(\"fs\").readFileSync(0))' {path}"

for pragmas in 'delete full' 'delete extra' 'wal normal' 'wal full'; do
    case $pragmas in
        'delete full') promise='consistent; durable, but for a commit that is closely followed by the power cut' ;;
        'wal normal') promise='consistent; not durable' ;;
        *) promise='consistent and durable' ;;
    esac
    row "SQLite, \`journal_mode=${pragmas% *}\`, \`synchronous=${pragmas#* }\`" "$sqlite" "$promise" \
        --prepare "\$PYTHON $work/sqlite-write.py {dir}/db $pragmas" --read "\$PYTHON $work/sqlite-read.py {dir}/db" \
        "\$PYTHON $work/sqlite-write.py {dir}/db $pragmas"
done
row 'LMDB' "$lmdb" 'consistent and durable' --prepare "\$PYTHON $work/lmdb-write.py {dir}/db" \
    --read "\$PYTHON $work/lmdb-read.py {dir}/db" "\$PYTHON $work/lmdb-write.py {dir}/db"

for fsync in default all; do
    init='git init -q {dir} && cd {dir} && git config gc.auto 0'
    promise='references and loose objects may be lost'
    promise_add='the index and loose objects may be lost'
    if [ $fsync = all ]; then
        init+=' && git config core.fsync all'
        promise='objects and references are hardened' promise_add='objects and index are hardened'
    fi
    update='git update-ref refs/test/value $(git hash-object -w --stdin)'
    row "git: \`hash-object\`, \`update-ref\`, \`core.fsync\` $fsync" "$git" "$promise" \
        --prepare "$init && $update" --read 'git -C {dir} cat-file blob refs/test/value' "cd {dir} && $update"
    row "git: \`add\`, \`core.fsync\` $fsync" "$git" "$promise_add" \
        --prepare "$init && cat > file && git add file" --read 'git -C {dir} cat-file blob :file' \
        'cd {dir} && cat > file && git add file'
done

row 'ours: `atomic-file write --durability ordered`' "$ours" 'old or new, whole; not durable' \
    '$ATOMIC_FILE --lock-dir $LOCKS --durability ordered write {path}'
row 'ours: `atomic-file write`' "$ours" 'old or new, whole; durable' '$ATOMIC_FILE --lock-dir $LOCKS write {path}'
printf '\nEach cell: torn, lost, broken of how many states. Linux %s, %s, %s states of each recording.\n' \
    "$(uname -r)" "$(date -I)" "$states"
