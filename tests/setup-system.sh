#!/bin/sh
# Makes sure that the machine has what nettrace is built and tested with; quick when it has.
#
#   setup-system.sh python   prints a Python 3.11 or newer that can make virtual environments
#   setup-system.sh all      the programs that throw-away hosts are made of
#
# As root on Debian, what is missing is installed. Otherwise it is named, in a line to paste: for `python` that is an
# error; for `all` it is not, since without root the tests that need these programs are skipped.
set -eu

PATH=$PATH:/usr/sbin:/sbin
POLICY=/usr/sbin/policy-rc.d
MARK='# nettrace: no service starts while its packages are installed'

say() { printf 'setup: %s\n' "$*" >&2; }

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3 /usr/bin/python3; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

has_libpcap() {
    for file in /usr/lib/*/libpcap.so.* /usr/lib/libpcap.so.* /usr/lib64/libpcap.so.*; do
        [ -e "$file" ] && return 0
    done
    return 1
}

has_helper() {
    for folder in /usr/lib/podman /usr/libexec/podman /usr/local/libexec/podman; do
        [ -x "$folder/$1" ] && return 0
    done
    return 1
}

# The packages of the programs that are missing, in one line. A program counts wherever it comes from: a machine with
# another build of the engine keeps it.
missing_packages() {
    {
        while read -r program package; do
            command -v "$program" >/dev/null 2>&1 || printf '%s\n' "$package"
        done <<'LIST'
dockerd docker.io
docker docker.io
containerd containerd
runc runc
docker-proxy docker.io
ip iproute2
bridge iproute2
tc iproute2
iptables iptables
ip6tables iptables
iptables-legacy iptables
iptables-nft-save iptables
nft nftables
ebtables ebtables
ipset ipset
conntrack conntrack
tcpdump tcpdump
traceroute traceroute
nsenter util-linux
podman podman
conmon conmon
slirp4netns slirp4netns
pasta passt
ssh openssh-client
sshd openssh-server
LIST
        # An image for a container is made of this one file, so it must need no libraries.
        box=$(command -v busybox) && LC_ALL=C ldd "$box" 2>&1 | grep -q 'not a dynamic' || echo busybox-static
        # Podman's helpers for networks and names are not on anybody's PATH.
        for package in netavark aardvark-dns; do
            has_helper "$package" || echo "$package"
        done
        # Scapy compiles filter expressions with it.
        has_libpcap || echo libpcap0.8
    } | sort -u | tr '\n' ' ' | sed 's/ $//'
}

# Newer releases ship the engine's client in a package of its own.
with_client() {
    case " $1 " in
        *' docker.io '*) apt-cache show docker-cli >/dev/null 2>&1 && printf '%s docker-cli\n' "$1" && return ;;
    esac
    printf '%s\n' "$1"
}

# Install packages without starting any service: an engine that came up in the machine's own network namespace would
# change its firewall. invoke-rc.d and deb-systemd-invoke ask policy-rc.d first; 101 forbids.
install() {
    exec 9>/run/nettrace-setup.lock
    flock 9
    if [ -e "$POLICY" ] && grep -qF "$MARK" "$POLICY"; then
        rm -f "$POLICY" # of a run that was killed; the lock says that it is over
    fi
    if [ -e "$POLICY" ]; then
        code=0
        "$POLICY" docker start >/dev/null 2>&1 || code=$?
        if [ "$code" -ne 101 ]; then
            say "this machine's $POLICY lets new services start, and the engine must not. Install by hand:"
            say "apt-get install --no-install-recommends $1"
            return 1
        fi
    else
        trap 'rm -f "$POLICY"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        printf '#!/bin/sh\n%s\nexit 101\n' "$MARK" >"$POLICY"
        chmod 755 "$POLICY"
    fi
    export DEBIAN_FRONTEND=noninteractive
    say "apt-get update"
    apt-get -qq -o DPkg::Lock::Timeout=300 update </dev/null >&2 9>&-
    packages=$(with_client "$1")
    say "apt-get install $packages"
    # shellcheck disable=SC2086 # a list of packages
    apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
        install $packages </dev/null >&2 9>&-
}

can_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; }

case "${1:-}" in
    python)
        find_python && exit 0
        if can_install; then
            install 'python3 python3-venv'
            find_python && exit 0
        fi
        say "Python 3.11 or newer with venv is needed. This machine has: $(python3 --version 2>&1 || echo no Python)."
        say "On Debian 12 and later: sudo apt-get install -y python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3.11 …"
        exit 1
        ;;
    all)
        lacking=$(missing_packages)
        [ -z "$lacking" ] && exit 0
        if can_install; then
            install "$lacking"
            lacking=$(missing_packages)
            [ -z "$lacking" ] && exit 0
            say "still missing after the installation: $lacking"
            exit 1
        fi
        say "missing here, and needed for throw-away hosts. On Debian:"
        say "sudo apt-get install -y --no-install-recommends $lacking"
        [ "$(id -u)" -ne 0 ] # root without apt-get cannot go on; others skip what needs root
        ;;
    *)
        say "usage: $0 python|all"
        exit 2
        ;;
esac
