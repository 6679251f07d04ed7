#!/bin/bash
# The attacks of `howdah audit` from inside other launchers: see docs/peers.md.
set -euo pipefail
repository=$(dirname "$(dirname "$(readlink -f "$0")")")

usage() {
    cat <<'END'
usage: tools/peers.sh [OPTION...] [PEER...]

Runs the attacks of src/attack.rs from inside php-fpm, its chroot, systemd units,
bwrap, podman, systemd-nspawn and howdah, one after the other, in a guest with Debian
(tests/vm), as its root, and prints a line for each. PEER names some of them:
php-fpm chroot systemd systemd-more bwrap podman podman-rootless nspawn hosting strict

  --release N    Debian 12 (the default) or 13
  --here         on this machine instead, in mounts of its own: needs root, and for
                 the systemd units systemd; what is not installed is left out
  --markdown     the tables and lists of docs/peers.md
  --howdah FILE  this program, instead of what cargo builds
  --json         every card as a line of JSON
  --from FILE    the cards from FILE, where --json has put them; nothing is run
  --timeout S    for the guest (3000)
END
}

peers=() release=12 here='' format=lines from='' howdah='' timeout=3000
while (($#)); do
    case $1 in
        --release) release=${2-} && shift ;;
        --here) here=1 ;;
        --markdown | --json) format=${1#--} ;;
        --from) from=${2-} && shift ;;
        --howdah) howdah=${2-} && shift ;;
        --timeout) timeout=${2-} && shift ;;
        --help | -h) usage && exit ;;
        -*) usage >&2 && exit 2 ;;
        *) peers+=("$1") ;;
    esac
    shift || { usage >&2 && exit 2; }
done

# howdah as cargo builds it, without debug information: it is nine tenths of it.
build() {
    local program=$howdah
    [[ -n $program ]] || program=$(cd "$repository" && cargo build --locked --message-format=json 2>/dev/null |
        jq -r 'select(.reason == "compiler-artifact" and .executable != null and .target.name == "howdah").executable')
    objcopy --strip-debug "$program" "$1"
    chmod 755 "$1"
}

cards() {
    if [[ -n $from ]]; then
        cat "$from"
        return
    fi
    build "$scratch/howdah"
    if [[ -n $here ]]; then
        # shellcheck disable=SC2016
        unshare --mount --propagation private sh -c '
            mount -t tmpfs -o mode=755 tmpfs /srv && mount -t tmpfs -o mode=755 tmpfs /mnt && exec "$@"' sh \
            "$repository/tools/peers/measure" "$scratch/howdah" "$@"
    else
        "$repository/tests/vm/run" --timeout "$timeout" --with "$scratch/howdah:/usr/local/bin/howdah" \
            --with "$repository/tools/peers:/opt/peers" "$release" /opt/peers/measure /usr/local/bin/howdah "$@"
    fi
}

# The headings of src/attack.rs and the attacks below each, as JSON.
groups() {
    awk '
        /^pub const ATTACKS/ { inside = 1 }
        inside && /^    \/\/ / { sub(/^    \/\/ /, ""); sub(/[.:].*$/, ""); group = $0 }
        inside && /^    (naked|outside)\(/ { wanted = 1 }
        inside && wanted && match($0, /"[a-z0-9-]+"/) {
            printf "{\"group\":\"%s\",\"attack\":%s}\n", group, substr($0, RSTART, RLENGTH)
            wanted = 0
        }
        inside && /^];/ { exit }' "$repository/src/attack.rs" | jq -s '
        reduce .[] as $it ([]; if (.[-1].group // "") == $it.group
            then .[-1].attacks += [$it.attack] else . + [{group: $it.group, attacks: [$it.attack]}] end)'
}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/howdah-peers.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM HUP
cards "${peers[@]}" >"$scratch/cards"
[[ -s $scratch/cards ]] || { echo "tools/peers.sh: nothing was measured" >&2 && exit 1; }
case $format in
    json) cat "$scratch/cards" ;;
    lines) jq -r '"\(.peer): \(.card.held) of \(.card.held + .card.open) held, \(.card.not_tried) not tried (\(.with), kernel \(.card.kernel))"' "$scratch/cards" ;;
    markdown)
        groups >"$scratch/groups"
        jq -rs --slurpfile groups "$scratch/groups" -f "$repository/tools/peers/table.jq" "$scratch/cards"
        ;;
esac
