# Shared by the scripts in this directory, which source it from the root of the repository.

say() { printf '\n== %s\n' "$*"; }

fail() { printf '\n!! %s\n' "$*" >&2; exit 1; }

as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

# Install Debian packages, if that is allowed. Update the index only once.
apt_install() {
    as_root || return 1
    if [ -z "${apt_is_updated:-}" ]; then
        apt-get update -qq
        apt_is_updated=1
    fi
    # Keep the packages from starting their servers, which would compete for port 80: the tests start
    # servers themselves. This file tells Debian so; an existing one is left alone.
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
    fail "Python 3.11 or newer is required: install it, or set PYTHON to its path."
}

# can_compile PYTHON: return whether the compiler and headers for the C extension are installed.
can_compile() {
    command -v gcc >/dev/null 2>&1 &&
        [ -e "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]
}

# Print the directories of pyenv's Pythons, as further entries of PATH; nothing without pyenv.
pyenv_path() {
    command -v pyenv >/dev/null 2>&1 || return 0
    for directory in "$(pyenv root)"/versions/*/bin; do
        printf ':%s' "$directory"
    done
}

# Print the path of a Python of each version that the package supports, where this machine has one.
find_pythons() {
    for name in python3.11 python3.12 python3.13; do
        for directory in $(echo "$PATH$(pyenv_path)" | tr : " "); do
            # pyenv's own commands only run the selected versions.
            if "$directory/$name" -c "" 2>/dev/null; then
                echo "$directory/$name"
                break
            fi
        done
    done
}

# make_venv DIR: create a virtual environment, unless there is a working one.
make_venv() {
    if [ -x "$1/bin/python" ] && "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    say "creating $1 with $("$python" --version)"
    rm -rf "$1"
    if ! "$python" -m venv "$1" >/dev/null 2>&1; then
        # Debian puts a part of venv into another package.
        rm -rf "$1"
        apt_install python3-venv || fail "$python cannot create virtual environments: install python3-venv."
        "$python" -m venv "$1"
    fi
}

# install_into DIR ARGUMENTS...: pip install, quietly.
install_into() {
    venv=$1
    shift
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# Install what builds and tests the JavaScript client. Node is a Python package of the extra "test".
install_client() {
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
    # esbuild's script only saves milliseconds at each start.
    (cd client && npm ci --ignore-scripts --silent)
}
