"""A worker that says what its arguments say, by sd_notify without a library."""

import array
import os
import signal
import socket
import sys

ADDRESS = os.environ["NOTIFY_SOCKET"]


def say(text, fds=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        s.sendmsg([text.encode()], rights, 0, ADDRESS)


def barrier():
    r, w = os.pipe()
    say("BARRIER=1", [w])
    os.close(w)
    os.read(r, 1)  # ends when everything before was handled
    os.close(r)


def stored():
    """The descriptor called "state" that an earlier start has left, or a new one."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if os.environ.get("LISTEN_FDS") and int(os.environ["LISTEN_PID"]) == os.getpid() and "state" in names:
        return 3 + names.index("state")
    fd = os.memfd_create("state")
    say("FDSTORE=1\nFDNAME=state", [fd])
    return fd


def generation():
    fd = stored()
    n = int(os.pread(fd, 10, 0) or b"0") + 1
    os.pwrite(fd, b"%d" % n, 0)
    print("generation", n, flush=True)


def keep():
    """Leaves the end of a FIFO with the supervisor, and with nobody else."""
    generation()
    if "pipe" in os.environ.get("LISTEN_FDNAMES", "").split(":"):
        return
    fd = os.open(sys.argv[2], os.O_WRONLY)
    say("FDSTORE=1\nFDNAME=pipe", [fd])
    os.close(fd)


def count():
    """Done is what the file says, as soon as there is one."""
    say("READY=1")
    while not os.path.exists(sys.argv[2]):
        signal.sigtimedwait([signal.SIGUSR1], 0.02)
    say("X_PITVISOR_COUNT=1000")


def daemonise():
    r, w = os.pipe()
    if os.fork():
        os.close(w)
        os.read(r, 1)
        os._exit(0)
    os.close(r)
    say("MAINPID=%d\nREADY=1\nSTATUS=on my own" % os.getpid())
    barrier()
    os.close(w)


def leave():
    say("READY=1")
    while not os.path.exists(sys.argv[2]):
        signal.sigtimedwait([signal.SIGUSR1], 0.02)
    os.unlink(sys.argv[2])
    say("STOPPING=1\nSTATUS=enough")
    sys.exit(0)


def reload():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGUSR1])
    say("READY=1")
    signal.sigwait([signal.SIGHUP])
    say("RELOADING=1\nMONOTONIC_USEC=1\nSTATUS=reading\nERRNO=2")
    signal.sigwait([signal.SIGUSR1])
    say("READY=1\nSTATUS=read")


def slow():
    """Needs longer than it has, and says so."""
    for _ in range(10):
        say("EXTEND_TIMEOUT_USEC=60000000")
        signal.sigtimedwait([signal.SIGUSR1], 0.5)
    say("READY=1")


{"generation": generation, "keep": keep, "count": count, "daemonise": daemonise, "leave": leave, "reload": reload, "slow": slow}[sys.argv[1]]()
if sys.argv[1] in ("generation", "keep"):
    say("READY=1")
while True:
    signal.pause()
