#!/bin/bash
# How many system calls of x86-64 a filter lets through, for some arguments at
# least: howdah's filters, systemd's @system-service, and docker's default in the
# form in which Debian's golang-github-containers-common ships it (podman's).
#
# usage: tools/count-syscalls.sh [FILE OF DOCKER OR PODMAN]
# Needs jq, linux-libc-dev and systemd.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

# Names on standard input, of which those count that this machine has: by the
# kernel's headers, and what is newer than Debian 12's.
count() {
    sort -u | comm -12 - <({
        echo fchmodat2
        sed -n 's/^#define __NR_\([a-z0-9_]*\) .*/\1/p' /usr/include/x86_64-linux-gnu/asm/unistd_64.h
    } | sort) | wc -l
}

# A set of systemd's and the sets in it.
expand() {
    local name
    systemd-analyze syscall-filter "$1" | sed -n 's/^ *\([@a-z0-9_-]*\)$/\1/p' | while read -r name; do
        case $name in
            "$1") ;;
            @*) expand "$name" ;;
            *) echo "$name" ;;
        esac
    done
}

for filter in strict hosting compat; do
    printf '%-28s %s\n' "howdah $filter" "$(jq -r '.syscalls[] | select(.action == "SCMP_ACT_ALLOW").names[]' \
        "profiles/seccomp/$filter.json" | count)"
done
printf '%-28s %s\n' 'systemd @system-service' "$(expand @system-service | count)"
docker=${1:-/usr/share/containers/seccomp.json}
if [[ -e $docker ]]; then
    # Without capabilities: groups that need one do not count.
    printf '%-28s %s\n' 'docker, podman: default' "$(jq -r '.syscalls[]
        | select(.action == "SCMP_ACT_ALLOW")
        | select(((.includes.caps // []) | length) == 0)
        | select((.includes.arches // ["amd64"]) | index("amd64"))
        | .names[]' "$docker" | count)"
else
    echo "docker's default: not here (apt-get install golang-github-containers-common)"
fi
