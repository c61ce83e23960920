#!/usr/bin/env bash
# The soft token of opencryptoki, and the daemon that it needs. Both belong to the machine: paths are compiled into the
# module, so DIR holds only the PINs, and whoever runs this at the same time gets the same token. Needs root.
#
#   eval "$(softhsm-test/opencryptoki.sh /tmp/ock)"
#   pkcs11-tool --module "$HSM_MODULE" -L
#   softhsm-test/opencryptoki.sh /tmp/ock wipe    # initialise the token anew: every object is gone
#   softhsm-test/opencryptoki.sh /tmp/ock stop    # end the daemon, if this script started it
#
# A token that another hand initialised with other PINs is wiped by removing /var/lib/opencryptoki/swtok/* while no daemon
# runs. To clean up: stop, then remove DIR.
usage='DIR [wipe|stop]'
. "$(dirname -- "${BASH_SOURCE[0]}")/part.sh"

need pkcsslotd
need pkcsconf
need flock
dir=$(part_dir "${1:-}")
action=${2:-start}
module=$(library pkcs11/libopencryptoki.so)
label=keywright-ock
started=/run/keywright-pkcsslotd.pid

[ "$(id -u)" -eq 0 ] || die 'needs root: the slot daemon and its directories belong to root'
exec 9>/run/lock/keywright-opencryptoki
flock -w 60 9 || die 'another run holds the lock for a minute'

running() {
  local pid
  pid=$(cat /run/pkcsslotd.pid 2>/dev/null) && [ "$(cat "/proc/${pid:-0}/comm" 2>/dev/null)" = pkcsslotd ]
}

if [ "$action" = stop ]; then
  pid=$(cat "$started" 2>/dev/null) || exit 0
  if running && [ "$(cat /run/pkcsslotd.pid)" = "$pid" ]; then
    kill "$pid"
    for _ in $(seq 100); do running || break; sleep 0.05; done
  fi
  rm -f "$started"
  exit 0
fi

if ! running; then
  # /run is empty after a start of the machine; Debian's init script makes these too.
  mkdir -p /run/lock/opencryptoki/{swtok,icsf,tpm,lite,ccatok,ep11tok}
  chgrp -R pkcs11 /run/lock/opencryptoki
  chmod -R 0770 /run/lock/opencryptoki
  rm -f /run/pkcsslotd.socket
  pkcsslotd 9>&- >/dev/null 2>&1 </dev/null || die 'pkcsslotd does not start'
  for _ in $(seq 100); do [ -S /run/pkcsslotd.socket ] && running && break; sleep 0.05; done
  running || die 'pkcsslotd ended at once; its messages are in syslog'
  cp /run/pkcsslotd.pid "$started"
fi

# The slot of the soft token, found by its model: numbers follow /etc/opencryptoki/opencryptoki.conf.
info=$(pkcsconf -t)
slot=$(awk '/^Token #/ { sub(/#/, "", $2); slot = $2 } /Model: IBM SoftTok/ { print slot; exit }' <<<"$info")
[ -n "$slot" ] || die 'opencryptoki shows no soft token'

keep "$dir/pin" '' 648219
keep "$dir/so-pin" '' 97531086

wipe() { # with the SO's PIN as it is now
  printf '%s\n%s\n' "$1" "$label" | pkcsconf -I -c "$slot" >/dev/null
}
fresh=''
if ! awk -v want="$slot" '/^Token #/ { here = ($2 == "#" want) } here && /Label: keywright-ock/ { found = 1 } END { exit !found }' <<<"$info"; then
  # A new token has the SO's PIN 87654321 and demands that it be changed.
  wipe 87654321 || die "the token is another's; see the head of this script"
  pkcsconf -P -c "$slot" -S 87654321 -n "$(cat "$dir/so-pin")" >/dev/null
  fresh=yes
elif [ "$action" = wipe ]; then
  wipe "$(cat "$dir/so-pin")" || die 'the token does not take the SO PIN of this directory'
  fresh=yes
fi
if [ -n "$fresh" ]; then
  # The PIN that the SO sets has to be changed by the user before use.
  pkcsconf -u -c "$slot" -S "$(cat "$dir/so-pin")" -n 12345678 >/dev/null
  pkcsconf -p -c "$slot" -U 12345678 -n "$(cat "$dir/pin")" >/dev/null
fi

describe "$module" "$label" 123 "$dir/pin" "$dir/so-pin"
