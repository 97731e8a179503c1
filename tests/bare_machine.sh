#!/bin/sh
# A fresh clone on a bare Debian: do the two commands work with only what apt and the language registries give?
#
#   tests/bare_machine.sh bookworm setup      set up, and once more (which must do nothing)
#   tests/bare_machine.sh trixie up           `./wirepool up` until the page answers, Ctrl-C, nothing left running
#   tests/bare_machine.sh trixie quick        `./wirepool test --quick`
#   tests/bare_machine.sh trixie test         `./wirepool test`
#   tests/bare_machine.sh trixie shell        look around
#
# Needs root and debootstrap. The machine is a chroot in mount and process namespaces of its own, so that nothing can
# outlive the run; it uses this host's network and is told of this host's proxies, mirrors and certificates, whatever
# they are. What is committed (HEAD) is what runs. Trees are made once per suite and kept under $BARE_MACHINES.
set -eu

suite=${1:?which suite: bookworm, trixie, …}
what=${2:-setup}
checkout=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
kept=${BARE_MACHINES:-${TMPDIR:-/tmp}/bare-machines}
pristine=$kept/$suite.pristine
machine=$kept/$suite.$$

[ "$(id -u)" = 0 ] || { echo "bare_machine: needs root" >&2; exit 1; }
mkdir -p "$kept"
trap 'rm -rf --one-file-system "$machine"' EXIT
trap 'exit 130' INT TERM

if [ ! -e "$pristine/.complete" ]; then
    echo "── debootstrap $suite"
    rm -rf "$pristine"
    debootstrap --variant=minbase "$suite" "$pristine" >"$kept/$suite.log" 2>&1 || { tail "$kept/$suite.log"; exit 1; }
    touch "$pristine/.complete"
fi
cp -a --reflink=auto "$pristine" "$machine"

# How this host reaches its registries: configuration is copied as it stands, never spelled out here.
cp -L /etc/resolv.conf "$machine/etc/resolv.conf"
cp -L /etc/hosts "$machine/etc/hosts"
apt-config dump Acquire | grep -E '^Acquire::[A-Za-z:-]+ ".+";$' >"$machine/etc/apt/apt.conf.d/90of-the-host" || true
for file in /etc/pip.conf /root/.config/pip/pip.conf /root/.pip/pip.conf /root/.config/go/env; do
    [ ! -f "$file" ] || { mkdir -p "$machine$(dirname "$file")" && cp -L "$file" "$machine$file"; }
done
if [ -d /usr/local/share/ca-certificates ]; then
    mkdir -p "$machine/usr/local/share/ca-certificates"
    cp -r /usr/local/share/ca-certificates/. "$machine/usr/local/share/ca-certificates/"
fi
git clone -q "$checkout" "$machine/opt/wirepool"

cat >"$machine/run-it" <<'INSIDE'
#!/bin/sh
set -eu
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null || mount -t tmpfs tmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/lock
export HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /opt/wirepool

timed() {
    began=$(date +%s)
    echo "── $*"
    status=0
    "$@" </dev/null || status=$?
    echo "── $* : exit $status after $(($(date +%s) - began)) s"
    return "$status"
}

others() { # every process here but this shell, its child and the first
    for directory in /proc/[0-9]*; do
        pid=${directory#/proc/}
        [ "$pid" = 1 ] || [ "$pid" = $$ ] || [ ! -s "$directory/cmdline" ] || {
            printf '%s ' "$pid"
            tr '\0' ' ' <"$directory/cmdline"
            echo
        }
    done 2>/dev/null | grep -vE ' (sh|tr|grep) ' || true
}

case $1 in
    setup)
        timed ./wirepool setup
        timed ./wirepool setup
        ;;
    up)
        timed ./wirepool setup
        echo "── ./wirepool up"
        began=$(date +%s)
        ./wirepool up >/tmp/up.log 2>&1 </dev/null &
        up=$!
        address=''
        while [ -z "$address" ]; do
            kill -0 "$up" 2>/dev/null || { cat /tmp/up.log; echo "FAILED: up ended by itself"; exit 1; }
            [ $(($(date +%s) - began)) -lt 60 ] || { cat /tmp/up.log; echo "FAILED: no page within 60 s"; exit 1; }
            sleep 0.2
            page=$(grep -oE 'https://[^ ]+' /tmp/up.log | head -n 1 || true)
            [ -z "$page" ] || ! .venv/bin/python - "$page" <<'ASK' || address=$page
import ssl, sys, urllib.error, urllib.request
context = ssl._create_unverified_context()
try:
    asked = urllib.request.Request(sys.argv[1], headers={"Accept": "text/html"})
    with urllib.request.urlopen(asked, timeout=5, context=context) as answer:
        sys.exit(not (answer.status == 200 and b"<html" in answer.read().lower()))
except OSError:
    sys.exit(1)
ASK
        done
        cat /tmp/up.log
        echo "── the page answers at $address after $(($(date +%s) - began)) s"
        # Ctrl-C: SIGINT. A shell starts background commands with SIGINT ignored, so that `up` must set its own handler.
        kill -INT "$up"
        status=0
        wait "$up" || status=$?
        tail -n 5 /tmp/up.log
        echo "── up ended with $status"
        [ "$status" = 0 ] || [ "$status" = 130 ] || exit 1
        left=$(others)
        [ -z "$left" ] || { echo "FAILED: left running:"; echo "$left"; exit 1; }
        echo "── nothing left running"
        ;;
    quick) timed ./wirepool test --quick ;;
    test) timed .ci/run ;;
    shell) exec sh ;;
    *) echo "bare_machine: setup, up, quick, test or shell" >&2; exit 2 ;;
esac
INSIDE
chmod +x "$machine/run-it"

# Names of settings, not their values; nothing else of this host's environment gets in.
settings=$(env | grep -E '^(https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|PIP_(INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT)|GO(PROXY|SUMDB|NOSUMDB|FLAGS|PRIVATE)|CI)=' || true)
# The root is made a mount point, since `ip netns exec` insists on one.
# shellcheck disable=SC2086,SC2016  # one word per setting; expanded by the inner shell
env -i PATH="$PATH" TERM="${TERM:-dumb}" $settings \
    unshare --mount --pid --fork --kill-child \
    sh -c 'mount --bind "$0" "$0" && exec chroot "$0" /run-it "$1"' "$machine" "$what"
