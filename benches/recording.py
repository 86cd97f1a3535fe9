#!/usr/bin/env python3
"""Makes benches/recording.svg: types commands into a shell, in a terminal of its own, and draws what the terminal showed, and when.

    cargo build --features cli && benches/recording.py

The shell runs in an empty directory, with `atomic-file` from target/debug in its PATH."""
import codecs, fcntl, html, os, pty, re, select, shutil, signal, struct, tempfile, termios, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMANDS = """\
echo 'read n; echo $((${n:-0} + 1))' >add-one
# 8 processes add one to a file, 10 times each, all at once
(for i in $(seq 8); do (for j in $(seq 10); do atomic-file update count -- sh add-one; done) & done; wait)
cat count
# somebody keeps the lock: who is it?
atomic-file run count -- sleep 20 &
atomic-file locks
atomic-file --timeout 4 update count -- sh add-one
# a process that is killed leaves no lock behind
kill -9 $!
atomic-file update count -- sh add-one; cat count
# two files, changed together or not at all
echo red >a; echo red >b; atomic-file edit a b -- sed -i s/red/blue/; cat a b"""
PROMPT, COLUMNS, PAUSE = "$ ", 108, 1.2


class Screen:
    """What a terminal without an end shows: each line with its row, and the times when it comes and, if it is erased, goes."""

    def __init__(self):
        self.shown, self.row, self.line, self.since, self.now = [], 0, "", 0.0, 0.0
        self.decode, self.rest = codecs.getincrementaldecoder("utf-8")().decode, ""

    def write(self, data):
        text = self.rest + self.decode(data).replace("\r\n", "\n")
        self.rest = re.search(r"(\r|\x1b[^A-Za-z]*)?$", text)[0]  # of which the end is still to come
        text = text.removesuffix(self.rest) if self.rest else text
        for part in re.findall(r"\n|\r|\x1b\[[0-9;?]*[A-Za-z]|[^\n\r\x1b]+", text):
            if part == "\n":
                self.end_line(None)
            elif part == "\r" and self.line:
                self.end_line(self.now)
            elif part[0] not in "\r\x1b":
                self.since = self.since if self.line else self.now
                self.line += part

    def end_line(self, erased):
        for start in range(0, max(len(self.line), 1), COLUMNS) if erased != self.since else ():
            row = self.row + start // COLUMNS
            self.shown.append((row, self.line[start:start + COLUMNS].rstrip(), self.since if erased else self.now, erased))
        self.row, self.line = self.row if erased else row + 1, ""


def record(directory):
    """The lines that the shell's terminal showed, and how long it took."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        path = f"{ROOT}/target/debug:{os.environ['PATH']}"
        env = {"PATH": path, "PS1": PROMPT, "TERM": "xterm", "LC_ALL": "C.UTF-8", "HISTFILE": ""}
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting"], env)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, COLUMNS, 0, 0))
    screen, begin, idle = Screen(), time.monotonic(), 0.0

    def until_the_prompt():
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            if select.select([terminal], [], [], 0.3)[0]:
                data = os.read(terminal, 65536)
                screen.now = time.monotonic() - begin + idle
                screen.write(data)
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
    """An animation that begins again and again, and shows everything that stays where animations are not played."""
    height = 18 * max(row for row, *_ in shown) + 44
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * 7.9 + 24:.0f} {height}" font-size="13" '
           'font-family="ui-monospace,Menlo,Consolas,monospace" fill="#d8dee9">',
           '<rect width="100%" height="100%" rx="6" fill="#1f242d"/>']
    for row, text, comes, goes in shown:
        colour = "#8f9bb3" if text.startswith("$ #") else "#a3e0a3" if text.startswith("$ ") else "#e0c98f" if goes else "#d8dee9"
        values, times = ("0;1;0", f"0;{comes / seconds:.4f};{goes / seconds:.4f}") if goes else ("0;1", f"0;{comes / seconds:.4f}")
        svg.append(f'<text x="12" y="{18 * row + 26}" xml:space="preserve" fill="{colour}"{" opacity=%r" % "0" if goes else ""}>'
                   f'{html.escape(text, quote=False)}<animate attributeName="opacity" calcMode="discrete" values="{values}" '
                   f'keyTimes="{times}" dur="{seconds:.1f}s" repeatCount="indefinite"/></text>')
    with open(target, "w") as file:
        file.write("\n".join(svg + ["</svg>\n"]))


if __name__ == "__main__":
    directory = tempfile.mkdtemp(prefix="demo-")
    try:
        draw(*record(directory), f"{ROOT}/benches/recording.svg")
    finally:
        shutil.rmtree(directory)
