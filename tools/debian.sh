# What ./test and ./demo need of a Debian machine; to be sourced, with
# `set -euo pipefail`. It installs packages and starts no service by it.
# shellcheck shell=bash

# sbin: nginx and php-fpm; .cargo/bin: a Rust of one's own, also under sudo.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin"

policy=/usr/sbin/policy-rc.d

# as_root COMMAND...: runs it as root; fails where there is no way to be root.
as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

# Whether as_root can work: as root, by sudo without a password, or by asking.
can_be_root() {
    ((EUID == 0)) || { command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; }
}

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# install_missing PACKAGE...: installs those that are not there.
install_missing() {
    local package missing=()
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        echo "nothing is missing"
        return
    fi
    if ! command -v apt-get >/dev/null; then
        echo "missing, and no apt-get to install it with: ${missing[*]}" >&2
        return 1
    fi
    if ! can_be_root; then
        echo "missing; install it as root: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]}"
    install_quietly "${missing[@]}"
}

# A subshell, so that its trap is its own.
install_quietly() (
    before=$(units)
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # policy-rc.d(8): 101 forbids that a package's scripts start a service.
    if [[ ! -e $policy ]]; then
        # Ours is known by its text, in case another one comes meanwhile.
        trap 'rm -f "$log"; grep -qs "for howdah" "$policy" && as_root rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\n# for howdah, while it installs\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    apt="env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120"
    # shellcheck disable=SC2086 # $apt is words
    if ! as_root $apt install --no-install-recommends "$@" >"$log" 2>&1 </dev/null; then
        # No package lists, or old ones. An update that fails for one of several
        # sources may still have brought what is needed.
        as_root $apt update >"$log" 2>&1 </dev/null || true
        if ! as_root $apt install --no-install-recommends "$@" >>"$log" 2>&1 </dev/null; then
            tail -n 30 "$log" >&2
            return 1
        fi
    fi
    leave_disabled "$before"
)

units() {
    find /lib/systemd/system /usr/lib/systemd/system -name '*.service' -printf '%f\n' 2>/dev/null | sort -u
}

# leave_disabled UNITS: services that came since there were UNITS do not start at
# the next boot either, for howdah starts php-fpm itself and a test its own nginx
# and MariaDB (which, with Apache, an application's package may bring).
leave_disabled() {
    local unit
    command -v systemctl >/dev/null || return 0
    for unit in $(comm -13 <(echo "$1") <(units) | grep -E '^(nginx|php.*-fpm|mariadb|apache2)\.service$'); do
        if as_root systemctl --quiet --no-reload disable "$unit" 2>/dev/null; then
            echo "$unit is installed, and neither started nor enabled"
        fi
    done
}

# Says in one line what to install when cargo is missing or too old.
require_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    have=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
    if [[ $(printf '%s\n' "$wanted" "${have:-0}" | sort -V | head -n 1) == "$wanted" ]]; then
        return
    fi
    echo "howdah needs Rust $wanted or later and finds ${have:-none}: install it from https://rustup.rs," \
        "or on Debian 13 by: apt-get install cargo rust-clippy rustfmt" >&2
    return 1
}
