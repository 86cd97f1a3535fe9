#!/usr/bin/env python3
"""Makes benches/recording.svg: types commands into a shell, in a terminal of its own, and draws what the terminal showed, and when.

    cargo build --features cli && benches/recording.py

The shell runs in an empty directory, with `atomic-file` from target/debug in its PATH."""
import html, os, pty, re, select, shutil, signal, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMANDS = """\
echo 'read n; echo $((${n:-0} + 1))' >add-one
# 8 processes add one to a file, 10 times each, all at once
(for i in $(seq 8); do (for j in $(seq 10); do atomic-file update count -- sh add-one; done) & done; wait)
cat count
# somebody keeps the lock: who is it?
atomic-file run count -- sleep 20 &
atomic-file locks
atomic-file --timeout 1 update count -- sh add-one
# a process that is killed leaves no lock behind
kill -9 $!
atomic-file update count -- sh add-one; cat count
# two files, changed together or not at all
echo red >a; echo red >b; atomic-file edit a b -- sed -i s/red/blue/; cat a b"""
PROMPT, COLUMNS, PAUSE = "$ ", 108, 1.2


class Screen:
    """What a terminal without an end shows: its lines, and when each of them was complete."""

    def __init__(self):
        self.shown, self.line, self.now = [], "", 0.0

    def write(self, text):
        text = text.replace("\r\n", "\n")
        for part in re.findall(r"\n|\r|\x1b\[[0-9;?]*[A-Za-z]|[^\n\r\x1b]+", text):
            if part == "\n":
                for start in range(0, max(len(self.line), 1), COLUMNS):
                    self.shown.append((self.line[start:start + COLUMNS], self.now))
                self.line = ""
            elif part == "\r":
                self.line = ""
            elif not part.startswith("\x1b"):
                self.line += part


def record(directory):
    """The lines that the shell's terminal showed, and how long it took."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        path = f"{ROOT}/target/debug:{os.environ['PATH']}"
        env = {"PATH": path, "PS1": PROMPT, "TERM": "dumb", "COLUMNS": "500", "LC_ALL": "C.UTF-8", "HISTFILE": ""}
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "+m"], env)
    screen, begin, idle = Screen(), time.monotonic(), 0.0

    def until_the_prompt():
        limit, pending = time.monotonic() + 60, b""
        while time.monotonic() < limit:
            if select.select([terminal], [], [], 0.3)[0]:
                pending += os.read(terminal, 65536)
                screen.now = time.monotonic() - begin + idle
                # A character or an escape sequence may be cut in two; a line never matters before its end.
                if pending.endswith((b"\n", PROMPT.encode())):
                    screen.write(pending.decode())
                    pending = b""
            elif screen.line == PROMPT:
                return
        raise TimeoutError("no prompt")

    until_the_prompt()
    for command in COMMANDS.splitlines():
        idle += 0.2 if command.startswith("#") else PAUSE  # for those who read
        os.write(terminal, command.encode() + b"\n")
        until_the_prompt()
    os.kill(pid, signal.SIGHUP)
    os.close(terminal)
    os.waitpid(pid, 0)
    return screen.shown, screen.now + 4 * PAUSE


def draw(shown, seconds, target):
    """An animation that begins again and again, and shows everything where animations are not played."""
    height = 18 * len(shown) + 26
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * 7.9 + 24:.0f} {height}" font-size="13" '
           'font-family="ui-monospace,Menlo,Consolas,monospace" fill="#d8dee9">',
           '<rect width="100%" height="100%" rx="6" fill="#1f242d"/>']
    for row, (text, at) in enumerate(shown):
        colour = ' fill="#8f9bb3"' if text.startswith("$ #") else ' fill="#a3e0a3"' if text.startswith("$ ") else ""
        svg.append(f'<text x="12" y="{18 * row + 26}" xml:space="preserve"{colour}>{html.escape(text)}'
                   f'<animate attributeName="opacity" calcMode="discrete" values="0;1" keyTimes="0;{at / seconds:.4f}" '
                   f'dur="{seconds:.1f}s" repeatCount="indefinite"/></text>')
    with open(target, "w") as file:
        file.write("\n".join(svg + ["</svg>\n"]))


if __name__ == "__main__":
    directory = tempfile.mkdtemp(prefix="demo-")
    try:
        draw(*record(directory), f"{ROOT}/benches/recording.svg")
    finally:
        shutil.rmtree(directory)
