# Shared by the scripts in this folder; sourced with the repository's root as working directory.

say() { printf '\n== %s\n' "$*"; }

fail() { printf '\n!! %s\n' "$*" >&2; exit 1; }

as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

# Install Debian packages; only where that is allowed. One index update a run is enough.
apt_install() {
    as_root || return 1
    if [ -z "${apt_is_updated:-}" ]; then
        apt-get update -qq
        apt_is_updated=1
    fi
    # Servers are for the tests to start: the packages' own would fight for port 80. This file is
    # Debian's way to say so; where there is one already, it stays.
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        policy=
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    installed=0
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        installed=$?
    [ -z "$policy" ] || rm "$policy"
    return "$installed"
}

# Print the name of a Python that is new enough.
find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed; set PYTHON to one."
}

# can_compile PYTHON: say whether there is what the C extension needs: a compiler, Python's headers.
can_compile() {
    command -v gcc >/dev/null 2>&1 &&
        [ -e "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]
}

# Print where pyenv keeps its Pythons, as further entries of PATH; nothing where there is no pyenv.
pyenv_path() {
    command -v pyenv >/dev/null 2>&1 || return 0
    for directory in "$(pyenv root)"/versions/*/bin; do
        printf ':%s' "$directory"
    done
}

# make_venv DIR: make a virtual environment unless there is a working one.
make_venv() {
    if [ -x "$1/bin/python" ] && "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    say "making $1 with $("$python" --version)"
    rm -rf "$1"
    if ! "$python" -m venv "$1" >/dev/null 2>&1; then
        # Debian ships venv without what it needs.
        rm -rf "$1"
        apt_install python3-venv || fail "$python cannot make virtual environments: install python3-venv."
        "$python" -m venv "$1"
    fi
}

# install_into DIR ARGUMENTS...: pip install, quietly.
install_into() {
    venv=$1
    shift
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}
